"""The rewards of PARS: the method's own examples, and what follows from their definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.alignment.rewards import (
    RewardWeights,
    category_hit,
    global_path,
    path_rewards,
    step_consistency,
    step_hit,
)
from recbole_reg4rec.errors import UserError


def path(*steps: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Codebooks and tokens of a path."""
    books, tokens = zip(*steps, strict=True)
    return torch.tensor(books), torch.tensor(tokens)


@pytest.mark.parametrize(
    ("steps", "hits", "whole"),
    [
        (((0, 5), (1, 6), (2, 9)), 2.0, 0.0),  # two of three
        (((2, 7), (0, 5), (1, 6)), 3.0, 1.0),  # all, in another order
        (((0, 6), (1, 5), (2, 0)), 0.0, 0.0),  # right words of the wrong codebooks
    ],
)
def test_step_hit_and_global_path(steps, hits, whole):
    target = torch.tensor([5, 6, 7])
    assert step_hit(*path(*steps), target).item() == hits
    assert global_path(*path(*steps), target).item() == whole


@pytest.mark.parametrize(
    ("steps", "target", "hits"),
    [
        ((30, 30, 30), (30,), 3.0),
        ((27, 30, 30), (30,), 2.0),
        ((30, 30, 30), (27,), 0.0),
        ((27, 30, 31), (30, 27), 2.0),  # an item of two categories
        ((0, 0, 30), (30, 0), 1.0),  # 0 is no category, also where it fills up
        ((0, 0, 0), (0, 0), 0.0),
    ],
)
def test_category_hit(steps, target, hits):
    assert category_hit(torch.tensor(steps), torch.tensor(target)).item() == hits


@pytest.mark.parametrize(
    ("steps", "earned"), [((30, 30, 30), 2.0), ((27, 30, 30), 1.0), ((30, 27, 30), 0.0), ((0, 0, 5), 0.0), ((4,), 0.0)]
)
def test_step_consistency_needs_no_target(steps, earned):
    assert step_consistency(torch.tensor(steps)).item() == earned


def test_all_rewards_over_several_targets_equal_those_one_by_one():
    draw = torch.Generator().manual_seed(0)
    contexts, paths, future, books = 5, 4, 3, 3

    def numbers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=draw)

    order = torch.rand(contexts, paths, books, generator=draw).argsort(-1)
    tokens, steps = numbers(2, contexts, paths, books), numbers(3, contexts, paths, books)
    targets, categories = numbers(2, contexts, future, books), numbers(3, contexts, future, 2)
    shares = torch.rand(contexts, future, generator=draw)
    shares = shares / shares.sum(1, keepdim=True)
    found = path_rewards(order, tokens, steps, targets, categories, shares)
    without = path_rewards(order, tokens, None, targets, categories, shares)
    for kind in found:
        # Steps that hold no category earn nothing by it, which need not be worked out.
        expected = found[kind] if kind in ("step_hit", "global_path") else torch.zeros(contexts, paths)
        assert torch.equal(without[kind], expected)
    for r in range(contexts):
        for g in range(paths):
            taken = {int(b): int(a) for b, a in zip(order[r, g], tokens[r, g], strict=True)}
            hits = [sum(taken[b] == int(targets[r, n, b]) for b in range(books)) for n in range(future)]
            kinds = [{int(k) for k in categories[r, n]} - {0} for n in range(future)]
            in_kind = [sum(int(k) in kinds[n] for k in steps[r, g]) for n in range(future)]
            share = shares[r].tolist()
            expected = {
                "step_hit": sum(w * h for w, h in zip(share, hits, strict=True)),
                "global_path": sum(w * (h == books) for w, h in zip(share, hits, strict=True)),
                "category_hit": sum(w * h for w, h in zip(share, in_kind, strict=True)),
                "step_consistency": step_consistency(steps[r, g]).item(),
            }
            assert {kind: values[r, g].item() for kind, values in found.items()} == pytest.approx(expected, abs=1e-6)


def test_a_weight_of_zero_switches_off_and_all_of_them_is_refused():
    assert not RewardWeights(1.0, 1.0, 0.0, 0.0).need_categories
    assert RewardWeights(0.0, 0.0, 0.0, 0.5).need_categories
    with pytest.raises(UserError, match="reward_step_hit.*reward_step_consistency.*all 0"):
        RewardWeights(0.0, 0.0, 0.0, 0.0)
