"""Weights of the evidence, chosen on validation: known answers, the standard error, what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_reg4rec.trainer.weights import candidates, fit_weights, rank_metric

GIVEN = {"reason": 0.5, "recognise": 1.0, "remember": 1.0, "repeat": 1.0}


class Fixed:
    """Says what it is told, batch by batch."""

    def __init__(self, **evidence: Tensor) -> None:
        self._evidence = evidence

    def evidence(self, interaction: slice) -> dict[str, Tensor]:
        return {kind: scores[interaction] for kind, scores in self._evidence.items()}


def batches(targets: Tensor, size: int = 50, seen: Any = None) -> list[Any]:
    cuts = range(0, len(targets), size)
    return [(slice(at, at + size), targets[at : at + size], seen) for at in cuts]


def one_hot(items: Tensor, count: int, height: float) -> Tensor:
    return torch.zeros(len(items), count).scatter(1, items.unsqueeze(1), height)


def test_what_is_tried() -> None:
    tried = candidates(GIVEN, ["reason", "recognise", "remember", "repeat"])
    assert tried[0] == GIVEN and len(tried) == 4 * 7 * 3
    assert {w["recognise"] for w in tried} == {1.0}
    assert {w["reason"] for w in tried} == {0.0, 0.5, 1.0, 2.0}
    # Off stays off, and without recognise reason is what the others are measured by.
    assert {w["repeat"] for w in candidates({**GIVEN, "repeat": 0.0}, GIVEN)} == {0.0}
    without = candidates(GIVEN, ["reason", "remember"])
    assert {w["reason"] for w in without} == {0.5} and len(without) == 7
    assert candidates(GIVEN, ["reason"]) == [GIVEN]
    some = candidates(GIVEN, GIVEN, ["remember"])
    assert {w["remember"] for w in some} == {0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0} and len(some) == 7
    assert candidates(GIVEN, GIVEN, []) == [GIVEN]
    habit = candidates(GIVEN, ["recognise", "repeat"], habit=True)
    assert [w["repeat"] for w in habit] == [1.0, 0.5, 2.0, 4.0, 8.0]


def test_evidence_that_is_right_gains_weight_and_misleading_evidence_loses_it() -> None:
    targets = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0))
    wrong = targets % 39 + 1
    recognise = one_hot(wrong, 40, 1.5)
    right = Fixed(recognise=recognise, remember=one_hot(targets, 40, 1.0))
    fit = fit_weights(right, batches(targets), GIVEN, "NDCG@1")
    assert fit is not None and fit.weights["remember"] == 2.0
    assert (fit.given_score, fit.score, fit.users) == (0.0, 1.0, 200)
    assert fit.given == GIVEN
    misled = Fixed(recognise=one_hot(targets, 40, 0.9), remember=one_hot(wrong, 40, 1.0))
    fit = fit_weights(misled, batches(targets), GIVEN, "MRR@5")
    assert fit is not None and fit.weights["remember"] < 0.9
    assert (fit.given_score, fit.score) == (0.5, 1.0)


@pytest.mark.parametrize(("sign", "weight"), [(1.0, 4.0), (-1.0, 1.0)])
def test_where_repeating_speaks_for_items_much_more_of_it_is_tried(sign: float, weight: float) -> None:
    # The item path prefers another item by 3; what repeating says for the target is 1, so that it takes four of it.
    targets = torch.full((60,), 3)
    recognise = one_hot(torch.full((60,), 5), 10, 3.0)
    model = Fixed(recognise=recognise, repeat=one_hot(targets if sign > 0 else targets + 4, 10, sign))
    fit = fit_weights(model, batches(targets), GIVEN, "Recall@1")
    assert fit is not None and fit.weights["repeat"] == weight and fit.score == (sign > 0)


def test_chance_moves_nothing() -> None:
    # Of a hundred users two would gain and one would lose: less than a standard error.
    targets = torch.full((100,), 3)
    recognise, remember = one_hot(targets, 10, 5.0), torch.zeros(100, 10)
    recognise[:3] = 0.0
    recognise[:2, 4], remember[:2, 3] = 1.4, 1.0
    recognise[2, 3], remember[2, 4] = 1.2, 1.0
    fit = fit_weights(Fixed(recognise=recognise, remember=remember), batches(targets), GIVEN, "Recall@1")
    assert fit is not None and fit.weights == GIVEN and fit.score == fit.given_score == pytest.approx(0.98)


def test_how_sure_it_has_to_be() -> None:
    # Of a hundred users three would gain: 1.7 standard errors.
    targets = torch.full((100,), 3)
    recognise, remember = one_hot(targets, 10, 5.0), torch.zeros(100, 10)
    recognise[:3], remember[:3, 3] = one_hot(torch.full((3,), 4), 10, 1.4), 1.0
    model = Fixed(recognise=recognise, remember=remember)
    kept, moved = (fit_weights(model, batches(targets), GIVEN, "Recall@1", errors=e) for e in (2.0, 1.5))
    assert kept is not None and kept.weights == GIVEN and kept.score == pytest.approx(0.97)
    assert moved is not None and moved.weights["remember"] > 1.4 and moved.score == 1.0


def test_masked_items_are_out_of_the_ranking() -> None:
    targets = torch.full((60,), 3)
    recognise = one_hot(torch.full((60,), 5), 10, 4.0) + one_hot(targets, 10, 1.0)
    model = Fixed(recognise=recognise, remember=torch.zeros(60, 10))
    plain = fit_weights(model, batches(targets, 60), GIVEN, "Recall@1")
    seen = torch.arange(60), torch.full((60,), 5)
    masked = fit_weights(model, batches(targets, 60, seen), GIVEN, "Recall@1")
    assert plain is not None and masked is not None
    assert (plain.score, masked.score) == (0.0, 1.0)
    own = fit_weights(model, batches(targets, 60, (torch.arange(60), targets)), GIVEN, "Recall@20")
    assert own is not None and own.score == 0.0, "a target ruled out is never found"


def test_so_many_users_are_enough() -> None:
    targets = torch.full((100,), 3)
    model = Fixed(recognise=one_hot(targets, 10, 1.0), remember=torch.zeros(100, 10))
    read: list[int] = []

    def counted() -> Any:
        for batch in batches(targets, 20):
            read.append(len(batch[1]))
            yield batch

    fit = fit_weights(model, counted(), GIVEN, "Recall@1", most_users=30)
    assert fit is not None and fit.users == 40 and read == [20, 20]


def test_nothing_to_choose() -> None:
    targets = torch.tensor([1, 2])
    assert fit_weights(Fixed(reason=torch.zeros(2, 5)), batches(targets), GIVEN, "NDCG@10") is None
    both = Fixed(recognise=torch.zeros(2, 5), remember=torch.zeros(2, 5))
    assert fit_weights(both, batches(targets), GIVEN, "ItemCoverage@10") is None
    assert fit_weights(both, [], GIVEN, "NDCG@10") is None


@pytest.mark.parametrize(
    ("name", "values"),
    [("Recall@2", [1, 1, 0, 0]), ("NDCG@2", [1, 1 / np.log2(3), 0, 0]), ("mrr@3", [1, 1 / 2, 1 / 3, 0]),
     ("Precision@2", [0.5, 0.5, 0, 0]), ("hit@3", [1, 1, 1, 0])],
)  # fmt: skip
def test_metrics_of_ranks(name: str, values: list[float]) -> None:
    value = rank_metric(name)
    assert value is not None
    assert value(np.array([1, 2, 3, 0])) == pytest.approx(values)
