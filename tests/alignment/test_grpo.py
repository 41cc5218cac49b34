from __future__ import annotations

import pytest
import torch

from recbole_reg4rec.alignment.grpo import clipped_objective, divergence, entropy, group_advantages


def test_advantages_are_standardised_within_each_group():
    rewards = torch.tensor([[0.0, 1.0, 2.0, 5.0], [3.0, 3.0, 3.0, 3.0], [1.0, 0.0, 0.0, 0.0]])
    advantages, signal = group_advantages(rewards)
    assert signal.tolist() == [True, False, True]
    assert advantages[1].tolist() == [0.0] * 4, "equal rewards teach nothing"
    for row in (0, 2):
        assert advantages[row].mean().item() == pytest.approx(0.0, abs=1e-6)
        assert advantages[row].square().mean().item() == pytest.approx(1.0, abs=1e-5)
    # Neither scale nor offset of a reward matters.
    assert torch.allclose(group_advantages(7.0 * rewards - 3.0)[0], advantages, atol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # far enough up already
        (0.5, 2.0, 1.0, 1.0),  # a good token that became rare: back up
        (0.5, -2.0, -1.6, 0.0),  # far enough down already
        (1.5, -2.0, -3.0, -3.0),  # a bad token that became likely: back down
    ],
)
def test_the_ratio_is_clipped_only_where_it_runs_ahead(ratio, advantage, value, slope):
    log_prob = torch.tensor(ratio).log().requires_grad_()
    found = clipped_objective(log_prob, torch.tensor(0.0), torch.tensor(advantage), 0.2)
    found.backward()
    assert found.item() == pytest.approx(value) and log_prob.grad.item() == pytest.approx(slope)


def test_divergence_and_entropy_against_torch_and_without_nan():
    torch.manual_seed(0)
    feasible = torch.tensor([[True, True, True, True], [True, False, True, False], [False, True, False, False]])
    logits = torch.randn(3, 4).masked_fill(~feasible, float("-inf")).requires_grad_()
    other = torch.randn(3, 4).masked_fill(~feasible, float("-inf")).log_softmax(-1)
    log_probs = logits.log_softmax(-1)
    for row in range(3):
        mine = torch.distributions.Categorical(logits=log_probs[row][feasible[row]])
        theirs = torch.distributions.Categorical(logits=other[row][feasible[row]])
        expected = torch.distributions.kl_divergence(mine, theirs).item()
        assert divergence(log_probs, other)[row].item() == pytest.approx(expected, abs=1e-6)
        assert entropy(log_probs)[row].item() == pytest.approx(mine.entropy().item(), abs=1e-6)
    divergence(log_probs, other).sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[0].abs().sum() > 0
    assert torch.equal(divergence(log_probs, log_probs), torch.zeros(3))
