"""Fits the gate on validation, after the weights (docs/method.md, 5; our extension).

What it gains is measured on users that it was not fitted on, fold by fold; unless that is more than a standard error
over users, the ranking stays as it is. The gate that is kept is then fitted on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_reg4rec.anomaly import without_anomaly_detection
from recbole_reg4rec.model.gate import Gate, corrected, standardised
from recbole_reg4rec.trainer.heap import ReleasesFreeMemory
from recbole_reg4rec.trainer.weights import rank_metric

_FOLDS = 4
_MOST_USERS = 40_000
# Passes over the users whose target is among the first items, and steps that these come to at least; users a batch.
_EPOCHS, _LEAST_STEPS, _BATCH = 30, 300, 256
_RATE, _DECAY = 3e-3, 1e-3


class GatedModel(Protocol):
    """A model with a gate behind its weighted sum."""

    gate: Gate | None

    def summed(self, interaction: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and each kind of evidence, float32 ``[B, items + 1]`` each."""


@dataclass(frozen=True)
class GateFit:
    """``kept``: whether the gate is used. ``score``: on validation ``users``, of gates that were fitted on others.

    ``given_score``: of the ranking without a gate.
    """

    kept: bool
    score: float
    given_score: float
    users: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return {
            "kept": self.kept,
            "valid_score": round(self.score, 6),
            "given_valid_score": round(self.given_score, 6),
            "users": self.users,
        }


@dataclass(frozen=True)
class _Users:
    """``first`` ``[U, G]``, scores of the sum, -inf for items that are ruled out; ``seen`` ``[U, G, kinds]``.

    ``place``: int64 ``[U]``, where the target is, -1 for nowhere.
    """

    first: Tensor
    seen: Tensor
    place: Tensor

    def only(self, rows: Tensor) -> _Users:
        return _Users(self.first[rows], self.seen[rows], self.place[rows])

    def ranks(self, scores: Tensor) -> np.ndarray:
        """Ranks of the targets, from 1; 0 for those out of reach."""
        own = scores.gather(1, self.place.clamp(min=0).unsqueeze(1))
        ranks = (scores >= own).sum(1).masked_fill(self.place < 0, 0)
        return ranks.numpy()


@torch.no_grad()
def fit_gate(
    model: GatedModel, batches: Iterable[tuple[Any, Tensor, tuple[Tensor, Tensor] | None]], metric: str, seed: int
) -> GateFit | None:
    """Fits the model's gate, and leaves it off where it does not help.

    Args:
        model: in evaluation mode; ranks by the weights that it is to keep.
        batches: interactions, targets int64 ``[B]``, and rows and items to leave out of the ranking, or None.
        metric: name of the validation metric.
        seed: of folds, initial weights and batches.

    Returns:
        None where there is nothing to fit: no gate, a single kind of evidence, or a metric that the first items do not
        tell.
    """
    gate, value = model.gate, rank_metric(metric)
    if gate is None or len(gate.kinds) < 2 or value is None or int(metric.partition("@")[2]) > gate.items:
        return None
    gate.fitted.fill_(False)
    users = _collect(model, gate, batches)
    if len(users.place) < 2 * _FOLDS or int((users.place >= 0).sum()) < 2 * _FOLDS:
        return None
    generator = torch.Generator().manual_seed(seed)
    fold = torch.randperm(len(users.place), generator=generator) % _FOLDS
    given = value(users.ranks(users.first))
    values = np.zeros_like(given)
    for number in range(_FOLDS):
        held_out = users.only(fold == number)
        network = _train(users.only(fold != number), len(gate.inner_bias), generator)
        values[(fold == number).numpy()] = value(held_out.ranks(network.scores(held_out)))
    gain = values - given
    kept = bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))
    if kept:
        _train(users, len(gate.inner_bias), generator).write(gate)
    return GateFit(kept, float(values.mean()), float(given.mean()), len(given))


def _collect(
    model: GatedModel, gate: Gate, batches: Iterable[tuple[Any, Tensor, tuple[Tensor, Tensor] | None]]
) -> _Users:
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    count, memory = 0, ReleasesFreeMemory()
    for interaction, targets, ruled_out in batches:
        scores, evidence = model.summed(interaction)
        if ruled_out is not None:
            scores[ruled_out[0].to(scores.device), ruled_out[1].to(scores.device)] = -torch.inf
        first, items = gate.first(scores)
        found = (items == targets.to(items.device).unsqueeze(1)) & ~first.isneginf()
        place = torch.where(found.any(1), found.int().argmax(1), -1)
        parts.append((first.cpu(), gate.look(evidence, items).cpu(), place.cpu()))
        count += len(place)
        memory.passed(scores)
        if count >= _MOST_USERS:
            break
    if not parts:
        return _Users(torch.zeros(0, 1), torch.zeros(0, 1, len(gate.kinds)), torch.zeros(0, dtype=torch.int64))
    return _Users(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Network(nn.Module):
    """What becomes a `Gate`: the same function, with its gradient."""

    def __init__(self, users: _Users, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        counted = users.seen[~users.first.isneginf()]
        mean = counted.nanmean(0)
        deviation = (counted - mean).square().nanmean(0).sqrt()
        self.mean, self.deviation = mean.nan_to_num(0.0), deviation.nan_to_num(1.0).clamp(min=1e-6)
        kinds = users.seen.shape[-1]
        self.inner = nn.Parameter(torch.randn(hidden, kinds, generator=generator) * kinds**-0.5)
        self.inner_bias = nn.Parameter(torch.zeros(hidden))
        self.outer = nn.Parameter(torch.zeros(1, hidden))
        self.trust = nn.Parameter(torch.ones(()))

    def forward(self, first: Tensor, inputs: Tensor) -> Tensor:
        ruled_out = first.isneginf()
        # Their gradient is 0, which times minus infinity would be NaN, in `trust`.
        first = first.masked_fill(ruled_out, 0.0)
        scores = corrected(first, inputs, self.inner, self.inner_bias, self.outer, self.trust)
        return scores.masked_fill(ruled_out, -torch.inf)

    def inputs(self, users: _Users) -> Tensor:
        return standardised(users.seen, self.mean, self.deviation)

    def scores(self, users: _Users) -> Tensor:
        return self(users.first, self.inputs(users))

    def write(self, gate: Gate) -> None:
        for name in ("mean", "deviation", "inner", "inner_bias", "outer", "trust"):
            getattr(gate, name).copy_(getattr(self, name))
        gate.fitted.fill_(True)


@torch.enable_grad()
@without_anomaly_detection()
def _train(users: _Users, hidden: int, generator: torch.Generator) -> _Network:
    """Cross-entropy of the target among the first items, of users whose target is one of them."""
    users = users.only(users.place >= 0)
    network = _Network(users, hidden, generator)
    inputs, count = network.inputs(users), len(users.place)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    batches = math.ceil(count / _BATCH)
    epochs = max(_EPOCHS, math.ceil(_LEAST_STEPS / batches))
    steps, step = epochs * batches, 0
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=generator).split(_BATCH):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            step += 1
            loss = F.cross_entropy(network(users.first[rows], inputs[rows]), users.place[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.requires_grad_(False)
