"""How probable tokens are, given what the decoder holds and what is still feasible (docs/method.md, 2).

`CodebookScorer`: the feasible tokens of each codebook among themselves, codebook by codebook. `CatalogueScorer`: the
feasible items among themselves; a token gets the total of those that carry it. Its steps agree with each other by
construction: whatever the order of codebooks, a decoder that learns nothing from them leaves the items' probabilities
as they are, and what it learns are corrections. It can also decide at once among the items that are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_reg4rec.decoding.beam import surest
from recbole_reg4rec.decoding.catalogue import NEVER, Candidates, Catalogue, feasible_log_softmax
from recbole_reg4rec.decoding.shares import RemainingShares
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.marginals import book_marginals, pair_scores
from recbole_reg4rec.model.reasoner import Reasoner
from recbole_reg4rec.model.sampled_softmax import ItemSample
from recbole_reg4rec.model.softmax import catalogue_cross_entropy

# Paths whose tables of all tokens are held at a time; of twice as many they leave the cache.
_PART = 128
_TINY = torch.finfo(torch.float32).tiny


class TokenScorer(Protocol):
    """What training, decoding and explanations ask; ``candidates``: what is left to each path, None before a token."""

    def log_probs(self, hidden: Tensor, candidates: Candidates | None) -> Tensor:
        """Of tokens within their codebooks: ``[..., h]`` to float32 ``[..., M, K]``; -inf for what is not feasible."""

    def loss(self, hidden: Tensor, candidates: Candidates | None, targets: Tensor, is_open: Tensor) -> Tensor:
        """Negative log-likelihood of a step, mean over contexts; scalar, nats.

        Args:
            hidden: ``[R, h]``.
            candidates: those of the ``R`` prefixes, which the targets are among.
            targets: int64 ``[R]``, items.
            is_open: bool ``[R, M]``, codebooks that are open, as many in every row.
        """

    def confidence(self, hidden: Tensor, candidates: Candidates | None, closed: Tensor) -> Tensor:
        """Largest log-probability of each codebook's tokens: ``[N, h]`` to float32 ``[N, M]``, no gradient.

        ``closed``: bool ``[N, M]``, codebooks that get -inf.
        """

    def first(self, hidden: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Before a token: the surest codebook of paths ``[N, h]``, int64 ``[N]``, and what it holds, ``[N, K]``.

        The latter as `book_log_probs`; no gradient.
        """

    def open(self, books: Tensor, candidates: Candidates | None) -> OpenTokens:
        """Which tokens of one codebook can follow each path, int64 ``[N]``."""

    def book_log_probs(self, hidden: Tensor, books: Tensor, open_tokens: OpenTokens, temperature: float) -> Tensor:
        """Of the tokens of one codebook each: ``[N, h]``, int64 ``[N]`` to float32 in the columns of ``open_tokens``.

        -inf where nothing is open.
        """


@dataclass(frozen=True)
class OpenTokens:
    """What can follow ``N`` paths, and in which columns `TokenScorer.book_log_probs` gives it.

    Either all tokens have a column each: ``feasible`` bool ``[N, K]``, None where that is known anyway. Or those that
    are open do, from left to right: ``tokens`` int64 ``[N, D]``, -1 fills up. ``candidates``: items left to the paths.
    """

    feasible: Tensor | None = None
    candidates: Candidates | None = None
    tokens: Tensor | None = None

    def __getitem__(self, paths: Tensor) -> OpenTokens:
        """Those of some paths, by any index into ``[N]``."""
        return OpenTokens(
            None if self.feasible is None else self.feasible[paths],
            None if self.candidates is None else self.candidates[paths],
            None if self.tokens is None else self.tokens[paths],
        )

    def token(self, paths: Tensor, columns: Tensor) -> Tensor:
        """The tokens in some columns of some paths, int64 ``[L]`` each."""
        return columns if self.tokens is None else self.tokens[paths, columns]

    def column(self, paths: Tensor, tokens: Tensor) -> Tensor:
        """The columns of some open tokens of some paths, int64 ``[L]`` each."""
        if self.tokens is None:
            return tokens
        return (self.tokens[paths] == tokens.unsqueeze(1)).int().argmax(1)


def reasoning_steps(config: Any) -> int:
    """Steps of a path, at most one a codebook, by the settings ``reasoning_steps`` and ``token_softmax``.

    Raises:
        UserError: paths are to end early, but nothing can decide among the items that are left.
    """
    steps, books = int(config["reasoning_steps"]), int(config["codebooks"])
    if steps < books and config["token_softmax"] == "codebook":
        raise UserError(
            f"setting reasoning_steps is {steps} and codebooks {books}, but with token_softmax: codebook a path has to "
            f"spell all tokens; make reasoning_steps {books} or more, or set token_softmax: catalogue"
        )
    return min(steps, books)


@dataclass(frozen=True)
class CodebookScorer:
    """A softmax over the feasible tokens of each codebook (our choice)."""

    reasoner: Reasoner
    catalogue: Catalogue

    def log_probs(self, hidden: Tensor, candidates: Candidates | None) -> Tensor:
        """See `TokenScorer`."""
        feasible = self.catalogue.used if candidates is None else self.catalogue.feasible(candidates)
        return feasible_log_softmax(self.reasoner.token_logits(hidden).float(), feasible)

    def loss(self, hidden: Tensor, candidates: Candidates | None, targets: Tensor, is_open: Tensor) -> Tensor:
        """See `TokenScorer`; the true tokens of all open codebooks are charged in equal shares."""
        log_probs = self.log_probs(hidden, candidates)
        nll = -log_probs.gather(-1, self.catalogue.codes[targets].unsqueeze(-1)).squeeze(-1)
        return (nll * is_open).sum() / is_open.sum()

    @torch.no_grad()
    def confidence(self, hidden: Tensor, candidates: Candidates | None, closed: Tensor) -> Tensor:
        """See `TokenScorer`."""
        projected, feasible = self.reasoner.query(hidden), self._feasible(candidates, closed)
        confidence = torch.full(closed.shape, NEVER, device=closed.device)
        for book in range(closed.shape[1]):
            nodes = (~closed[:, book]).nonzero().squeeze(1)
            logits = self.reasoner.chosen_logits(projected.index_select(0, nodes), nodes.new_full((len(nodes),), book))
            logits = logits.float() + feasible[nodes, book]
            confidence[nodes, book] = logits.amax(-1) - logits.logsumexp(-1)
        return confidence

    @torch.no_grad()
    def first(self, hidden: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """See `TokenScorer`."""
        closed = torch.zeros(len(hidden), self.catalogue.codebooks, dtype=torch.bool, device=hidden.device)
        books = surest(self.confidence(hidden, None, closed)).squeeze(-1)
        return books, self.book_log_probs(hidden, books, self.open(books, None), temperature)

    def open(self, books: Tensor, candidates: Candidates | None) -> OpenTokens:
        """See `TokenScorer`."""
        feasible = self._feasible(candidates, books)
        return OpenTokens(feasible[torch.arange(len(books), device=books.device), books] == 0)

    def book_log_probs(self, hidden: Tensor, books: Tensor, open_tokens: OpenTokens, temperature: float) -> Tensor:
        """See `TokenScorer`."""
        assert open_tokens.feasible is not None
        logits = self.reasoner.chosen_logits(self.reasoner.query(hidden), books).float()
        if temperature != 1.0:
            logits = logits / temperature
        return logits.masked_fill(~open_tokens.feasible, NEVER).log_softmax(-1)

    def _feasible(self, candidates: Candidates | None, like: Tensor) -> Tensor:
        """See `Catalogue.feasible`, for as many paths as ``like`` has rows."""
        if candidates is None:
            return self.catalogue.used.expand(len(like), -1, -1)
        return self.catalogue.feasible(candidates)


class CatalogueScorer:
    """A softmax over the feasible items, added up by token (our choice).

    Made anew for every batch in training: the items' vectors are computed once for all steps.

    Args:
        sample: the items that the loss of the first step goes over, in place of all.
    """

    def __init__(self, reasoner: Reasoner, catalogue: Catalogue, sample: ItemSample | None = None) -> None:
        self._reasoner, self._catalogue, self._sample = reasoner, catalogue, sample
        # At once, whoever asks first and with or without a gradient; a sample leaves it to those who want all items.
        self._all = reasoner.vectors().float() if sample is None else None
        # What was last asked for: choosing a codebook and its token need the same.
        self._asked: tuple[Tensor, Candidates, _Left] | None = None
        self._listed: tuple[Tensor, Candidates, tuple[Tensor, Tensor, Tensor, Tensor]] | None = None

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
        found = item_log_probs.topk(min(count, item_log_probs.shape[1] - 1), dim=1, sorted=False).indices
        items = found.sort(dim=1).values
        owners = torch.arange(len(items), device=items.device).repeat_interleave(items.shape[1])
        shares = item_log_probs.gather(1, items).exp().flatten()
        return RemainingShares(self._catalogue, items.flatten(), owners, shares, (len(items), 1))

    def shares_after(self, hidden: Tensor, candidates: Candidates) -> RemainingShares:
        """Probabilities of tokens within their codebooks after some were taken: ``[B, Q, h]``, of ``[B, Q]`` paths."""
        return self._remaining(self._among(hidden.flatten(0, 1), candidates), hidden.shape[0], hidden.shape[1])

    def _remaining(self, left: _Left, batch: int, queries: int) -> RemainingShares:
        shares = left.weights.detach() / left.totals.detach().index_select(0, left.owners)
        return RemainingShares(self._catalogue, left.items, left.owners, shares, (batch, queries))

    @torch.no_grad()
    def _shares(self, hidden: Tensor, candidates: Candidates | None) -> Tensor:
        if candidates is not None:
            paths = hidden.flatten(0, -2)
            table = self._remaining(self._among(paths, candidates), len(paths), 1).table()
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
        if candidates is None and sample is None:
            return catalogue_cross_entropy(queries, self._vectors, targets)
        if candidates is None:
            assert sample is not None
            vectors = self._reasoner.vectors.of(sample.items).float()
            # Beside the bias of tokens, which the 1 behind each query is for.
            vectors = vectors + F.pad(sample.log_weights.unsqueeze(1), (vectors.shape[1] - 1, 0))
            return catalogue_cross_entropy(queries, vectors, sample.places(targets))
        left = self._among(hidden, candidates)
        vectors, places = self._compared(targets)
        own = (vectors.index_select(0, places) * queries).sum(-1) - left.largest
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
            parts = range(0, len(hidden), _PART)
            found = torch.cat([self._first_shares(hidden[begin : begin + _PART]).amax(1).T for begin in parts])
        else:
            found = self._remaining(self._among(hidden, candidates), len(hidden), 1).largest().squeeze(1)
        return found.log().masked_fill(closed, NEVER)

    @torch.no_grad()
    def first(self, hidden: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """See `TokenScorer`."""
        found: tuple[list[Tensor], list[Tensor]] = [], []
        for begin in range(0, len(hidden), _PART):
            shares = self._first_shares(hidden[begin : begin + _PART])
            books = surest(shares.amax(1).T.log()).squeeze(-1)
            found[0].append(books)
            found[1].append(shares[books, :, torch.arange(len(books), device=books.device)])
        books, shares = (torch.cat(parts) for parts in found)
        log_probs = shares.clamp_(min=_TINY).log_().masked_fill_(self._catalogue.used[books].isinf(), NEVER)
        return books, log_probs if temperature == 1.0 else (log_probs / temperature).log_softmax(-1)

    def _first_shares(self, hidden: Tensor) -> Tensor:
        """Shares of all tokens before the first is taken, a path a column: ``[R, h]`` to float32 ``[M, K, R]``."""
        catalogue = self._catalogue
        # A row an item throughout, see `token_shares`; nothing is turned around.
        logits = _products(self._vectors, self._queries(hidden))
        logits[0] = NEVER
        shares = F.embedding_bag(catalogue.postings, logits.softmax(0), catalogue.starts, mode="sum")
        return shares.view(catalogue.codebooks, catalogue.codewords, -1)

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
            log_shares = book_marginals(queries, self._vectors, catalogue.codes, books, words)
            log_probs = log_shares.masked_fill(catalogue.used[books].isinf(), NEVER)
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
        return left @ right.T


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
