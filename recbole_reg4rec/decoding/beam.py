"""Beam search over paths whose codebooks may come in any order (docs/method.md, 2 and 4: CRSS, only real items).

At each step every path picks an open codebook (CRSS: the one whose best feasible token is most probable) and extends
by tokens of it. With ``branch`` > 1 a path tries its ``branch`` surest codebooks, weighted by a distribution over them
that is proportional to their confidence. Paths that reach the same item in different orders are one: their
probabilities are added up (`scoring.path_scores`). So whatever the settings, a complete search gives every item a
probability, and these sum to 1. With CORP (`corp`), paths that contradict themselves are dropped on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from recbole_reg4rec.decoding.catalogue import (
    NEVER,
    Candidates,
    Catalogue,
    feasible_log_softmax,
    log_softmax_or_never,
)
from recbole_reg4rec.decoding.corp import CorpRule, PrunedStep, Reflection

ORDERS = ("confidence", "random", "fixed")


class StepModel(Protocol):
    """What beam search needs of a model: logits ``[B, Q, M, K]`` for the paths it holds."""

    def first(self) -> Tensor:
        """Logits before any token is chosen, ``[B, 1, M, K]``."""

    def advance(self, parents: Tensor, books: Tensor, tokens: Tensor) -> Tensor:
        """Keeps the paths ``parents`` int64 ``[B, W]``, appends a token to each, and gives ``[B, W, M, K]``."""


class CategoryModel(StepModel, Protocol):
    """What CORP needs beside that."""

    def categories(self) -> Tensor:
        """Category log-probabilities of the states behind the newest logits, float32 ``[B, Q, C]``."""


@dataclass
class Paths:
    """The paths a search ends with, best first.

    ``scores``: float32 ``[B, W]``, log-probability of the path, -inf where fewer than W paths exist.
    ``books``, ``tokens``: int64 ``[B, W, steps]``, the codebook and token of each step that was decided by the model;
    ``steps`` is smaller than M when every path had come down to its items before.
    ``items``: int64 ``[B, W, C]``, items that carry all tokens of the path, 0 fills up; more than one only where codes
    collide.
    ``first_log_probs``: float32 ``[B, M, K]``, what the model held likely before the first token.
    ``checks``: what CORP saw and dropped, step by step; empty without it.
    """

    scores: Tensor
    books: Tensor
    tokens: Tensor
    items: Tensor
    first_log_probs: Tensor
    checks: tuple[PrunedStep, ...] = ()


@dataclass
class _Beam:
    scores: Tensor
    books: Tensor
    tokens: Tensor
    closed: Tensor
    candidates: Candidates | None

    def single(self) -> bool:
        """Whether every path has come down to one item."""
        assert self.candidates is not None
        return int(self.candidates.without(self.scores.isinf()).counts.max()) <= 1


def beam_search(
    model: StepModel,
    catalogue: Catalogue,
    width: int,
    order: str = "confidence",
    branch: int = 1,
    generator: torch.Generator | None = None,
    complete: bool = False,
    corp: CorpRule | None = None,
    absolute: bool = False,
) -> Paths:
    """Finds the most probable paths to real items.

    Args:
        model: gives logits; asked once a step.
        catalogue: what is feasible.
        width: paths kept a step, ``W``.
        order: ``confidence`` (CRSS), ``random``, or ``fixed`` (codebook 0, 1, ...).
        branch: codebooks tried by each path and step; only ``confidence`` order uses more than one.
        generator: source of randomness for ``random``.
        complete: go all M steps even when every path has come down to a single item; scores are the same.
        corp: prunes by this rule, for which the model must be a `CategoryModel`; a path then goes on to the last step
            that is checked, even when it has come down to a single item.
        absolute: the model gives log-probabilities over all tokens, which are kept as they are instead of becoming
            shares of what is feasible; every search is complete then.
    """
    complete = complete or absolute
    first = model.first()
    first = first + catalogue.used if absolute else feasible_log_softmax(first, catalogue.used)
    batch, device = first.shape[0], first.device
    beam = _Beam(
        scores=first.new_zeros(batch, 1),
        books=torch.zeros(batch, 1, 0, dtype=torch.int64, device=device),
        tokens=torch.zeros(batch, 1, 0, dtype=torch.int64, device=device),
        closed=torch.zeros(batch, 1, catalogue.codebooks, dtype=torch.bool, device=device),
        candidates=None,
    )
    reflection = Reflection(corp, cast(CategoryModel, model).categories) if corp is not None else None
    log_probs = first
    for step in range(catalogue.codebooks):
        books, weights = _choose_books(log_probs, beam.closed, step, order, branch, generator)
        beam, parents = _extend(beam, log_probs, books, weights, catalogue, width)
        candidates = beam.candidates
        assert candidates is not None
        reflects = reflection is not None and reflection.wants(step + 2)
        if step + 1 == catalogue.codebooks or (not complete and not reflects and beam.single()):
            break
        logits = model.advance(parents, beam.books[..., -1], beam.tokens[..., -1])
        if reflection is not None and reflects:
            beam.scores = reflection.check(parents, beam.scores, beam.books, beam.tokens, candidates)
        log_probs = logits.add_(catalogue.feasible(candidates))
        log_probs = log_probs if absolute else log_softmax_or_never(log_probs)
    assert beam.candidates is not None
    items = beam.candidates.without(beam.scores.isinf()).padded()
    checks = tuple(reflection.checks) if reflection is not None else ()
    return Paths(beam.scores, beam.books, beam.tokens, items, first[:, 0], checks)


def _choose_books(
    log_probs: Tensor,
    closed: Tensor,
    step: int,
    order: str,
    branch: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Codebooks each path tries next, int64 ``[B, Q, C]``, and the log of their weights, float32 ``[B, Q, C]``."""
    if order == "confidence":
        confidence = log_probs.amax(-1).masked_fill(closed, NEVER)
        count = min(branch, closed.shape[-1] - step)
        best, books = confidence.topk(count, dim=-1)
        total = best.logsumexp(-1, keepdim=True)
        return books, best - total.masked_fill(total.isinf(), 0.0)
    if order == "random":
        draw = torch.rand(closed.shape, generator=generator, device="cpu").to(closed.device)
        books = draw.masked_fill(closed, -1.0).argmax(-1, keepdim=True)
    else:
        books = torch.full((*closed.shape[:-1], 1), step, dtype=torch.int64, device=closed.device)
    return books, torch.zeros(books.shape, device=closed.device)


def _extend(
    beam: _Beam,
    log_probs: Tensor,
    books: Tensor,
    weights: Tensor,
    catalogue: Catalogue,
    width: int,
) -> tuple[_Beam, Tensor]:
    """Scores all extensions and keeps the best ``width``; also returns their parents, int64 ``[B, W]``."""
    branch = books.shape[-1]
    words = log_probs.shape[-1]
    batch, queries, codebooks, _ = log_probs.shape
    row = torch.arange(batch * queries, device=books.device).view(batch, queries, 1) * codebooks + books
    # Whole rows, which are copied faster than single tokens are gathered.
    chosen = log_probs.flatten(0, 2).index_select(0, row.flatten()).view(*books.shape, words)
    scores = (chosen + (beam.scores.unsqueeze(-1) + weights).unsqueeze(-1)).flatten(1)
    scores, flat = scores.topk(min(width, scores.shape[1]), dim=1)
    parents, rest = flat // (branch * words), flat % (branch * words)
    tokens = rest % words
    book = books.flatten(1).gather(1, parents * branch + rest // words)
    if beam.candidates is None:
        candidates = catalogue.open(book, tokens)
    else:
        rows = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        candidates = catalogue.narrow(beam.candidates[rows, parents], book, tokens)
    grown = _Beam(
        scores=scores,
        books=torch.cat([_pick(beam.books, parents), book.unsqueeze(-1)], dim=-1),
        tokens=torch.cat([_pick(beam.tokens, parents), tokens.unsqueeze(-1)], dim=-1),
        closed=_pick(beam.closed, parents).scatter(-1, book.unsqueeze(-1), True),
        candidates=candidates,
    )
    return grown, parents


def _pick(values: Tensor, parents: Tensor) -> Tensor:
    """Rows ``parents`` ``[B, W]`` of ``[B, Q, C]``."""
    return values.gather(1, parents.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
