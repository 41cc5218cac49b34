"""Stage 1 of reasoning: the true paths, walked from every position at once (docs/method.md, 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_reg4rec.decoding.beam import surest
from recbole_reg4rec.decoding.catalogue import Candidates, Catalogue
from recbole_reg4rec.model.history import History
from recbole_reg4rec.model.reasoner import Reasoner, ReasoningSession
from recbole_reg4rec.model.scorers import TokenScorer, reasoning_steps


@dataclass(frozen=True)
class Supervision:
    """Charges every step of the true paths for all that is left of the item.

    ``catalogue``: what is feasible. ``steps``: of a path. ``later_steps``: weight of every step but the first.
    ``later_share``: of the rows of a batch that these are trained on. ``order``: of codebooks, one of
    `decoding.beam.ORDERS`. ``category_weight``: of the category loss.
    """

    catalogue: Catalogue
    steps: int
    later_steps: float
    later_share: float
    order: str
    category_weight: float

    @classmethod
    def from_settings(cls, config: Any, catalogue: Catalogue) -> Supervision:
        """By the settings of the same names, ``order`` by ``training_order``; for errors see `reasoning_steps`."""
        return cls(
            catalogue,
            reasoning_steps(config),
            float(config["later_steps"]),
            float(config["later_share"]),
            str(config["training_order"]),
            float(config["category_weight"]),
        )

    def losses(
        self, reasoner: Reasoner, scorer: TokenScorer, history: History, targets: Tensor, members: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Token loss and weighted category loss, nats a target, scalars.

        The first step is taken everywhere, those behind it only on some of the rows.

        Args:
            reasoner: of stage 1.
            scorer: turns its states into probabilities; its contexts are the targets that there are, in order.
            history: ``B`` encoded rows of ``T`` items.
            targets: int64 ``[B, T]``, what comes next at each place, 0 for none.
            members: int64 ``[items + 1, C]``, categories of items, 0 fills up.
        """
        trained = targets > 0
        wanted = targets[trained]
        session = self._walk(reasoner, history)
        hidden = session.begin()
        is_open = torch.ones(len(wanted), self.catalogue.codebooks, dtype=torch.bool, device=wanted.device)
        token_loss = scorer.loss(hidden[trained], None, wanted, is_open)
        of_categories = self._of_categories(reasoner, hidden[trained], members[wanted])
        if self.steps > 1 and self.later_share < 1.0:
            draw = torch.rand(len(targets), device=targets.device)
            rows = (draw <= draw.min().clamp(min=self.later_share)).nonzero().squeeze(1)
            number = (trained.flatten().cumsum(0) - 1).view_as(trained)
            scorer = scorer.at(number[rows][trained[rows]])
            history, trained = history.only(rows), trained[rows]
            wanted = targets[rows][trained]
            session = self._walk(reasoner, history)
            hidden, is_open = session.begin(), is_open[: len(wanted)]
        order = self._given_order(len(wanted), wanted.device)
        codes, number = self.catalogue.codes[wanted], torch.arange(len(wanted), device=wanted.device)
        candidates: Candidates | None = None
        for step in range(1, self.steps):
            if order is None:
                book = surest(scorer.confidence(hidden[trained].detach(), candidates, ~is_open)).squeeze(-1)
            else:
                book = order[:, step - 1]
            is_open = is_open.clone()
            is_open[number, book] = False
            token = codes[number, book]
            if candidates is None:
                candidates = self.catalogue.open(book, token)
            else:
                candidates = self.catalogue.narrow(candidates, book, token)
            embedded = hidden.new_zeros(*hidden.shape[:-1], reasoner.width)
            embedded[trained] = reasoner.table.tokens(book, token).to(hidden.dtype)
            hidden = session.take(embedded)
            of_tokens = scorer.loss(hidden[trained], candidates, wanted, is_open)
            token_loss = token_loss + self.later_steps * of_tokens
            of_categories = of_categories + self._of_categories(reasoner, hidden[trained], members[wanted])
        return token_loss, self.category_weight * of_categories

    @staticmethod
    def _walk(reasoner: Reasoner, history: History) -> ReasoningSession:
        """Paths from every position of histories."""
        return reasoner.session(history, history.last, history.mask(), causal=history.causal)

    def _of_categories(self, reasoner: Reasoner, states: Tensor, members: Tensor) -> Tensor:
        """One step's part of the category loss."""
        if self.category_weight == 0:
            return states.new_zeros(())
        return category_loss(reasoner.category_logits(states), members) / self.steps

    def _given_order(self, count: int, device: torch.device) -> Tensor | None:
        """The codebook of every step, int64 ``[R, M]``; None when the model chooses (CRSS)."""
        books = self.catalogue.codebooks
        if self.order == "confidence":
            return None
        if self.order == "fixed":
            return torch.arange(books, device=device).expand(count, -1)
        return torch.rand(count, books, device=device).argsort(dim=1)


def category_loss(logits: Tensor, members: Tensor) -> Tensor:
    """Cross-entropy against the targets' categories in equal shares, mean over targets that have any; scalar, nats.

    Args:
        logits: ``[R, categories + 1]``.
        members: int64 ``[R, C]``, categories of each target, 0 fills up.
    """
    log_probs = logits.float().log_softmax(-1)
    belongs = (members > 0).float()
    owned = belongs.sum(1)
    nll = -(log_probs.gather(1, members) * belongs).sum(1) / owned.clamp(min=1.0)
    return nll.sum() / (owned > 0).sum().clamp(min=1)
