"""Shares of tokens: what a path's probability comes to for each token that can follow it.

Few of many tokens can. A whole table of them, paths by codebooks by codewords, takes longer to clear than to fill, so
that of paths with some items left (`RemainingShares`) only what is asked for is worked out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recbole_reg4rec.decoding.catalogue import Candidates, Catalogue

# Numbers of a table that are held at a time, 32 MB; a GPU has more room.
_HELD, _HELD_ON_GPU = 8_000_000, 1 << 28


class TokenShares(Protocol):
    """Probabilities of tokens within their codebooks, or their logarithms, for ``B`` times ``Q`` paths."""

    def largest(self) -> Tensor:
        """The largest of each codebook, float32 ``[B, Q, M]``."""

    def likeliest(self, books: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The most probable tokens of some codebooks of each path, int64 ``[B, Q, C]``.

        Returns:
            float32 and int64 ``[B, Q, C, n]``, what they have and the tokens, the likeliest first; n is ``count``, or
            less where fewer follow any path; 0 or -inf fills up.
        """


@dataclass(frozen=True)
class Table:
    """All of them: ``values`` float32 ``[B, Q, M, K]``."""

    values: Tensor

    def largest(self) -> Tensor:
        """See `TokenShares`."""
        if self.values.is_contiguous():
            return self.values.amax(-1)
        # Laid out the other way round it is looked through that way round, in a fortieth of the time.
        return self.values.permute(2, 3, 0, 1).amax(1).permute(1, 2, 0)

    def likeliest(self, books: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See `TokenShares`."""
        batch, queries, codebooks, words = self.values.shape
        path = torch.arange(batch * queries, device=books.device).view(batch, queries, 1)
        if self.values.is_contiguous():
            # Whole rows, which are copied faster than single tokens are gathered.
            row = path * codebooks + books
            chosen = self.values.flatten(0, 2).index_select(0, row.flatten()).view(*books.shape, words)
        else:
            chosen = self.values[path // queries, path % queries, books]
        values, tokens = chosen.topk(min(count, words), dim=-1)
        return values, tokens


@dataclass(frozen=True)
class RemainingShares:
    """Those of the items that are left to each path, added up by token.

    ``items``, ``owners``: int64 ``[N]``, the items and the paths, ascending, that they are left to. ``shares``: float32
    ``[N]``, their probabilities. ``shape``: of the paths, ``(B, Q)``. ``candidates``: what ``items`` and ``owners`` are
    the entries of; without them the same takes several times as long.
    """

    catalogue: Catalogue
    items: Tensor
    owners: Tensor
    shares: Tensor
    shape: tuple[int, int]
    candidates: Candidates | None = None

    def largest(self) -> Tensor:
        """See `TokenShares`; 0 where a path has no item left."""
        paths, books = self.shape[0] * self.shape[1], self.catalogue.codebooks
        if len(self.items) * books > self._held and paths > 1:
            return torch.cat([half.largest() for half in self._halves()]).view(*self.shape, books)
        places, size = self._places(None)
        flat = places.flatten()
        # The same sums by index_add_ take three times as long.
        totals = self.shares.new_zeros(size).scatter_add_(0, flat, self.shares.repeat_interleave(books))
        totals = totals.index_select(0, flat).view_as(places)
        peaks = totals.new_zeros(paths, books)
        peaks.scatter_reduce_(0, self.owners.unsqueeze(1).expand_as(totals), totals, "amax")
        return peaks.view(*self.shape, books)

    def likeliest(self, books: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See `TokenShares`.

        Where no path has as many items left as there are tokens, only those that an item carries are laid side by side.
        """
        words, chosen, rows = self.catalogue.codewords, books.shape[-1], books.numel()
        flat = books.reshape(-1, chosen).index_select(0, self.owners)
        tokens = self.catalogue.codes.index_select(0, self.items).gather(1, flat).flatten()
        row = (self.owners.unsqueeze(1) * chosen + torch.arange(chosen, device=books.device)).flatten()
        shares = self.shares.repeat_interleave(chosen)
        counts = torch.bincount(self.owners, minlength=rows // chosen)
        longest = max(1, int(counts.max())) if rows else 1
        if longest >= words:
            dense = self.catalogue.scratch(rows * words).scatter_add_(0, row * words + tokens, shares)
            values, which = dense.view(*books.shape, words).topk(min(count, words), dim=-1)
            return values, which
        begin = counts.cumsum(0) - counts
        rank = torch.arange(len(self.owners), device=books.device) - begin.index_select(0, self.owners)
        rank = rank.repeat_interleave(chosen)
        places, size = self._places(flat)
        places = places.flatten()
        sums = shares.new_zeros(size).scatter_add_(0, places, shares)
        totals = sums.index_select(0, places)
        # Of the items that carry the same token one stands for it: whose rank is written last.
        sums.index_copy_(0, places, rank.to(sums.dtype))
        totals *= sums.index_select(0, places) == rank
        place = row * longest + rank
        values = totals.new_zeros(rows * longest).index_copy_(0, place, totals).view(*books.shape, longest)
        listed = tokens.new_zeros(rows * longest).index_copy_(0, place, tokens).view(*books.shape, longest)
        values, which = values.topk(min(count, longest), dim=-1)
        return values, listed.gather(-1, which)

    def table(self) -> Tensor:
        """All of them, float32 ``[B, Q, M, K]``, in memory that the next call writes into."""
        catalogue, paths = self.catalogue, self.shape[0] * self.shape[1]
        width = catalogue.codebooks * catalogue.codewords
        places = catalogue.rows.index_select(0, self.items).add_((self.owners * width).unsqueeze(1)).flatten()
        values = self.shares.repeat_interleave(catalogue.codebooks)
        found = catalogue.scratch(paths * width).scatter_add_(0, places, values)
        return found.view(*self.shape, catalogue.codebooks, catalogue.codewords)

    @property
    def _held(self) -> int:
        return _HELD if self.items.device.type == "cpu" else _HELD_ON_GPU

    def _halves(self) -> list[RemainingShares]:
        """The first half of the paths and the others, as of ``(n, 1)`` each."""
        paths = self.shape[0] * self.shape[1]
        middle, candidates = paths // 2, self.candidates.flat() if self.candidates is not None else None
        cut = int(torch.searchsorted(self.owners, middle))
        halves = []
        for here, begin, end in ((slice(cut), 0, middle), (slice(cut, None), middle, paths)):
            left = candidates[begin:end] if candidates is not None else None
            shape = end - begin, 1
            owners = self.owners[here] - begin
            halves.append(RemainingShares(self.catalogue, self.items[here], owners, self.shares[here], shape, left))
        return halves

    def _places(self, books: Tensor | None) -> tuple[Tensor, int]:
        """A place for each token of each item, the same for equal tokens of a path; those of a path lie together.

        Args:
            books: int64 ``[N, C]``, codebooks of which each item's tokens are wanted; None: of all.

        Returns:
            int64 ``[N, C]``, and how many places there are.
        """
        catalogue, candidates = self.catalogue, self.candidates
        tokens = candidates.tokens if candidates is not None else None
        slots = catalogue.slots() if tokens is not None else None
        posted = candidates.posted if candidates is not None and slots is not None else None
        if tokens is None or slots is None or posted is None:
            places = self._places_by_table(books)
            return places, places.numel()
        sizes = catalogue.counts.index_select(0, tokens.flatten()) * catalogue.codebooks
        begin = (sizes.cumsum(0) - sizes).index_select(0, self.owners).unsqueeze(1)
        if books is None:
            found = slots.index_select(0, posted)
        else:
            found = slots.flatten()[(posted * catalogue.codebooks).unsqueeze(1) + books]
        return found + begin, int(sizes.sum())

    def _places_by_table(self, books: Tensor | None) -> Tensor:
        """As `_places`, by what was written last into a table of all tokens; of some paths at a time."""
        catalogue, paths = self.catalogue, self.shape[0] * self.shape[1]
        if books is None:
            keys, width = catalogue.rows.index_select(0, self.items), catalogue.codebooks * catalogue.codewords
        else:
            column = torch.arange(books.shape[1], device=books.device) * catalogue.codewords
            keys = catalogue.codes.index_select(0, self.items).gather(1, books) + column
            width = books.shape[1] * catalogue.codewords
        step = max(1, self._held // width)
        limits = torch.searchsorted(self.owners, torch.arange(0, paths + step, step, device=keys.device)).tolist()
        parts = []
        for number, (begin, end) in enumerate(itertools.pairwise(limits)):
            at = keys[begin:end].add((self.owners[begin:end] - number * step).unsqueeze(1) * width).flatten()
            own = torch.arange(len(at), dtype=torch.int32, device=at.device)
            table = catalogue.notes(min(step, paths) * width).index_copy_(0, at, own)
            parts.append(table.index_select(0, at).long() + begin * keys.shape[1])
        return torch.cat(parts).view_as(keys) if parts else keys
