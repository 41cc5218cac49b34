"""The gate: a small network that puts the first of a ranking in a better order (docs/method.md, 5; our extension).

A weighted sum trusts each kind of evidence alike in every place. Which one is right depends on what the others say,
which a few hidden units tell from their values. Only the first items of the sum are looked at; all others stay behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_reg4rec.model.likeliest import likeliest

# How far the last of the items looked at stays above all others.
_STEP = 1e-3
# Deviations from the mean beyond which a value counts as this far.
_FURTHEST = 6.0


class Gate(nn.Module):
    """Changes nothing until it is fitted, which `trainer.gate_fit` does; part of what is saved.

    Args:
        kinds: names of the kinds of evidence it looks at; one that is missing counts as its mean.
        items: how many of the first items are put in order, ``G``.
        hidden: hidden units, ``H``.
    """

    def __init__(self, kinds: Sequence[str], items: int, hidden: int) -> None:
        super().__init__()
        self.kinds, self.items = tuple(kinds), items
        # No parameters: what trains the model does not train these.
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(len(kinds)))
        self.register_buffer("deviation", torch.ones(len(kinds)))
        self.register_buffer("inner", torch.zeros(hidden, len(kinds)))
        self.register_buffer("inner_bias", torch.zeros(hidden))
        self.register_buffer("outer", torch.zeros(1, hidden))
        self.register_buffer("trust", torch.ones(()))

    fitted: Tensor
    mean: Tensor
    deviation: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    trust: Tensor

    def forward(self, scores: Tensor, evidence: Mapping[str, Tensor]) -> Tensor:
        """Scores of all items with the first ones in their new order; float32 ``[B, items + 1]`` each."""
        if not bool(self.fitted):
            return scores
        first, items = self.first(scores)
        corrected = self.correct(first, self.look(evidence, items))
        lifted = corrected - corrected.amin(1, keepdim=True) + (first[:, -1:] + _STEP)
        return scores.scatter(1, items, lifted)

    def first(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The highest scores ``[B, G]`` and their items; never the padding item, which is last."""
        items = likeliest(scores, min(self.items, scores.shape[1] - 1))
        first, order = scores.gather(1, items).sort(dim=1, descending=True)
        return first, items.gather(1, order)

    def look(self, evidence: Mapping[str, Tensor], items: Tensor) -> Tensor:
        """What each kind says of items ``[B, G]``, float32 ``[B, G, kinds]``; NaN where it is missing."""
        missing = torch.full(items.shape, float("nan"), device=items.device)
        found = [evidence[kind].gather(1, items) if kind in evidence else missing for kind in self.kinds]
        return torch.stack(found, dim=-1)

    def correct(self, first: Tensor, seen: Tensor) -> Tensor:
        """New scores ``[B, G]`` from those of the sum and from what `look` saw."""
        inputs = standardised(seen, self.mean, self.deviation)
        return corrected(first, inputs, self.inner, self.inner_bias, self.outer, self.trust)


def corrected(first: Tensor, inputs: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, trust: Tensor) -> Tensor:
    """``trust * first`` plus what the hidden units add: ``[B, G]`` and standardised ``[B, G, kinds]`` to ``[B, G]``."""
    return trust * first + F.linear(F.gelu(F.linear(inputs, inner, inner_bias)), outer).squeeze(-1)


def standardised(seen: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Values as deviations from their mean, not beyond a limit; 0 for NaN."""
    return ((seen - mean) / deviation).nan_to_num(0.0).clamp(-_FURTHEST, _FURTHEST)
