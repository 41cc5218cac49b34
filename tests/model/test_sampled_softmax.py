"""A sample of items: whole where the catalogue is small, right in the mean where it is not."""

from __future__ import annotations

import pytest
import torch

from recbole_reg4rec.model.sampled_softmax import draw_sample


def test_a_catalogue_of_no_more_items_takes_part_whole_and_nothing_is_drawn() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert draw_sample(torch.tensor([[1, 2], [0, 3]]), 10, 10) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert draw_sample(torch.tensor([1, 2]), 11, 10) is not None


def test_the_batchs_own_are_there_as_themselves_and_others_stand_for_the_rest() -> None:
    own = torch.tensor([[7, 3, 0], [3, 90, 0]])
    sample = draw_sample(own, 100, 20)
    assert sample is not None
    items, weights = sample.items, sample.log_weights.exp()
    assert items[0] == 0 and (items.diff() > 0).all() and items[-1] <= 100
    assert set(sample.places(own).flatten().tolist()) == {0, *sample.places(torch.tensor([3, 7, 90])).tolist()}
    assert torch.equal(items[sample.places(own)], own)
    mine = torch.isin(items, own)
    assert torch.equal(weights[mine], torch.ones(4))
    assert 10 < int((~mine).sum()) <= 20
    assert float(weights[~mine].sum()) == pytest.approx(97, rel=1e-5)
    assert weights[~mine].unique().numel() == 1


def test_the_weighted_sum_is_that_of_all_items_in_the_mean() -> None:
    values = torch.randn(201, generator=torch.Generator().manual_seed(1)).exp()
    own = torch.tensor([5, 17, 140])
    torch.manual_seed(2)
    sums = []
    for _ in range(3_000):
        sample = draw_sample(own, 200, 40)
        assert sample is not None
        sums.append(float((values[sample.items] * sample.log_weights.exp())[1:].sum()))
    drawn = torch.tensor(sums)
    error = float(drawn.std()) / len(sums) ** 0.5
    assert float(drawn.mean()) == pytest.approx(float(values[1:].sum()), abs=4 * error)
    assert 0 < error < 0.01 * float(values[1:].sum())


def test_a_batch_of_all_items_leaves_none_to_draw() -> None:
    sample = draw_sample(torch.arange(1, 7), 6, 3)
    assert sample is not None
    assert torch.equal(sample.items, torch.arange(7)) and not sample.log_weights.any()
