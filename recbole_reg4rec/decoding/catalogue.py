"""The catalogue constraint: which tokens can still follow a partial path, in any order of codebooks.

docs/method.md, 4. A partial path is carried as the list of items that still match it. The first token looks that list
up (a posting list) without copying it, the second thins it out, and from there on few items are left. What can follow
one token is looked up as well. So the cost of a step depends on the length of posting lists and not on the size of the
catalogue, and no Python code runs over items.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = float("-inf")
# Bytes that a table over all tokens or posting lists may take; beyond, what is asked for is worked out each time.
_LARGEST_TABLE = 2**26


def pick_paths(values: Tensor, parents: Tensor) -> Tensor:
    """What paths have that continue others: ``[B, Q, ...]`` and int64 ``[B, W]`` to ``[B, W, ...]``.

    Whole rows, which takes a fraction of what gathering number by number does.
    """
    first = torch.arange(len(parents), device=parents.device).unsqueeze(1) * values.shape[1]
    return values.flatten(0, 1).index_select(0, (first + parents).flatten()).unflatten(0, parents.shape)


@dataclass(frozen=True)
class Candidates:
    """Items that still match partial paths, a list a path: ``values[start : start + count]``, ascending.

    Lists differ in length by orders of magnitude, so that they are not filled up to the longest.

    ``values``: int64 ``[V]``. ``starts``, ``counts``: int64 ``[...]``. ``tokens``: int64 ``[...]``, the token
    (``book * K + token``) whose posting list each one is what is left of; None: of no posting list. ``places``: int64
    ``[V]``, where the values stand in `Catalogue.postings`; None: there, as whole lists.
    """

    values: Tensor
    starts: Tensor
    counts: Tensor
    tokens: Tensor | None = None
    places: Tensor | None = None

    def __getitem__(self, paths: Any) -> Candidates:
        """Those of some paths, chosen by any index into ``[...]``; their lists are not copied."""
        tokens = self.tokens[paths] if self.tokens is not None else None
        return Candidates(self.values, self.starts[paths], self.counts[paths], tokens, self.places)

    def flat(self) -> Candidates:
        """The same with the paths in one row."""
        tokens = self.tokens.flatten() if self.tokens is not None else None
        return Candidates(self.values, self.starts.flatten(), self.counts.flatten(), tokens, self.places)

    def without(self, dead: Tensor) -> Candidates:
        """The same with empty lists for paths bool ``[...]``."""
        return Candidates(self.values, self.starts, self.counts.masked_fill(dead, 0))

    def entries(self) -> tuple[Tensor, Tensor]:
        """All lists, one behind the other: items int64 ``[N]`` and the number of the path, in ``[...]`` laid flat."""
        within, owners = self._within
        return self.values.index_select(0, within), owners

    @cached_property
    def _within(self) -> tuple[Tensor, Tensor]:
        """As `entries`, but places among the values."""
        counts = self.counts.flatten()
        owners = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        shift = self.starts.flatten() - (counts.cumsum(0) - counts)
        return shift.index_select(0, owners).add_(torch.arange(len(owners), device=counts.device)), owners

    @cached_property
    def posted(self) -> Tensor | None:
        """Where all `entries` stand in `Catalogue.postings`, int64 ``[N]``; None: of no posting list."""
        return None if self.tokens is None else self._posted(self._within[0])

    def _posted(self, within: Tensor) -> Tensor:
        return within if self.places is None else self.places.index_select(0, within)

    def padded(self) -> Tensor:
        """Lists side by side, int64 ``[..., P]``, 0 fills up; ``P`` is the length of the longest, or 1."""
        longest = max(1, int(self.counts.max())) if self.counts.numel() else 1
        places = torch.arange(longest, device=self.counts.device)
        inside = places < self.counts.unsqueeze(-1)
        if not len(self.values):
            return torch.zeros_like(inside, dtype=torch.int64)
        return self.values[(self.starts.unsqueeze(-1) + places) * inside] * inside

    def last(self) -> Tensor:
        """The last item of every list, int64 ``[...]``; none may be empty."""
        return self.values[self.starts + self.counts - 1]


class Catalogue(nn.Module):
    """The codes of all items, indexed by token.

    Args:
        codes: int64 ``[items + 1, M]``; row 0 is the padding item and never matches anything.
        codewords: ``K``.

    ``rows``: int64 ``[items + 1, M]``, codes as ``book * K + token``. ``used``: float32 ``[M, K]``, as `feasible`
    before the first token.
    """

    codes: Tensor
    rows: Tensor
    postings: Tensor
    starts: Tensor
    counts: Tensor
    used: Tensor
    _slots: Tensor | None

    def __init__(self, codes: Tensor, codewords: int) -> None:
        super().__init__()
        self.codebooks, self.codewords = codes.shape[1], codewords
        rows = codes + torch.arange(self.codebooks, device=codes.device) * codewords
        # Not in the state_dict: the codes come from the tokenizer, whose fingerprint the checkpoint holds.
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        # One posting list after the other, since they differ in length as much as tokens in use; each ascending.
        flat = rows[1:].T.reshape(-1)
        counts = torch.bincount(flat, minlength=self.codebooks * codewords)
        item = torch.arange(1, len(codes), device=codes.device).repeat(self.codebooks)
        self.register_buffer("postings", item[torch.argsort(flat, stable=True)], persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        used = torch.where(counts > 0, 0.0, NEVER).view(self.codebooks, codewords)
        self.register_buffer("used", used, persistent=False)
        self.register_buffer("_table", None, persistent=False)
        self.register_buffer("_slots", None, persistent=False)
        self._memory: Tensor | None = None

    @property
    def items(self) -> int:
        """Number of items without the padding item."""
        return len(self.codes) - 1

    def open(self, books: Tensor, tokens: Tensor) -> Candidates:
        """Items that carry one token: int64 ``[...]`` each."""
        rows = books * self.codewords + tokens
        return Candidates(self.postings, self.starts[rows], self.counts[rows], rows)

    def narrow(self, candidates: Candidates, books: Tensor, tokens: Tensor) -> Candidates:
        """Those of the candidates that also carry a token, int64 ``[...]`` each."""
        within, owners = candidates._within
        items = candidates.values.index_select(0, within)
        # Selecting by a flat index is several times as fast as indexing by items and books.
        places = (items * self.codebooks).add_(books.flatten().index_select(0, owners))
        carried = self.codes.flatten().index_select(0, places)
        keep = (carried == tokens.flatten().index_select(0, owners)).nonzero().squeeze(1)
        counts = torch.bincount(owners.index_select(0, keep), minlength=books.numel())
        starts = counts.cumsum(0) - counts
        return Candidates(
            items.index_select(0, keep),
            starts.view(books.shape),
            counts.view(books.shape),
            candidates.tokens,
            None if candidates.tokens is None else candidates._posted(within.index_select(0, keep)),
        )

    def slots(self) -> Tensor | None:
        """A place for each token of each entry of `postings`, the same for equal tokens within a list.

        Returns:
            int32 ``[M * items, M]``, places in a table of the list's items by codebooks: at the first item that carries
            the token. None where that takes too much memory.
        """
        if self._slots is None and 4 * len(self.postings) * self.codebooks <= _LARGEST_TABLE:
            lists = torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)
            place = torch.arange(len(lists), device=lists.device)
            slots = torch.empty(len(lists), self.codebooks, dtype=torch.int32, device=lists.device)
            for book in range(self.codebooks):
                tokens = lists * self.codewords + self.codes[self.postings, book]
                ordered, entry = torch.sort(tokens, stable=True)
                begins = F.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)
                first = entry.index_select(0, (place * begins).cummax(0).values)
                slots[entry, book] = ((first - self.starts[lists[entry]]) * self.codebooks + book).int()
            self._slots = slots
        return self._slots

    def feasible(self, candidates: Candidates) -> Tensor:
        """What some candidate carries, float32 ``[..., M, K]``: 0 for such tokens, -inf for the others.

        It is added to logits, which takes a fraction of the time of filling them by a mask.
        """
        if candidates.tokens is not None and candidates.places is None:
            found = self._following(candidates.tokens.flatten())
        else:
            found = self._carried(candidates)
        return found.view(*candidates.counts.shape, self.codebooks, self.codewords)

    def for_another_thread(self) -> Catalogue:
        """The same, not copied, but for what `scratch` writes into."""
        other = copy.copy(self)
        other._memory = None
        return other

    def scratch(self, size: int) -> Tensor:
        """``size`` zeros, float32, in memory that the next call writes into; so does `notes`.

        Tables of all tokens are of many megabytes, which the system takes twenty times as long to find as to clear.
        """
        return self._room(size).zero_()

    def notes(self, size: int) -> Tensor:
        """The same as int32 and as they were left, for those who read only what they have just written."""
        return self._room(size).view(torch.int32)

    def _room(self, size: int) -> Tensor:
        if self._memory is None or len(self._memory) < size or self._memory.device != self.codes.device:
            self._memory = torch.zeros(size, device=self.codes.device)
        return self._memory[:size]

    def _carried(self, candidates: Candidates) -> Tensor:
        """As `feasible`, ``[R, M * K]``."""
        items, owners = candidates.entries()
        width = self.codebooks * self.codewords
        found = torch.full((candidates.counts.numel(), width), NEVER, device=items.device)
        places = self.rows.index_select(0, items) + (owners * width).unsqueeze(1)
        found.view(-1).index_fill_(0, places.flatten(), 0.0)
        return found

    def _following(self, tokens: Tensor) -> Tensor:
        """What can follow one token, int64 ``[R]`` to ``[R, M * K]``."""
        width = self.codebooks * self.codewords
        if 4 * width * width > _LARGEST_TABLE:
            # Many paths, few distinct first tokens.
            tokens, belongs = torch.unique(tokens, return_inverse=True)
            return self._carried(self._lists_of(tokens)).index_select(0, belongs)
        if self._table is None:
            self._table = self._carried(self._lists_of(torch.arange(width, device=tokens.device)))
        return self._table.index_select(0, tokens)

    def _lists_of(self, tokens: Tensor) -> Candidates:
        return Candidates(self.postings, self.starts[tokens], self.counts[tokens])

    _table: Tensor | None


def feasible_log_softmax(logits: Tensor, feasible: Tensor) -> Tensor:
    """Log-probabilities per codebook over feasible tokens; both ``[..., K]``, see `Catalogue.feasible`.

    Infeasible tokens get -inf; a codebook with no feasible token gets -inf everywhere instead of NaN.
    """
    return log_softmax_or_never(logits + feasible)


def log_softmax_or_never(logits: Tensor) -> Tensor:
    """``log_softmax`` over the last dimension that leaves rows of -inf as they are."""
    # Not by logsumexp: its exponential is several times as slow where it meets -inf.
    log_probs = logits.log_softmax(-1)
    nothing = logits.amax(-1, keepdim=True).isneginf()
    return log_probs.masked_fill(nothing, NEVER) if bool(nothing.any()) else log_probs
