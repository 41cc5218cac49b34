"""Weights of the kinds of evidence, chosen on validation (docs/method.md, 5; our extension).

One pass over validation users: a batch's evidence is computed once and ranked under every candidate. The weights of the
settings are kept unless others are better by more than one standard error over users, so that a small validation part
moves nothing by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_reg4rec.trainer.collector import ranks_from_one
from recbole_reg4rec.trainer.heap import ReleasesFreeMemory
from recbole_reg4rec.trainer.measures import gains, hits, reciprocals

# What each setting is multiplied by. Recognise stays, since only ratios count; without it reason does.
_FACTORS = {
    "reason": (0.0, 1.0, 2.0, 4.0),
    "control": (0.0, 1.0, 2.0, 4.0),
    "remember": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    "repeat": (0.5, 1.0, 2.0),
}
# Besides, where repeating speaks for items: its odds are learned beside the item path alone, and count for little
# beside a memory of several times its weight. Where it only rules items out, more of it changes nothing.
_FACTORS_OF_HABIT = {"repeat": (4.0, 8.0)}
_MOST_USERS = 10_000
# Before a validation in training: so many of them, of the weights those of what may suit the data least, and only what
# is better for sure, lest every validation be judged by others.
JUDGING: dict[str, Any] = {"most_users": 2_000, "varied": ("remember", "repeat"), "errors": 2.0}

Weights = dict[str, float]


class WeighedModel(Protocol):
    """A model that ranks by a weighted sum."""

    def evidence(self, interaction: Any) -> dict[str, Tensor]:
        """Each kind of evidence, float32 ``[B, items + 1]``."""


@dataclass(frozen=True)
class WeightFit:
    """What was tried. ``score``: that of ``weights`` on the validation ``users``; ``given_score``: of the settings'."""

    weights: Weights
    given: Weights
    score: float
    given_score: float
    users: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return {
            "fitted": self.weights,
            "given": self.given,
            "valid_score": round(self.score, 6),
            "given_valid_score": round(self.given_score, 6),
            "users": self.users,
        }


def rank_metric(name: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """The value of each rank, counted from 1, by one of RecBole's metrics of a single target; None for others."""
    kind, _, depth = name.lower().partition("@")
    if not depth.isdigit():
        return None
    limit = int(depth)
    kinds: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "recall": lambda ranks: hits(ranks, limit),
        "hit": lambda ranks: hits(ranks, limit),
        "precision": lambda ranks: hits(ranks, limit) / limit,
        "ndcg": lambda ranks: gains(ranks, limit),
        "mrr": lambda ranks: reciprocals(ranks) * hits(ranks, limit),
    }
    return kinds.get(kind)


def candidates(
    given: Weights, kinds: Iterable[str], varied: Iterable[str] = tuple(_FACTORS), habit: bool = False
) -> list[Weights]:
    """The weights to try, those given first; a weight of 0 stays 0, and so does what all others lean on.

    ``habit``: repeating speaks for items, so that more of it is worth a try.
    """
    varied = set(varied)
    kinds = [kind for kind in kinds if given[kind] > 0]
    anchor = "recognise" if "recognise" in kinds else "reason"
    free = [kind for kind in kinds if kind != anchor and kind in _FACTORS and kind in varied]
    found = [given]
    multiples = {kind: _FACTORS[kind] + (_FACTORS_OF_HABIT.get(kind, ()) if habit else ()) for kind in free}
    for factors in product(*multiples.values()):
        weights = {**given, **{kind: round(given[kind] * f, 6) for kind, f in zip(free, factors, strict=True)}}
        if weights not in found:
            found.append(weights)
    return found


@torch.no_grad()
def fit_weights(
    model: WeighedModel,
    batches: Iterable[tuple[Any, Tensor, tuple[Tensor, Tensor] | None]],
    given: Mapping[str, float],
    metric: str,
    most_users: int = _MOST_USERS,
    varied: Iterable[str] = tuple(_FACTORS),
    errors: float = 1.0,
) -> WeightFit | None:
    """The best weights on validation.

    Args:
        model: in evaluation mode.
        batches: interactions, targets int64 ``[B]``, and rows and items to leave out of the ranking, or None.
        given: the weights of the settings, by kind of evidence.
        metric: name of the validation metric.
        most_users: batches end once they have told of so many.
        varied: kinds of evidence whose weights may change.
        errors: standard errors over users that others have to be better by.

    Returns:
        None where there is nothing to choose: a single kind of evidence, or a metric that ranks do not tell.
    """
    value = rank_metric(metric)
    if value is None:
        return None
    tried: list[Weights] = []
    parts: list[np.ndarray] = []
    users, memory = 0, ReleasesFreeMemory()
    for interaction, targets, seen in batches:
        evidence = model.evidence(interaction)
        if not tried:
            habit = "repeat" in evidence and bool((evidence["repeat"] > 0).any())
            tried = candidates(dict(given), evidence, varied, habit)
        if len(tried) == 1:
            return None
        targets = targets.to(next(iter(evidence.values())).device)
        ranks = targets.new_zeros(len(tried), len(targets))
        for number, scores in enumerate(_weighed(evidence, tried)):
            if seen is not None:
                scores[seen[0].to(scores.device), seen[1].to(scores.device)] = -torch.inf
            ranks[number] = ranks_from_one(scores, targets)
        parts.append(value(ranks.cpu().numpy()))
        users += len(targets)
        for scores in evidence.values():
            memory.passed(scores)
        if users >= most_users:
            break
    if not tried:
        return None
    values = np.concatenate(parts, axis=1)
    scores = values.mean(1)
    best = int(scores.argmax())
    gain = values[best] - values[0]
    if users < 2 or gain.mean() <= errors * gain.std(ddof=1) / np.sqrt(users):
        best = 0
    return WeightFit(tried[best], tried[0], float(scores[best]), float(scores[0]), users)


def _weighed(evidence: Mapping[str, Tensor], tried: Iterable[Weights]) -> Iterator[Tensor]:
    """The scores under each of the weights, in one place: to be used before the next ones are asked for."""
    total = torch.empty_like(next(iter(evidence.values())))
    for weights in tried:
        total.zero_()
        for kind, scores in evidence.items():
            total.add_(scores, alpha=weights[kind])
        yield total
