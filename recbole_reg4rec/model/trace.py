"""Walks given paths through a model once more and tells what it held likely at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_reg4rec.decoding.catalogue import Candidates
from recbole_reg4rec.decoding.corp import agreement
from recbole_reg4rec.model.reg4rec import REG4Rec


@dataclass(frozen=True)
class Trace:
    """Steps of ``R`` paths of one user, all ``[R, S]``.

    ``probabilities``: float32, of the token chosen among those that some item could still carry.
    ``categories``, ``category_probabilities``: int64 and float32, the category that the step held most likely.
    ``agreements``: float32 in ``[0, 1]``, of the step's categories with those of the steps before (`decoding.corp`); 1
    at the first step. ``before``: int64, the category that the steps before held most likely, 0 at the first.
    """

    probabilities: Tensor
    categories: Tensor
    category_probabilities: Tensor
    agreements: Tensor
    before: Tensor


@torch.no_grad()
def trace_paths(model: REG4Rec, items: Tensor, books: Tensor, tokens: Tensor, seen: Tensor | None = None) -> Trace:
    """Follows paths of one user.

    Args:
        model: in evaluation mode.
        items: int64 ``[T]``, the history, oldest first, without padding.
        books, tokens: int64 ``[R, S]``, ``R >= 1``; ``S`` may be M, or less for a path that was broken off, whose
            next step, about to choose a token, is then part of the trace with probability 0.
        seen: int64 ``[S]``, all that the user took, oldest first; none: what is in ``items``.

    Returns:
        ``S`` columns, one more where the paths were broken off.
    """
    catalogue, reasoner = model.catalogue, model.decoder
    session = model.open_session(items.unsqueeze(0), torch.tensor([len(items)], device=items.device))
    hidden = session.begin()
    session.follow(torch.zeros(1, len(books), dtype=torch.int64, device=books.device))
    hidden = hidden.expand(-1, len(books), -1)
    odds = model.odds_of(items.unsqueeze(0), None if seen is None else seen.unsqueeze(0))
    scorer = model.scorer(reasoner, odds=odds)
    candidates: Candidates | None = None
    total: Tensor | None = None
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    for step in range(min(books.shape[1] + 1, catalogue.codebooks)):
        newest = reasoner.category_logits(hidden[0]).float().softmax(-1)
        chance, category = newest.max(-1)
        if total is None:
            agreed, before, total = torch.ones_like(chance), torch.zeros_like(category), newest
        else:
            agreed, before, total = agreement(newest, total / step), total.argmax(-1), total + newest
        if step == books.shape[1]:
            columns.append((torch.zeros_like(chance), category, chance, agreed, before))
            break
        log_probs = scorer.log_probs(hidden[0], candidates)
        book, token = books[:, step], tokens[:, step]
        chosen = log_probs[torch.arange(len(books), device=books.device), book, token].exp()
        columns.append((chosen, category, chance, agreed, before))
        candidates = catalogue.open(book, token) if candidates is None else catalogue.narrow(candidates, book, token)
        hidden = session.take(reasoner.table.tokens(book, token).unsqueeze(0))
    return Trace(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))
