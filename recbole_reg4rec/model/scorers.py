"""How probable tokens are, given what the decoder holds and what is still feasible (docs/method.md, 2).

`TokenScorer` is what there is to ask. `CodebookScorer` answers by a softmax over the feasible tokens of each codebook,
`catalogue_scorer.CatalogueScorer` by one over the feasible items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recbole_reg4rec.decoding.beam import surest
from recbole_reg4rec.decoding.catalogue import NEVER, Candidates, Catalogue, feasible_log_softmax
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.reasoner import Reasoner


class TokenScorer(Protocol):
    """What training, decoding and explanations ask; ``candidates``: what is left to each path, None before a token."""

    def at(self, contexts: Tensor) -> TokenScorer:
        """The same for rows of states of these contexts, int64 ``[N]``, in each of which items may have other odds."""

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

    def at(self, contexts: Tensor) -> CodebookScorer:
        """See `TokenScorer`; here all contexts are alike."""
        return self

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
