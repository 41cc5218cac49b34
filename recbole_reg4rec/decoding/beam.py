"""Beam search over paths whose codebooks may come in any order (docs/method.md, 2 and 4: CRSS, only real items).

At each step every path picks an open codebook (CRSS: the one whose best feasible token is most probable) and extends
by tokens of it. With ``branch`` > 1 a path tries its ``branch`` surest codebooks, weighted by a distribution over them
that is proportional to their confidence. Paths that reach the same item in different orders are one: their
probabilities are added up (`scoring.path_scores`). So whatever the settings, a complete search gives every item a
probability, and these sum to 1. With CORP (`corp`), paths that contradict themselves are dropped on the way.
A model that can decide among items at once (`AnswerModel`) may do so after some steps instead of spelling all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_reg4rec.decoding.catalogue import (
    NEVER,
    Candidates,
    Catalogue,
    feasible_log_softmax,
    log_softmax_or_never,
    pick_paths,
)
from recbole_reg4rec.decoding.corp import CorpRule, PrunedStep, Reflection
from recbole_reg4rec.decoding.shares import Table, TokenShares

ORDERS = ("confidence", "random", "fixed")
GIVES = ("logits", "log_probs", "shares")


class StepModel(Protocol):
    """What beam search needs of a model: logits ``[B, Q, M, K]`` for the paths it holds, or shares (``gives``)."""

    def first(self) -> Tensor:
        """Before any token is chosen, ``[B, 1, M, K]``."""

    def advance(self, parents: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor | TokenShares:
        """Keeps the paths ``parents`` int64 ``[B, W]``, appends a token to each, and gives ``[B, W, M, K]``.

        ``candidates``: the items that are left to each, in ``[B, W]``.
        """


class AnswerModel(StepModel, Protocol):
    """What a search that ends before all codebooks are closed needs beside that."""

    def answer(self, parents: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor:
        """As `advance`, but gives the log-probabilities of the candidates, laid out as `Candidates.padded`."""


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
    collide or the model answered.
    ``first``: float32 ``[B, M, K]``, what the model held likely before the first token: log-probabilities, or with
    ``shares`` probabilities, of which few ask for logarithms.
    ``answers``: float32 ``[B, W, C]``, log-probability of each item given the path; None where paths spell all tokens.
    ``prior``: float32 ``[B, items + 1]``, log-probabilities of all items before the first token; None from a model
    that has no better idea of them than ``first``.
    ``checks``: what CORP saw and dropped, step by step; empty without it.
    """

    scores: Tensor
    books: Tensor
    tokens: Tensor
    items: Tensor
    first: Tensor
    answers: Tensor | None = None
    prior: Tensor | None = None
    checks: tuple[PrunedStep, ...] = ()
    shares: bool = False

    @property
    def first_log_probs(self) -> Tensor:
        """``first`` as log-probabilities."""
        return self.first.log() if self.shares else self.first


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
    gives: str = "logits",
    steps: int | None = None,
    among: Callable[[], Candidates | None] = lambda: None,
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
        gives: what the model gives: ``logits``, which become shares of what is feasible; ``log_probs`` over all tokens,
            which are kept as they are where they are feasible, and every search is complete then; ``shares``,
            probabilities of what is feasible and 0 for the rest, of which few are turned into logarithms, and not all
            have to be worked out.
        steps: of a path, fewer than there are codebooks; at the last one an `AnswerModel` decides among the items that
            are left.
        among: asked after the model's first answer for the items that paths may lead to, lists ``[B, 1]``, with what
            the model gives being of these alone; None for all items.
    """
    assert gives in GIVES
    complete = complete or gives == "log_probs"
    steps = min(steps or catalogue.codebooks, catalogue.codebooks)
    first = model.first()
    if gives == "log_probs":
        first = first + catalogue.used
    elif gives == "logits":
        first = feasible_log_softmax(first, catalogue.used)
    batch, device = first.shape[0], first.device
    beam = _Beam(
        scores=first.new_zeros(batch, 1),
        books=torch.zeros(batch, 1, 0, dtype=torch.int64, device=device),
        tokens=torch.zeros(batch, 1, 0, dtype=torch.int64, device=device),
        closed=torch.zeros(batch, 1, catalogue.codebooks, dtype=torch.bool, device=device),
        candidates=among(),
    )
    shares = gives == "shares"
    reflection = Reflection(corp, cast(CategoryModel, model).categories) if corp is not None else None
    table: TokenShares = Table(first)
    answers = None
    for step in range(catalogue.codebooks):
        books, weights = _choose_books(table, shares, beam.closed, step, order, branch, generator)
        beam, parents = _extend(beam, table, shares, books, weights, catalogue, width)
        candidates = beam.candidates
        assert candidates is not None
        reflects = reflection is not None and reflection.wants(step + 2)
        if step + 1 == catalogue.codebooks or (not complete and not reflects and beam.single()):
            break
        ends = step + 2 == steps < catalogue.codebooks
        go_on = cast(AnswerModel, model).answer if ends else model.advance
        given = go_on(parents, beam.books[..., -1], beam.tokens[..., -1], candidates)
        if reflection is not None and reflects:
            beam.scores = reflection.check(parents, beam.scores, beam.books, beam.tokens, candidates)
        if ends:
            answers = cast(Tensor, given)
            break
        if isinstance(given, Tensor):
            given = given if shares else given.add_(catalogue.feasible(candidates))
            given = Table(log_softmax_or_never(given) if gives == "logits" else given)
        table = given
    assert beam.candidates is not None
    items = beam.candidates.without(beam.scores.isinf()).padded()
    if answers is not None:
        answers = answers[..., : items.shape[-1]]
    checks = tuple(reflection.checks) if reflection is not None else ()
    return Paths(beam.scores, beam.books, beam.tokens, items, first[:, 0], answers, None, checks, shares)


def surest(confidence: Tensor, count: int = 1) -> Tensor:
    """The codebooks whose best token is most probable: log-probabilities ``[..., M]`` to int64 ``[..., count]``.

    Where one item decides, codebooks often agree but for rounding; of such the first in their own order is taken, so
    that a path does not depend on who else is in the batch.
    """
    # Steps of a ten-thousandth, far above the rounding of float32, and less than half of one by place.
    places = torch.arange(confidence.shape[-1], device=confidence.device) / (2.0 * confidence.shape[-1])
    return ((confidence * 1e4).round() - places).topk(count, dim=-1).indices


def _choose_books(
    table: TokenShares,
    shares: bool,
    closed: Tensor,
    step: int,
    order: str,
    branch: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Codebooks each path tries next, int64 ``[B, Q, C]``, and the log of their weights, float32 ``[B, Q, C]``."""
    if order == "confidence":
        confidence = table.largest()
        confidence = (confidence.log() if shares else confidence).masked_fill(closed, NEVER)
        books = surest(confidence, min(branch, closed.shape[-1] - step))
        best = confidence.gather(-1, books)
        total = best.logsumexp(-1, keepdim=True)
        return books, best - total.masked_fill(total.isinf(), 0.0)
    if order == "random":
        # The same for every user, so that a path does not depend on who else is in the batch.
        draw = torch.rand(closed.shape[1:], generator=generator, device="cpu").to(closed.device).expand(closed.shape)
        books = draw.masked_fill(closed, -1.0).argmax(-1, keepdim=True)
    else:
        books = torch.full((*closed.shape[:-1], 1), step, dtype=torch.int64, device=closed.device)
    return books, torch.zeros(books.shape, device=closed.device)


def _extend(
    beam: _Beam,
    table: TokenShares,
    shares: bool,
    books: Tensor,
    weights: Tensor,
    catalogue: Catalogue,
    width: int,
) -> tuple[_Beam, Tensor]:
    """Scores all extensions and keeps the best ``width``; also returns their parents, int64 ``[B, W]``."""
    branch = books.shape[-1]
    # No path has more than `width` successors among the best, and logarithms of all the others are not needed.
    chosen, likeliest = table.likeliest(books, width)
    # As many paths as asked for, of which those without a token have no probability.
    short = min(-(-width // (books.shape[1] * branch)), catalogue.codewords) - chosen.shape[-1]
    if short > 0:
        chosen, likeliest = F.pad(chosen, (0, short), value=0.0 if shares else NEVER), F.pad(likeliest, (0, short))
    words = chosen.shape[-1]
    chosen = chosen.log_() if shares else chosen
    scores = (chosen + (beam.scores.unsqueeze(-1) + weights).unsqueeze(-1)).flatten(1)
    scores, flat = scores.topk(min(width, scores.shape[1]), dim=1)
    parents, rest = flat // (branch * words), flat % (branch * words)
    tokens = likeliest.flatten(1).gather(1, flat)
    book = books.flatten(1).gather(1, parents * branch + rest // words)
    if beam.candidates is None:
        candidates = catalogue.open(book, tokens)
    else:
        rows = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        candidates = catalogue.narrow(beam.candidates[rows, parents], book, tokens)
    grown = _Beam(
        scores=scores,
        books=torch.cat([pick_paths(beam.books, parents), book.unsqueeze(-1)], dim=-1),
        tokens=torch.cat([pick_paths(beam.tokens, parents), tokens.unsqueeze(-1)], dim=-1),
        closed=pick_paths(beam.closed, parents).scatter(-1, book.unsqueeze(-1), True),
        candidates=candidates,
    )
    return grown, parents
