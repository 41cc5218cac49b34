"""A few items that stand for a large catalogue in a training softmax (our choice).

The items of the batch itself, which are the targets and what is popular, stand for themselves; others are drawn evenly
and each stands for its share of the rest. So the sum that a softmax divides by is right in the mean, and what a step
costs no longer depends on how many items there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ItemSample:
    """``items``: int64 ``[S + 1]``, ascending, the padding item 0 first.

    ``log_weights``: float32 ``[S + 1]``, logarithm of the number of items that each stands for.
    """

    items: Tensor
    log_weights: Tensor

    def places(self, items: Tensor) -> Tensor:
        """Where items of the sample stand in it, int64 ``[...]``."""
        return torch.searchsorted(self.items, items)


def draw_sample(own: Tensor, catalogue: int, drawn: int) -> ItemSample | None:
    """Items of a batch and others at random; None where the catalogue has no more than would be drawn.

    Args:
        own: int64, of any shape, items that have to be there; 0 for none.
        catalogue: number of items without the padding item.
        drawn: others to draw, fewer by those that come twice.
    """
    if catalogue <= drawn:
        return None
    own = torch.unique(own)
    own = own[1:] if len(own) and own[0] == 0 else own
    others = torch.unique(torch.randint(1, catalogue + 1, (drawn,), device=own.device))
    others = others[~torch.isin(others, own, assume_unique=True)]
    items, order = torch.cat([own.new_zeros(1), own, others]).sort()
    weights = torch.zeros(len(items), device=own.device)
    if len(others):
        weights[len(own) + 1 :] = math.log((catalogue - len(own)) / len(others))
    return ItemSample(items, weights[order])
