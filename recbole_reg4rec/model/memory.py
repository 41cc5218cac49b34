"""The item memory: what followed what in training, read over a history (docs/method.md, 5)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_reg4rec.data.cooccurrence import transitions
from recbole_reg4rec.data.sequences import TrainingSequences, training_sequences


def memory_table(
    sequences: TrainingSequences, items: int, window: int, decay: float, backward: float, popularity: float
) -> sp.csr_matrix:
    """Weight of each item as the next one, given one item of the history.

    Args:
        sequences: training part of every user's history.
        items: number of items with the padding item.
        window: steps in a history that count as following.
        decay: power of the distance that a step's weight falls with.
        backward: weight of "came before" beside 1 for "came after".
        popularity: power of an item's number of interactions that its weight is divided by.

    Returns:
        float32 ``[items, items]``, row the item of the history, each row divided by the row item's interactions.
    """
    forward = transitions(sequences, items, window, decay)
    table = sp.csr_matrix(forward + backward * forward.T)
    table.setdiag(0)
    table.eliminate_zeros()
    count = np.maximum(np.bincount(sequences.items, minlength=items), 1).astype(np.float64)
    return sp.csr_matrix(sp.diags(1.0 / count) @ table @ sp.diags(count**-popularity)).astype(np.float32)


class Memory(nn.Module):
    """A memory table that is read for a batch by one sparse product.

    It grows with the interactions (times the window), not with items squared. Nothing of it is saved in checkpoints:
    it is built from the data in seconds.

    Args:
        table: see `memory_table`.
        recency: weight of an item of the history beside the next newer one, ``(0, 1]``.
    """

    def __init__(self, table: sp.csr_matrix, recency: float) -> None:
        super().__init__()
        self.recency = recency
        turned = sp.csr_matrix(table.T)
        rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in (turned.indptr, turned.indices))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            sparse = torch.sparse_csr_tensor(
                rows, columns, torch.from_numpy(turned.data), size=turned.shape, check_invariants=True
            )
        self.register_buffer("table", sparse, persistent=False)

    table: Tensor

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Sum of the rows of a history's items, the newest with weight 1; 0 where nothing points.

        Args:
            items: int64 ``[B, T]``, 0 pads on the right.
            lengths: int64 ``[B]``.

        Returns:
            float32 ``[B, items + 1]``.
        """
        age = lengths.unsqueeze(1) - 1 - torch.arange(items.shape[1], device=items.device)
        weight = torch.where(age >= 0, self.recency ** age.clamp(min=0).float(), torch.zeros((), device=items.device))
        history = torch.zeros(len(items), self.table.shape[0], device=items.device).scatter_add(1, items, weight)
        history[:, 0] = 0.0
        return torch.sparse.mm(self.table, history.T).T


def build_memory(config: Any, dataset: Any) -> Memory:
    """The memory of the training part of ``dataset``, by the settings ``memory_*``."""
    table = memory_table(
        training_sequences(dataset),
        dataset.item_num,
        int(config["memory_window"]),
        float(config["memory_decay"]),
        float(config["memory_backward"]),
        float(config["memory_popularity"]),
    )
    return Memory(table, float(config["memory_recency"]))
