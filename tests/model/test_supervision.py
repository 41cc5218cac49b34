"""Stage 1 of reasoning: what the walk along the true paths costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from recbole_reg4rec.model.catalogue_scorer import CatalogueScorer
from recbole_reg4rec.model.supervision import category_loss


@pytest.mark.parametrize("order", ["confidence", "random", "fixed"])
@pytest.mark.parametrize(("kind", "later"), [("codebook", 1.0), ("catalogue", 0.0)])
def test_an_untrained_model_is_as_unsure_as_the_catalogue_is_large(
    toy_data: Any, order: str, kind: str, later: float
) -> None:
    settings = {"training_order": order, "token_softmax": kind, "later_steps": later, "category_weight": 0.0}
    toy = toy_data(hidden_dropout_prob=0.0, grounded=kind == "catalogue", **settings)
    losses = toy.model.eval().calculate_loss(next(iter(toy.data.train)))
    # Near-uniform tokens over what is feasible cost about log(items) nats a target, in any order; so does the item at
    # the first step.
    assert float(losses[0].detach()) == pytest.approx(math.log(12), abs=0.9)
    assert float(losses[1].detach()) == 0.0


@pytest.mark.parametrize("repeat", [False, True])
def test_later_steps_are_trained_on_a_share_of_the_rows_and_as_on_all_in_the_mean(
    toy_data: Any, monkeypatch: pytest.MonkeyPatch, repeat: bool
) -> None:
    settings = {
        "repeat": repeat,
        "hidden_dropout_prob": 0.0,
        "training_order": "fixed",
        "category_weight": 0.0,
        "codebooks": 3,
    }
    settings |= {"reasoning_steps": 3, "later_steps": 1.0}
    plain = CatalogueScorer.loss
    losses: dict[float, list[float]] = {}
    sizes: dict[float, set[int]] = {}
    for share in (1.0, 0.3):
        toy = toy_data(name=f"toy{share}", **settings, later_share=share)
        model, batch = toy.model.eval(), next(iter(toy.data.train))
        asked: list[int] = []

        def watched(scorer: Any, states: Any, *rest: Any, asked: Any = asked) -> Any:
            asked.append(len(states))
            return plain(scorer, states, *rest)

        monkeypatch.setattr(CatalogueScorer, "loss", watched)
        torch.manual_seed(0)
        losses[share] = [float(model.calculate_loss(batch)[0].detach()) for _ in range(80 if share < 1.0 else 1)]
        assert set(asked[::3]) == {asked[0]}, "the first step is taken everywhere"
        sizes[share] = {*asked[1::3], *asked[2::3]}
        everywhere = asked[0]
    assert sizes[1.0] == {everywhere}
    assert len(sizes[0.3]) > 1 and min(sizes[0.3]) < 0.5 * everywhere
    # Rows are drawn alike, and every row has as many targets.
    assert sum(losses[0.3]) / 80 == pytest.approx(losses[1.0][0], rel=0.03)


def test_categories_cost_in_equal_shares_and_nothing_where_there_are_none() -> None:
    chances = torch.tensor([[1e-6, 0.5, 0.25, 0.25], [1e-6, 0.2, 0.2, 0.6], [1e-6, 0.1, 0.8, 0.1]])
    members = torch.tensor([[1, 2], [3, 0], [0, 0]])
    expected = -(0.5 * math.log(0.5) + 0.5 * math.log(0.25) + math.log(0.6)) / 2
    assert float(category_loss(chances.log(), members)) == pytest.approx(expected, abs=1e-4)
    assert float(category_loss(chances[2:].log(), members[2:])) == 0.0
