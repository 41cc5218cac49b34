"""Shares of tokens: what a path's probability comes to for each token that can follow it.

Few of many tokens can. A whole table of them, paths by codebooks by codewords, takes longer to clear than to fill, so
that of paths with some items left (`RemainingShares`) only what is asked for is worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recbole_reg4rec.decoding.catalogue import Catalogue

# Numbers of a table that are held at a time, 32 MB, and of those the ones that a piece writes to, one a line of the
# cache: what it comes back to twice should still be there. A GPU has neither so little room nor such a cache.
_HELD, _TOUCHED = 8_000_000, 8_192
_HELD_ON_GPU = 1 << 28
# Paths of so few items left are told by comparing each with each, those of more by a table.
_COMPARED = (2, 3, 4)


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
    ``[N]``, their probabilities. ``shape``: of the paths, ``(B, Q)``.
    """

    catalogue: Catalogue
    items: Tensor
    owners: Tensor
    shares: Tensor
    shape: tuple[int, int]

    def largest(self) -> Tensor:
        """See `TokenShares`; 0 where a path has no item left."""
        paths, books = self.shape[0] * self.shape[1], self.catalogue.codebooks
        width = books * self.catalogue.codewords
        # Looking every item's tokens up again, or looking through the tables, whichever is less.
        if len(self.items) * books > paths * width:
            peaks = self._in_pieces(paths, width, paths, lambda begin, end: self._table(begin, end, width).amax(-1))
            return peaks.view(*self.shape, books)
        counts = torch.bincount(self.owners, minlength=paths)
        begin = counts.cumsum(0) - counts
        peaks = self.shares.new_zeros(paths, books)
        least = 0
        for most in _COMPARED:
            some = ((counts > least) & (counts <= most)).nonzero().squeeze(1)
            if len(some):
                peaks.index_copy_(0, some, self._compared(begin[some], counts[some], most))
            least = most
        many = counts > least
        if bool(many.any()):
            rest = self._only(many)
            step = -(-rest.shape[0] * _TOUCHED // max(1, len(rest.items) * books))
            found = rest._in_pieces(rest.shape[0], width, step, lambda begin, end: rest._peaks(begin, end, width))
            peaks.index_copy_(0, many.nonzero().squeeze(1), found)
        return peaks.view(*self.shape, books)

    def _only(self, paths: Tensor) -> RemainingShares:
        """Those of some paths, bool ``[B * Q]``, ``n`` of which are True, as of ``(n, 1)``."""
        number, here = paths.cumsum(0) - 1, paths.index_select(0, self.owners)
        owners = number.index_select(0, self.owners[here])
        shape = int(number[-1]) + 1, 1
        return RemainingShares(self.catalogue, self.items[here], owners, self.shares[here], shape)

    def _compared(self, begin: Tensor, counts: Tensor, most: int) -> Tensor:
        """The largest of paths of at most ``most`` items, which are compared with each other: ``[n, M]``."""
        place = torch.arange(most, device=begin.device)
        inside = place < counts.unsqueeze(1)
        place = (begin.unsqueeze(1) + place * inside).flatten()
        codes = self.catalogue.codes.index_select(0, self.items.index_select(0, place))
        codes = codes.view(len(begin), most, -1).transpose(0, 1)
        shares = (self.shares.index_select(0, place).view(-1, most) * inside).T.unsqueeze(-1)
        peaks = shares.new_zeros(len(begin), codes.shape[-1])
        for own in range(most):
            total = torch.zeros_like(peaks)
            for other in range(most):
                total += shares[other] * (codes[own] == codes[other])
            torch.maximum(peaks, total, out=peaks)
        return peaks

    def likeliest(self, books: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See `TokenShares`.

        Where no path has as many items left as there are tokens, only those that an item carries are laid side by side.
        """
        words, chosen, rows = self.catalogue.codewords, books.shape[-1], books.numel()
        flat = books.reshape(-1, chosen).index_select(0, self.owners)
        tokens = self.catalogue.codes.index_select(0, self.items).gather(1, flat).flatten()
        row = (self.owners.unsqueeze(1) * chosen + torch.arange(chosen, device=books.device)).flatten()
        places, shares = row * words + tokens, self.shares.repeat_interleave(chosen)
        counts = torch.bincount(self.owners, minlength=rows // chosen)
        longest = max(1, int(counts.max())) if rows else 1
        if longest >= words:
            dense = self.catalogue.scratch(rows * words).index_add_(0, places, shares).view(*books.shape, words)
            values, which = dense.topk(min(count, words), dim=-1)
            return values, which
        begin = counts.cumsum(0) - counts
        rank = torch.arange(len(self.owners), device=books.device) - begin.index_select(0, self.owners)
        rank = rank.repeat_interleave(chosen)
        sums = self.catalogue.blank(rows * words)
        sums.index_add_(0, places, shares)
        totals = sums.index_select(0, places)
        # Of the items that carry the same token one stands for it: whose rank is written last.
        sums.index_copy_(0, places, rank.to(sums.dtype))
        totals *= sums.index_select(0, places) == rank
        sums.index_fill_(0, places, 0.0)
        place = row * longest + rank
        values = totals.new_zeros(rows * longest).index_copy_(0, place, totals).view(*books.shape, longest)
        listed = tokens.new_zeros(rows * longest).index_copy_(0, place, tokens).view(*books.shape, longest)
        values, which = values.topk(min(count, longest), dim=-1)
        return values, listed.gather(-1, which)

    def table(self) -> Tensor:
        """All of them, float32 ``[B, Q, M, K]``, in memory that the next call writes into."""
        catalogue, paths = self.catalogue, self.shape[0] * self.shape[1]
        found = self._table(0, paths, catalogue.codebooks * catalogue.codewords)
        return found.view(*self.shape, catalogue.codebooks, catalogue.codewords)

    def _in_pieces(self, paths: int, width: int, most: int, work: Callable[[int, int], Tensor]) -> Tensor:
        """The work on some paths at a time, on a CPU no more than ``most``."""
        on_cpu = self.shares.device.type == "cpu"
        step = max(1, min(most, _HELD // width) if on_cpu else _HELD_ON_GPU // width)
        parts = [work(begin, min(begin + step, paths)) for begin in range(0, paths, step)]
        return torch.cat(parts) if parts else self.shares.new_zeros(0, self.catalogue.codebooks)

    def _entries(self, begin: int, end: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of some paths: places in their table int64 ``[n * M]``, what goes there, and the owners int64 ``[n]``."""
        here = slice(0, len(self.items))
        if end - begin < self.shape[0] * self.shape[1]:
            limits = torch.searchsorted(self.owners, self.owners.new_tensor([begin, end]))
            here = slice(*limits.tolist())
        owners = self.owners[here] - begin
        places = self.catalogue.rows.index_select(0, self.items[here]).add_((owners * width).unsqueeze(1))
        return places.flatten(), self.shares[here].repeat_interleave(self.catalogue.codebooks), owners

    def _table(self, begin: int, end: int, width: int) -> Tensor:
        """Of some paths, ``[end - begin, M, K]``."""
        places, values, _ = self._entries(begin, end, width)
        found = self.catalogue.scratch((end - begin) * width).index_add_(0, places, values)
        return found.view(-1, self.catalogue.codebooks, self.catalogue.codewords)

    def _peaks(self, begin: int, end: int, width: int) -> Tensor:
        """The largest of some paths, ``[end - begin, M]``, looked up where the items' tokens are alone."""
        places, values, owners = self._entries(begin, end, width)
        sums = self.catalogue.blank((end - begin) * width).index_add_(0, places, values)
        totals = sums.index_select(0, places).view(-1, self.catalogue.codebooks)
        sums.index_fill_(0, places, 0.0)
        peaks = totals.new_zeros(end - begin, self.catalogue.codebooks)
        return peaks.scatter_reduce(0, owners.unsqueeze(1).expand_as(totals), totals, "amax")
