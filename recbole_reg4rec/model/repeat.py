"""Repeat: how a user's having taken an item changes the odds of taking it now (docs/method.md, 5; our extension)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_reg4rec.data.repeats import AGE_BUCKETS, PER_DOUBLING


def newest_places(items: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every item that a query has seen, once, where it was seen last.

    Args:
        items: int64 ``[B, T]``, histories, 0 pads.
        queries: bool ``[B, T]``, the places asked about, each seeing all up to and with itself.

    Returns:
        int64 ``[S]`` each, in the order of the queries: number of the query, counted row by row; item; age in steps,
        0 for the query's own place.
    """
    length = items.shape[1]
    place = torch.arange(length, device=items.device)
    later = (items.unsqueeze(2) == items.unsqueeze(1)) & (place > place.unsqueeze(1))
    following = torch.where(later, place, length).amin(2)
    row, at = queries.nonzero(as_tuple=True)
    newest = (place <= at.unsqueeze(1)) & (items[row] > 0) & (following[row] > at.unsqueeze(1))
    number, seen = newest.nonzero(as_tuple=True)
    return number, items[row[number], seen], at[number] - seen


@dataclass(frozen=True)
class SeenOdds:
    """What repeating adds to the logits of items, in each of some contexts; nothing to those that are not listed.

    ``contexts``: how many there are. ``items``: how many items there are, with the padding item. ``places``: int64
    ``[S]``, ``context * items + item``, ascending. ``values``: float32 ``[S]``.
    """

    contexts: int
    items: int
    places: Tensor
    values: Tensor

    @classmethod
    def of(cls, number: Tensor, seen: Tensor, values: Tensor, contexts: int, items: int) -> SeenOdds:
        """From entries in any order, none twice: int64 ``[S]`` each, context and item, and what to add to it."""
        places, order = (number * items + seen).sort()
        return cls(contexts, items, places, values[order])

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Contexts and items, int64 ``[S]`` each, and what to add."""
        return self.places // self.items, self.places % self.items, self.values

    def table(self) -> Tensor:
        """For every item, float32 ``[contexts, items]``."""
        zeros = self.values.new_zeros(self.contexts * self.items)
        return zeros.index_put_((self.places,), self.values).view(self.contexts, self.items)

    def take(self, contexts: Tensor) -> SeenOdds:
        """Those of some contexts, int64 ``[N]``, in that order and as often as they are named."""
        counts = torch.bincount(self.places // self.items, minlength=self.contexts)
        begin, counts = (counts.cumsum(0) - counts).index_select(0, contexts), counts.index_select(0, contexts)
        number = torch.arange(len(contexts), device=contexts.device).repeat_interleave(counts)
        here = torch.arange(len(number), device=contexts.device) - (counts.cumsum(0) - counts - begin)[number]
        items = self.places.index_select(0, here) % self.items
        return SeenOdds(len(contexts), self.items, number * self.items + items, self.values.index_select(0, here))

    def look_up(self, contexts: Tensor, items: Tensor) -> Tensor:
        """What to add to single items in single contexts, int64 ``[N]`` each, to float32 ``[N]``."""
        if not len(self.places):
            return self.values.new_zeros(len(items))
        wanted = contexts * self.items + items
        at = torch.searchsorted(self.places, wanted).clamp_(max=len(self.places) - 1)
        return self.values.index_select(0, at) * (self.places.index_select(0, at) == wanted)


class Repeat(nn.Module):
    """Log-odds by age, added to what the other evidence says of an item that was seen before.

    Where nobody takes an item twice, seen items are ruled out; where people do, it is learned how much, and how it
    fades.

    Args:
        start: float ``[AGE_BUCKETS]``, see `data.repeats.repeat_odds`; trained further within the item path's softmax.
    """

    def __init__(self, start: np.ndarray) -> None:
        super().__init__()
        self.log_odds = nn.Parameter(torch.from_numpy(start).float())

    def forward(self, ages: Tensor) -> Tensor:
        """What to add for items seen ``ages`` steps ago, int64 ``[S]`` to float32 ``[S]``."""
        bucket = (torch.log2(ages.float() + 1.0) * PER_DOUBLING).long().clamp(max=AGE_BUCKETS - 1)
        return F.embedding(bucket, self.log_odds.unsqueeze(1)).squeeze(-1)

    def odds(self, seen: Tensor, items: int) -> SeenOdds:
        """What to add to the items that ``B`` users have seen.

        Args:
            seen: int64 ``[B, S]``, all that each user has taken, oldest first, 0 pads anywhere.
            items: number of items with the padding item.
        """
        # A stable sort brings the padding in front, so that the newest item is last.
        seen = seen.gather(1, (seen > 0).long().argsort(dim=1, stable=True))
        ages = torch.arange(seen.shape[1] - 1, -1, -1, device=seen.device).expand_as(seen)
        there = seen > 0
        # Few of all items were seen: places alone are worked out.
        places = (torch.arange(len(seen), device=seen.device).unsqueeze(1) * items + seen)[there]
        places, which = torch.unique(places, return_inverse=True)
        newest = ages.new_full(places.shape, seen.shape[1]).scatter_reduce(0, which, ages[there], "amin")
        return SeenOdds(len(seen), items, places, self(newest))

    def scores(self, seen: Tensor, items: int) -> Tensor:
        """What to add to every item, float32 ``[B, items]``; see `odds`."""
        return self.odds(seen, items).table()
