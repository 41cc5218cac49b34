"""MSRA: a path is rewarded for the user's next N training items, nearer ones more (paper; the weights: choice)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_reg4rec.data.sequences import TrainingSequences
from recbole_reg4rec.errors import UserError


@dataclass(frozen=True)
class FutureItems:
    """``items``: int64 ``[R, N]``, the next items of each context, 0 behind the training part.

    ``shares``: float32 ``[R, N]``, proportional to ``gamma ** (n - 1)`` over the items that are there, summing to 1.
    """

    items: Tensor
    shares: Tensor


def future_items(ahead: Tensor, trained: Tensor, number: int, gamma: float) -> FutureItems:
    """The window of every trained position; near the end of a sequence it shrinks, and the shares still sum to 1.

    Args:
        ahead: int64 ``[B, T + N - 1]``, see `data.sequences.FUTURE`.
        trained: bool ``[B, T]``, ``R`` of which are True.
        number: ``N``.
        gamma: in ``(0, 1]``.
    """
    items = ahead.unfold(1, number, 1)[trained]
    weights = gamma ** torch.arange(number, device=ahead.device, dtype=torch.float32)
    shares = weights * (items > 0)
    return FutureItems(items, shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny))


def check_window(sequences: TrainingSequences, number: int) -> None:
    """Refuses a window that no context can fill.

    Raises:
        UserError: the longest training history has fewer items behind its first.
    """
    longest = int(sequences.lengths.max(initial=1)) - 1
    if number > longest:
        raise UserError(
            f"setting align_future is {number}, but the longest training history has only {longest} items to look "
            f"ahead to; set align_future to at most {longest}"
        )
