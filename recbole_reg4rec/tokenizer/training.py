"""The loop that trains codebooks: minibatches, a falling rate, and codewords that no item chooses begin anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from recbole_reg4rec.anomaly import without_anomaly_detection


@without_anomaly_detection()
def train_codebooks(
    data: Tensor,
    optimizer: torch.optim.Optimizer,
    step: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    restart: Callable[[Tensor], None],
    shape: tuple[int, int],
    epochs: int,
    batch_size: int,
    label: str,
    show_progress: bool,
    most: int | None = None,
) -> None:
    """Draws from torch's generator on the processor, wherever the data lie, so that a seed means the same batches.

    Args:
        data: features of the items, float32 ``[N, F]``, where training happens.
        optimizer: of what is trained; its rates fall along a cosine over all epochs.
        step: rows ``[B, F]`` to their codes int64 ``[B, M]``, the loss, and the reconstruction loss to be shown.
        restart: given bool ``[M, K]``, which codewords an epoch used, puts the others somewhere better.
        shape: ``(M, K)``.
        epochs, batch_size: passes, and items a batch.
        label: of the progress bar.
        show_progress: draw one.
        most: items at random that an epoch sees at most.
    """
    seen = min(len(data), most or len(data))
    batches = -(-seen // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, epochs * batches))
    bar = tqdm(range(epochs), desc=f"Tokenizer ({label})", unit="epoch", disable=not show_progress, ncols=100)
    for epoch in bar:
        used = torch.zeros(shape, dtype=torch.bool, device=data.device)
        total = torch.zeros((), device=data.device)
        for rows in torch.randperm(len(data))[:seen].to(data.device).split(batch_size):
            codes, loss, reconstruction = step(data[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            used.scatter_(1, codes.T, True)
            total += reconstruction.detach() * len(rows)
        # The last tenth only settles what is there.
        if epoch < 0.9 * epochs:
            with torch.no_grad():
                restart(used)
        if show_progress:
            bar.set_postfix(loss=f"{float(total) / seen:.4f}", used=f"{float(used.float().mean()):.2f}")
