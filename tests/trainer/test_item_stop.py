"""The watch over the item path, with a model that says what it is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_reg4rec.trainer.item_stop import ItemStop, item_stop
from recbole_reg4rec.trainer.weights import rank_metric

TARGETS = torch.tensor([1, 2])


class Told:
    """Two items each; its weight is what epoch it is."""

    def __init__(self) -> None:
        self.item_path_stopped, self.keeps_rest = False, False
        self.rest: Tensor | None = None
        self.part = nn.Linear(1, 1, bias=False)

    def item_parts(self) -> dict[str, nn.Module]:
        return {"item_path": self.part}


def watch(model: Told, patience: int = 2) -> ItemStop:
    value = rank_metric("MRR@10")
    assert value is not None
    return ItemStop(model, patience, value)


def validate(watched: ItemStop, model: Told, epoch: int, hits: int, seen: Any = None) -> tuple[dict[str, Any], bool]:
    """A validation in which ``hits`` of the two targets come first, the others second."""
    with torch.no_grad():
        model.part.weight.fill_(epoch)
    watched.begin()
    if model.keeps_rest:
        model.rest = torch.zeros(2, 3)
        for row in range(2):
            model.rest[row, TARGETS[row] if row < hits else 3 - TARGETS[row]] = 1.0
            model.rest[row, 0] = -1.0
    watched.add(TARGETS, seen)
    found = watched.judge()
    assert not model.keeps_rest and model.rest is None
    return found, watched.settle()


def test_it_stops_after_so_many_misses_and_goes_back_to_the_best() -> None:
    model = Told()
    watched = watch(model)
    assert validate(watched, model, 1, 1) == ({"valid_score_without_paths": 0.75}, False)
    assert validate(watched, model, 2, 2) == ({"valid_score_without_paths": 1.0}, False)
    assert validate(watched, model, 3, 2) == ({"valid_score_without_paths": 1.0}, False), "equal is not better"
    assert model.part.weight.item() == 3.0
    assert validate(watched, model, 4, 0) == ({"valid_score_without_paths": 0.5}, True)
    assert model.item_path_stopped and model.part.weight.item() == 2.0
    # Later validations have nothing to judge any more.
    assert validate(watched, model, 9, 2) == ({}, False)
    assert watched.best_score == 1.0


def test_a_miss_is_forgotten_when_it_gets_better() -> None:
    model = Told()
    watched = watch(model)
    for epoch, hits in enumerate([1, 0, 2, 1]):
        assert not validate(watched, model, epoch, hits)[1]
    assert validate(watched, model, 5, 1)[1] and model.part.weight.item() == 2.0


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_its_state_continues_it(cut: int) -> None:
    scores = [1, 2, 1, 0, 2]
    one, other = Told(), Told()
    whole, first = watch(one), watch(other)
    expected = [validate(whole, one, epoch, hits) for epoch, hits in enumerate(scores)]
    found = [validate(first, other, epoch, hits) for epoch, hits in enumerate(scores[:cut])]
    third = Told()
    second = watch(third)
    second.load(first.state())
    found += [validate(second, third, cut + epoch, hits) for epoch, hits in enumerate(scores[cut:])]
    assert found == expected and third.item_path_stopped


def test_masked_items_are_out_of_the_ranking() -> None:
    model = Told()
    others = (torch.tensor([0, 1]), torch.tensor([2, 1]))
    assert validate(watch(model), model, 1, 0, others)[0] == {"valid_score_without_paths": 1.0}
    own = (torch.tensor([0]), torch.tensor([1]))
    assert validate(watch(model), model, 1, 2, own)[0] == {"valid_score_without_paths": 0.5}


@pytest.mark.parametrize(
    ("settings", "watched"),
    [
        ({}, True),
        ({"item_stopping_step": 0}, False),
        ({"valid_metric": "ItemCoverage@10", "metrics": ["ItemCoverage"]}, False),
        ({"reason": False}, False),
        ({"item_path": False}, False),
        ({"recognise_weight": 0.0}, False),
    ],
)
def test_where_there_is_one(toy_data: Any, settings: dict[str, Any], watched: bool) -> None:
    toy = toy_data(**{"item_path": True, "item_stopping_step": 2, "valid_metric": "NDCG@10", **settings})
    assert (item_stop(toy.config, toy.model) is not None) == watched
