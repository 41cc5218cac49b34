"""A reasoning session as beam search and CORP ask it (docs/method.md, 2 and 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_reg4rec.decoding.catalogue import Candidates
from recbole_reg4rec.decoding.shares import RemainingShares, TokenShares
from recbole_reg4rec.model.catalogue_scorer import CatalogueScorer
from recbole_reg4rec.model.reasoner import Reasoner, ReasoningSession
from recbole_reg4rec.model.scorers import TokenScorer

# In larger catalogues paths are sought among the likeliest items alone: adding up all of them by token and following
# posting lists that grow with the catalogue would take longer than everything else, and the paths kept lead to these.
_LARGE, _LIKELY = 65_536, 1_024


class Steps:
    """Shows a reasoning session to beam search as shares or logits of tokens, and to CORP as categories.

    ``prior``: float32 ``[B, items + 1]`` after `first`, None where the scorer knows no items.
    """

    _states: Tensor
    _shares: RemainingShares | None = None

    def __init__(self, reasoner: Reasoner, session: ReasoningSession, scorer: TokenScorer) -> None:
        self._reasoner, self._session, self._scorer = reasoner, session, scorer
        self.prior: Tensor | None = None

    def first(self) -> Tensor:
        self._states = self._session.begin()
        if isinstance(self._scorer, CatalogueScorer):
            self.prior = self._scorer.item_log_probs(self._states[:, 0])
            if self.prior.shape[1] > _LARGE:
                self._shares = self._scorer.likely_shares(self.prior, _LIKELY)
                # Kept by who asked, while the next shares are written into the same memory.
                return self._shares.table().clone()
            return self._scorer.token_shares(self.prior).unsqueeze(1)
        return self._reasoner.token_logits(self._states).float()

    def among(self) -> Candidates | None:
        """After `first`: the items that paths may lead to, a list a user, ``[B, 1]``; None for all."""
        if self._shares is None:
            return None
        users = self._shares.shape[0]
        counts = torch.full((users, 1), len(self._shares.items) // users, device=self._shares.items.device)
        return Candidates(self._shares.items, counts.cumsum(0) - counts, counts)

    def advance(self, parents: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor | TokenShares:
        self._go_on(parents, books, tokens)
        if isinstance(self._scorer, CatalogueScorer):
            return self._scorer.shares_after(self._states, candidates)
        return self._reasoner.token_logits(self._states).float()

    def answer(self, parents: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor:
        assert isinstance(self._scorer, CatalogueScorer), "the others spell all tokens"
        self._go_on(parents, books, tokens)
        return self._scorer.answer(self._states, candidates)

    def _go_on(self, parents: Tensor, books: Tensor, tokens: Tensor) -> None:
        self._session.follow(parents)
        self._states = self._session.take(self._reasoner.table.tokens(books, tokens))

    def categories(self) -> Tensor:
        return self._reasoner.category_logits(self._states).float().log_softmax(-1)
