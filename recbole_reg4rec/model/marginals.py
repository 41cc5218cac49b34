"""Tokens whose probability is the total of the items that carry them (our choice).

As in `softmax`, what is large goes through one small buffer, here once more for the gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_reg4rec.model.softmax import buffer_for


def pair_scores(queries: Tensor, items: Tensor, rows: Tensor, columns: Tensor, buffer: int | None = None) -> Tensor:
    """Products of single rows with single items, ``queries[rows[s]] . items[columns[s]]``: float32 ``[S]``.

    Args:
        queries: float32 ``[R, d]``.
        items: float32 ``[items + 1, d]``.
        rows, columns: int64 ``[S]``, rows ascending.
        buffer: numbers held at a time; `buffer_for` the device when not given.
    """
    return _PairScores.apply(queries, items, rows, columns, buffer or buffer_for(queries.device))


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, queries: Tensor, items: Tensor, rows: Tensor, columns: Tensor, buffer: int
    ) -> Tensor:
        ctx.save_for_backward(queries, items, rows, columns)
        ctx.step = max(1, buffer // (4 * items.shape[1]))
        if queries.device.type == "cpu":
            return _products_of_pairs(queries, items, rows, columns)
        found = queries.new_empty(len(rows))
        for begin in range(0, len(rows), ctx.step):
            here = slice(begin, begin + ctx.step)
            pairs = items.index_select(0, columns[here]).mul_(queries.index_select(0, rows[here]))
            torch.sum(pairs, dim=1, out=found[here])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        queries, items, rows, columns = ctx.saved_tensors
        query_grad, item_grad = torch.zeros_like(queries), torch.zeros_like(items)
        for begin in range(0, len(rows), ctx.step):
            here = slice(begin, begin + ctx.step)
            factor, row, column = grad[here].unsqueeze(1), rows[here], columns[here]
            query_grad.index_add_(0, row, items.index_select(0, column).mul_(factor))
            item_grad.index_add_(0, column, queries.index_select(0, row).mul_(factor))
        return query_grad, item_grad, None, None, None


def _products_of_pairs(queries: Tensor, items: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`pair_scores` in a third of the time, no row being copied: what a sparse table is filled with."""
    begins = F.pad(torch.bincount(rows, minlength=len(queries)).cumsum(0), (1, 0))
    size = len(queries), len(items)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that sparse tables by rows are in beta
        table = torch.sparse_csr_tensor(begins, columns, items.new_zeros(len(rows)), size, check_invariants=False)
        return torch.sparse.sampled_addmm(table, queries, items.T, beta=0.0).values()


def book_marginals(
    states: Tensor,
    items: Tensor,
    codes: Tensor,
    books: Tensor,
    codewords: int,
    buffer: int | None = None,
    extra: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """``log sum_{i carries k} softmax(states @ items.T + extra)[i]``, for tokens k of one codebook a row: ``[R, K]``.

    Tokens that no item carries get what is smallest, and no gradient.

    Args:
        states: float32 ``[R, d]``.
        items: float32 ``[items + 1, d]``; the padding item 0 takes no part.
        codes: int64 ``[items + 1, M]``.
        books: int64 ``[R]``.
        codewords: K.
        buffer: logits held at a time; `buffer_for` the device when not given.
        extra: a sparse table to add to the logits, see `softmax`; it gets no gradient.
    """
    extra = extra or (books.new_zeros(0), books.new_zeros(0), states.new_zeros(0))
    buffer = buffer or buffer_for(states.device)
    # Shares are what probabilities are made of: mixed precision ends before them.
    with torch.autocast(states.device.type, enabled=False):
        return _BookMarginals.apply(states, items, codes, books, codewords, buffer, *extra)


class _BookMarginals(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        states: Tensor,
        items: Tensor,
        codes: Tensor,
        books: Tensor,
        codewords: int,
        buffer: int,
        *extra: Tensor,
    ) -> Tensor:
        found = states.new_zeros(len(states), codewords)
        ctx.step = max(1, buffer // len(items))
        for here, shares in _all_shares(states, items, extra, ctx.step):
            for book, rows in _by_book(books[here]):
                part = shares.index_select(0, rows)
                found[here][rows] = found.new_zeros(len(rows), codewords).index_add_(1, codes[:, book], part)
        log_shares = found.clamp_(min=torch.finfo(torch.float32).tiny).log_()
        ctx.save_for_backward(states, items, codes, books, log_shares, *extra)
        return log_shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        states, items, codes, books, log_shares, *extra = ctx.saved_tensors
        # -inf in a loss' gradient would be multiplied by shares of 0.
        known = log_shares > log_shares.new_tensor(torch.finfo(torch.float32).tiny).log() + 1.0
        grad = torch.where(known, grad, torch.zeros_like(grad))
        pull = torch.where(known, grad / log_shares.exp(), torch.zeros_like(grad))
        spread = grad.sum(1, keepdim=True)
        state_grad, item_grad = torch.empty_like(states), torch.zeros_like(items)
        for here, shares in _all_shares(states, items, extra, ctx.step):
            factors = torch.empty_like(shares)
            for book, rows in _by_book(books[here]):
                factors[rows] = pull[here].index_select(0, rows).index_select(1, codes[:, book]) - spread[here][rows]
            shares.mul_(factors)
            torch.mm(shares, items, out=state_grad[here])
            item_grad.addmm_(shares.T, states[here])
        return (state_grad, item_grad, *(None for _ in range(7)))


def _all_shares(states: Tensor, items: Tensor, extra: Sequence[Tensor], step: int) -> Iterator[tuple[slice, Tensor]]:
    """``softmax(states @ items.T + extra)``, ``step`` rows at a time, without the padding item."""
    rows, columns, values = extra
    for begin in range(0, len(states), step):
        here = slice(begin, begin + step)
        logits = states[here] @ items.T
        if len(rows):
            limits = torch.searchsorted(rows, torch.tensor([begin, begin + len(logits)], device=rows.device))
            some = slice(*limits.tolist())
            logits.view(-1).index_add_(0, (rows[some] - begin) * len(items) + columns[some], values[some])
        logits[:, 0] = float("-inf")
        yield here, logits.softmax(1)


def _by_book(books: Tensor) -> list[tuple[int, Tensor]]:
    """Rows int64 of each codebook that is there."""
    return [(int(book), (books == book).nonzero().squeeze(1)) for book in books.unique()]
