"""Cross-entropy over a whole catalogue that never holds all of its logits (our choice).

A batch of 2,048 positions against 12,000 items makes a table of 100 MB, which autograd keeps several times over and for
which the system has to find new memory at every step. Here the positions go through one small buffer, piece by piece;
the gradients are taken on the way, so that nothing of a piece is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits held at a time, about 6 MB: what a processor's cache may hold beside the operands.
BUFFER = 1_500_000
# On a GPU, where every piece costs the time that its kernels take to start, about 500 MB.
_GPU_BUFFER = 1 << 27
# Vectors that a product reads at a time, about 1 MB of width 64.
_PIECE = 4096


def buffer_for(device: torch.device) -> int:
    """Numbers that are best held at a time on a device."""
    return BUFFER if device.type == "cpu" else _GPU_BUFFER


def products(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T``: float ``[R, d]`` and ``[S, d]`` to ``[R, S]``, for many rows of ``right``.

    Without a gradient on a CPU they go piece by piece, which takes three quarters of the time; same numbers.
    """
    if left.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return left @ right.T
    found = torch.empty(len(left), len(right), dtype=left.dtype)
    for begin in range(0, len(right), _PIECE):
        here = slice(begin, begin + _PIECE)
        torch.mm(left, right[here].T, out=found[:, here])
    return found


def catalogue_cross_entropy(
    states: Tensor,
    items: Tensor,
    targets: Tensor,
    extra: tuple[Tensor, Tensor, Tensor] | None = None,
    padding: bool = False,
    buffer: int | None = None,
) -> Tensor:
    """Mean of ``-log softmax(states @ items.T + extra)[target]``; scalar, nats.

    Args:
        states: float ``[R, d]``.
        items: float ``[items + 1, d]``.
        targets: int64 ``[R]``, at least 1.
        extra: a sparse table to add to the logits: rows int64 ``[S]``, ascending, items int64 ``[S]``, values float
            ``[S]``; an entry given twice counts twice.
        padding: let the padding item 0 take part, as it does in RecBole's own losses.
        buffer: logits held at a time; `buffer_for` the device when not given.
    """
    rows, columns, values = extra if extra is not None else (None, None, None)
    buffer = buffer or buffer_for(states.device)
    return _CatalogueCrossEntropy.apply(states, items, values, rows, columns, targets, padding, buffer)


class _CatalogueCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        states: Tensor,
        items: Tensor,
        values: Tensor | None,
        rows: Tensor | None,
        columns: Tensor | None,
        targets: Tensor,
        padding: bool,
        buffer: int,
    ) -> Tensor:
        count, catalogue = len(states), len(items)
        # In mixed precision the operands may differ in type; the sums are float32 in any case.
        states32, items32 = states.float(), items.float()
        wanted = any(ctx.needs_input_grad[:3])
        state_grad = torch.empty_like(states32) if wanted else None
        item_grad = torch.zeros_like(items32) if wanted else None
        value_grad = torch.empty_like(values, dtype=torch.float32) if wanted and values is not None else None
        step = min(max(1, buffer // catalogue), max(1, count))
        held = states32.new_empty(step, catalogue)
        total = states32.new_zeros(())
        for begin in range(0, count, step):
            part, wants = states32[begin : begin + step], targets[begin : begin + step].unsqueeze(1)
            logits = torch.mm(part, items32.T, out=held[: len(part)])
            if values is not None and rows is not None and columns is not None:
                limits = torch.searchsorted(rows, torch.tensor([begin, begin + len(part)], device=rows.device))
                here = slice(*limits.tolist())
                places = (rows[here] - begin) * catalogue + columns[here]
                logits.view(-1).index_add_(0, places, values[here].float())
            if not padding:
                logits[:, 0] = float("-inf")
            largest = logits.amax(1, keepdim=True)
            own = logits.gather(1, wants)
            mass = logits.sub_(largest).exp_().sum(1, keepdim=True)
            total += (mass.log() + largest - own).sum()
            if state_grad is None or item_grad is None:
                continue
            # What is left in the buffer becomes the gradient: probability minus one at the target.
            logits.div_(mass * count)
            logits.scatter_add_(1, wants, logits.new_full((len(part), 1), -1.0 / count))
            torch.mm(logits, items32, out=state_grad[begin : begin + step])
            item_grad.addmm_(logits.T, part)
            if value_grad is not None:
                value_grad[here] = logits.view(-1)[places]
        ctx.save_for_backward(state_grad, item_grad, value_grad)
        ctx.types = states.dtype, items.dtype, None if values is None else values.dtype
        return total / max(1, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grads = [
            None if part is None else (grad * part).to(dtype)
            for part, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*grads, None, None, None, None, None)
