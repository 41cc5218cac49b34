"""Attention with a cache equals attention over everything; cheap dropout is still dropout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_reg4rec.model.layers import Attention, Dropout


def test_dropout_rate_and_mean() -> None:
    torch.manual_seed(0)
    for probability in (0.1, 0.5, 0.9):
        level = round(256 * probability) / 256
        out = Dropout(probability).train()(torch.ones(400_003))
        assert float((out == 0).float().mean()) == pytest.approx(level, abs=0.004)
        assert float(out.mean()) == pytest.approx(1.0, abs=0.02)
        assert torch.allclose(out[out > 0], torch.tensor(1 / (1 - level)))


def test_dropout_of_almost_everything_leaves_something_finite() -> None:
    torch.manual_seed(0)
    found = Dropout(0.9999)(torch.ones(100_000))
    assert found.isfinite().all() and 0 < (found > 0).float().mean() < 0.01


def test_dropout_is_nothing_in_evaluation_or_at_zero_and_follows_the_seed() -> None:
    x = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5).train()(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_dropout_passes_gradients_where_it_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(64, requires_grad=True)
    out = Dropout(0.5).train()(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_step_by_step_attention_equals_causal_attention_over_all_steps() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0)
    steps = torch.randn(3, 4, 5, 8)  # users, paths, steps, width
    cache, outputs = None, []
    for step in range(5):
        out, cache = attention.over_steps(steps[:, :, step], cache)
        outputs.append(out)
    flat = steps.flatten(0, 1)
    whole = attention(flat, attention.keys_values(flat), causal=True)
    assert torch.allclose(torch.stack(outputs, 2).flatten(0, 1), whole, atol=1e-5)


def test_attention_against_its_formula() -> None:
    torch.manual_seed(1)
    attention = Attention(4, 1, 0.0)
    x, source = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.rand(3, 5) > 0.3
    mask[:, 0] = True
    keys, values = attention.key_value(source).chunk(2, dim=-1)
    scores = attention.query(x) @ keys.transpose(1, 2) / 2.0
    weights = F.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
    expected = attention.out(weights @ values)
    assert torch.allclose(attention(x, attention.keys_values(source), mask), expected, atol=1e-5)
