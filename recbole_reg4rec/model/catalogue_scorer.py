"""A softmax over the items that are feasible; a token gets the total of those that carry it (docs/method.md, 2).

Its steps agree with each other by construction: whatever the order of codebooks, a decoder that learns nothing from
them leaves the items' probabilities as they are, and what it learns are corrections. It can also decide at once among
the items that are left.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_reg4rec.decoding.beam import surest
from recbole_reg4rec.decoding.catalogue import NEVER, Candidates, Catalogue
from recbole_reg4rec.decoding.shares import RemainingShares
from recbole_reg4rec.model.likeliest import likeliest
from recbole_reg4rec.model.marginals import book_marginals, pair_scores
from recbole_reg4rec.model.reasoner import Reasoner
from recbole_reg4rec.model.repeat import SeenOdds
from recbole_reg4rec.model.sampled_softmax import ItemSample
from recbole_reg4rec.model.scorers import OpenTokens
from recbole_reg4rec.model.softmax import catalogue_cross_entropy, products

# Paths whose tables of all tokens are held at a time; of twice as many they leave the cache.
_PART = 128
_TINY = torch.finfo(torch.float32).tiny


class CatalogueScorer:
    """A softmax over the feasible items, added up by token (our choice).

    Made anew for every batch in training: the items' vectors are computed once for all steps.

    Args:
        sample: the items that the loss of the first step goes over, in place of all.
        odds: what to add to the logits of items in each context. Rows of states are those of the contexts in order, as
            many for each, unless `at` says which context each is of.
    """

    def __init__(
        self,
        reasoner: Reasoner,
        catalogue: Catalogue,
        sample: ItemSample | None = None,
        odds: SeenOdds | None = None,
    ) -> None:
        self._reasoner, self._catalogue, self._sample, self._odds = reasoner, catalogue, sample, odds
        self._contexts: Tensor | None = None
        # At once, whoever asks first and with or without a gradient; a sample leaves it to those who want all items.
        self._all = reasoner.vectors().float() if sample is None else None
        # What was last asked for: choosing a codebook and its token need the same.
        self._asked: tuple[Tensor, Candidates, _Left] | None = None
        self._listed: tuple[Tensor, Candidates, tuple[Tensor, Tensor, Tensor, Tensor]] | None = None

    def at(self, contexts: Tensor) -> CatalogueScorer:
        """See `TokenScorer`."""
        found = copy.copy(self)
        found._contexts, found._asked, found._listed = contexts, None, None
        return found

    def _contexts_of(self, odds: SeenOdds, rows: int) -> Tensor:
        """The context of each of so many rows of states, int64 ``[rows]``."""
        if self._contexts is not None:
            return self._contexts
        each = rows // max(1, odds.contexts)
        return torch.arange(odds.contexts, device=odds.places.device).repeat_interleave(each)

    def _extra(self, rows: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """What is added to the logits of all items, see `softmax`, of so many rows of states before the first token."""
        if self._odds is None:
            return None
        if self._contexts is None and rows == self._odds.contexts:
            return self._odds.entries()
        return self._odds.take(self._contexts_of(self._odds, rows)).entries()

    @property
    def _vectors(self) -> Tensor:
        """What items are compared by, float32 ``[items + 1, d + 1]``; with a sample it carries no gradient."""
        if self._all is None:
            with torch.no_grad():
                self._all = self._reasoner.vectors().float()
        return self._all

    def item_log_probs(self, hidden: Tensor) -> Tensor:
        """Before the first token: ``[R, h]`` to float32 ``[R, items + 1]``; the padding item never wins."""
        logits = _products(self._queries(hidden), self._vectors)
        if (extra := self._extra(len(hidden))) is not None:
            rows, items, values = extra
            logits.view(-1).index_add_(0, rows * logits.shape[1] + items, values)
        logits[:, 0] = -1e4
        return logits.log_softmax(-1)

    def token_shares(self, item_log_probs: Tensor) -> Tensor:
        """What these items' probabilities mean for tokens: float32 ``[R, items + 1]`` to ``[R, M, K]``."""
        catalogue = self._catalogue
        # A row an item, so that what is added up lies together.
        shares = F.embedding_bag(catalogue.postings, item_log_probs.exp().T.contiguous(), catalogue.starts, mode="sum")
        # Seen as a row a path without being turned around, which would take as long as adding up.
        return shares.view(catalogue.codebooks, catalogue.codewords, -1).permute(2, 0, 1)

    def likely_shares(self, item_log_probs: Tensor, count: int) -> RemainingShares:
        """As `token_shares`, of the ``count`` likeliest items of each row alone, of ``[R, 1]`` paths."""
        items = likeliest(item_log_probs, min(count, item_log_probs.shape[1] - 1))
        owners = torch.arange(len(items), device=items.device).repeat_interleave(items.shape[1])
        shares = item_log_probs.gather(1, items).exp().flatten()
        return RemainingShares(self._catalogue, items.flatten(), owners, shares, (len(items), 1))

    def shares_after(self, hidden: Tensor, candidates: Candidates) -> RemainingShares:
        """Probabilities of tokens within their codebooks after some were taken: ``[B, Q, h]``, of ``[B, Q]`` paths."""
        return self._remaining(hidden.flatten(0, 1), candidates, hidden.shape[0], hidden.shape[1])

    def _remaining(self, hidden: Tensor, candidates: Candidates, batch: int, queries: int) -> RemainingShares:
        left = self._among(hidden, candidates)
        shares = left.weights.detach() / left.totals.detach().index_select(0, left.owners)
        return RemainingShares(self._catalogue, left.items, left.owners, shares, (batch, queries), candidates)

    @torch.no_grad()
    def _shares(self, hidden: Tensor, candidates: Candidates | None) -> Tensor:
        if candidates is not None:
            paths = hidden.flatten(0, -2)
            table = self._remaining(paths, candidates, len(paths), 1).table()
            return table.view(*hidden.shape[:-1], *table.shape[2:])
        found = self.token_shares(self.item_log_probs(hidden.flatten(0, -2)))
        return found.reshape(*hidden.shape[:-1], *found.shape[1:])

    def log_probs(self, hidden: Tensor, candidates: Candidates | None) -> Tensor:
        """See `TokenScorer`; carries no gradient."""
        return self._shares(hidden, candidates).log()

    def answer(self, hidden: Tensor, candidates: Candidates) -> Tensor:
        """Log-probabilities of the candidates, laid out as `Candidates.padded`: float32 ``[..., P]``, -inf fills up."""
        left = self._among(hidden.flatten(0, -2), candidates)
        log_probs = left.scores - left.totals.log().index_select(0, left.owners)
        counts = candidates.counts.flatten()
        longest = max(1, int(counts.max())) if counts.numel() else 1
        place = torch.arange(len(left.owners), device=counts.device) - (counts.cumsum(0) - counts)[left.owners]
        out = log_probs.new_full((counts.numel(), longest), NEVER)
        return out.index_put((left.owners, place), log_probs).view(*candidates.counts.shape, longest)

    def loss(self, hidden: Tensor, candidates: Candidates | None, targets: Tensor, is_open: Tensor) -> Tensor:
        """See `TokenScorer`; every step is charged for the item, so that it may be the last one."""
        queries, sample = self._queries(hidden), self._sample
        extra = self._extra(len(hidden)) if candidates is None else None
        if candidates is None and sample is None:
            return catalogue_cross_entropy(queries, self._vectors, targets, extra)
        if candidates is None:
            assert sample is not None
            if extra is not None:
                extra = extra[0], sample.places(extra[1]), extra[2]
            vectors = self._reasoner.vectors.of(sample.items).float()
            # Beside the bias of tokens, which the 1 behind each query is for.
            vectors = vectors + F.pad(sample.log_weights.unsqueeze(1), (vectors.shape[1] - 1, 0))
            return catalogue_cross_entropy(queries, vectors, sample.places(targets), extra)
        left = self._among(hidden, candidates)
        vectors, places = self._compared(targets)
        own = (vectors.index_select(0, places) * queries).sum(-1) - left.largest
        if self._odds is not None:
            own = own + self._odds.look_up(self._contexts_of(self._odds, len(hidden)), targets)
        return (left.totals.log() - own).mean()

    def _compared(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors, float32 ``[V, d + 1]``, and where those of some items, int64 ``[N]``, stand among them."""
        if self._sample is None:
            return self._vectors, items
        distinct, places = torch.unique(items, return_inverse=True)
        return self._reasoner.vectors.of(distinct).float(), places

    def confidence(self, hidden: Tensor, candidates: Candidates | None, closed: Tensor) -> Tensor:
        """See `TokenScorer`."""
        if candidates is None:
            found = torch.cat([shares.amax(1).T for shares in self._first_shares(hidden)])
        else:
            found = self._remaining(hidden, candidates, len(hidden), 1).largest().squeeze(1)
        return found.log().masked_fill(closed, NEVER)

    @torch.no_grad()
    def first(self, hidden: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """See `TokenScorer`."""
        found: tuple[list[Tensor], list[Tensor]] = [], []
        for shares in self._first_shares(hidden):
            books = surest(shares.amax(1).T.log()).squeeze(-1)
            found[0].append(books)
            found[1].append(shares[books, :, torch.arange(len(books), device=books.device)])
        books, shares = (torch.cat(parts) for parts in found)
        log_probs = shares.clamp_(min=_TINY).log_().add_(self._catalogue.used[books])
        return books, log_probs if temperature == 1.0 else (log_probs / temperature).log_softmax(-1)

    def _first_shares(self, hidden: Tensor) -> Iterator[Tensor]:
        """Shares of all tokens before the first is taken, ``[R, h]`` to float32 ``[M, K, r]``, some paths at a time."""
        catalogue, contexts = self._catalogue, None
        if self._odds is not None:
            contexts = self._contexts_of(self._odds, len(hidden))
        for begin in range(0, len(hidden), _PART):
            part = hidden[begin : begin + _PART]
            # A row an item throughout, see `token_shares`; nothing is turned around.
            logits = _products(self._vectors, self._queries(part))
            if self._odds is not None and contexts is not None:
                paths, items, values = self._odds.take(contexts[begin : begin + _PART]).entries()
                logits.view(-1).index_add_(0, items * len(part) + paths, values)
            logits[0] = NEVER
            shares = F.embedding_bag(catalogue.postings, logits.softmax(0), catalogue.starts, mode="sum")
            yield shares.view(catalogue.codebooks, catalogue.codewords, -1)

    def open(self, books: Tensor, candidates: Candidates | None) -> OpenTokens:
        """See `TokenScorer`; few of many tokens can follow a path, and only these have columns."""
        if candidates is None:
            return OpenTokens()
        _, tokens, owners, columns = self._carried(books, candidates)
        listed = books.new_full((len(books), int(columns.max()) + 1 if len(columns) else 1), -1)
        return OpenTokens(None, candidates, listed.index_put((owners, columns), tokens))

    def _carried(self, books: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What tokens of a path's codebook the candidates carry.

        Returns:
            int64 each: by candidate the number of its token among the distinct ones of all paths; by these the token,
            its path, and its place among those of the path, ascending.
        """
        if self._listed is not None and self._listed[0] is books and self._listed[1] is candidates:
            return self._listed[2]
        words = self._catalogue.codewords
        items, paths = candidates.entries()
        carried = self._catalogue.codes[items, books.index_select(0, paths)]
        keys, number = torch.unique(paths * words + carried, return_inverse=True)
        owners = keys // words
        counts = torch.bincount(owners, minlength=len(books))
        columns = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts).index_select(0, owners)
        self._listed = books, candidates, (number, keys % words, owners, columns)
        return self._listed[2]

    def book_log_probs(self, hidden: Tensor, books: Tensor, open_tokens: OpenTokens, temperature: float) -> Tensor:
        """See `TokenScorer`."""
        catalogue, candidates = self._catalogue, open_tokens.candidates
        if candidates is None:
            queries, words = self._queries(hidden), catalogue.codewords
            extra = self._extra(len(hidden))
            log_shares = book_marginals(queries, self._vectors, catalogue.codes, books, words, extra=extra)
            log_probs = log_shares + catalogue.used[books]
        else:
            assert open_tokens.tokens is not None
            left = self._among(hidden, candidates)
            number, tokens, owners, columns = self._carried(books, candidates)
            mass = left.weights.new_zeros(len(tokens)).index_add(0, number, left.weights)
            log_shares = mass.clamp(min=_TINY).log() - left.totals.log().index_select(0, owners)
            log_probs = log_shares.new_full(open_tokens.tokens.shape, NEVER).index_put((owners, columns), log_shares)
        return log_probs if temperature == 1.0 else (log_probs / temperature).log_softmax(-1)

    def _queries(self, hidden: Tensor) -> Tensor:
        """What item vectors are compared with: ``[R, h]`` to float32 ``[R, d + 1]``."""
        projected = self._reasoner.query(hidden).float()
        return torch.cat([projected, projected.new_ones(len(projected), 1)], dim=1)

    def _among(self, hidden: Tensor, candidates: Candidates) -> _Left:
        """The softmax over the candidates of each prefix, ``hidden`` ``[R, h]``."""
        if self._asked is not None and self._asked[0] is hidden and self._asked[1] is candidates:
            return self._asked[2]
        items, owners = candidates.entries()
        queries = self._queries(hidden)
        vectors, places = self._compared(items)
        scores = pair_scores(queries, vectors, owners, places)
        if self._odds is not None:
            scores = scores + self._odds.look_up(self._contexts_of(self._odds, len(queries))[owners], items)
        largest = scores.new_full((len(queries),), NEVER).scatter_reduce(0, owners, scores.detach(), "amax")
        scores = scores - largest.index_select(0, owners)
        weights = scores.exp()
        totals = weights.new_zeros(len(queries)).index_add(0, owners, weights)
        left = _Left(items, owners, scores, weights, totals, largest)
        self._asked = hidden, candidates, left
        return left


def _products(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` in float32 in mixed precision too: sampled and replayed probabilities must be the same."""
    with torch.autocast(left.device.type, enabled=False):
        return products(left, right)


@dataclass(frozen=True)
class _Left:
    """``N`` candidates of ``R`` prefixes. ``items``, ``owners``: int64 ``[N]``.

    ``scores``, ``weights``: float32 ``[N]``, logits less the largest of the prefix, and their exponentials. ``totals``,
    ``largest``: float32 ``[R]``, by prefix, the sum of the latter and what was taken off the logits.
    """

    items: Tensor
    owners: Tensor
    scores: Tensor
    weights: Tensor
    totals: Tensor
    largest: Tensor
