"""The item memory: what followed what in training, read over a history (docs/method.md, 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_reg4rec.data.cooccurrence import transitions, without_diagonal
from recbole_reg4rec.data.sequences import TrainingSequences, training_sequences
from recbole_reg4rec.data.similarity import content_neighbours

_LEAST_WEIGHT = 1e-4
_DENSE_SHARE = 0.1


@dataclass(frozen=True)
class MemoryRule:
    """What a memory table is made of.

    ``window``: steps in a history that count as following. ``decay``: power of the distance that a step's weight falls
    with. ``backward``: weight of "came before" beside 1 for "came after". ``popularity``: power of an item's number of
    interactions that its weight as the next one is divided by. ``strength``: the same for the item of the history.
    ``content``: interactions that likeness in content counts for.
    """

    window: int
    decay: float
    backward: float
    popularity: float
    strength: float
    content: float

    def row_weights(self, count: np.ndarray) -> np.ndarray:
        """What the row of an item is multiplied by, given its interactions; float64."""
        return np.maximum(count + self.content, 1.0) ** -self.strength

    def column_weights(self, count: np.ndarray) -> np.ndarray:
        """What the column of an item is multiplied by, given its interactions; float64."""
        return np.maximum(count, 1.0) ** -self.popularity


def memory_table(
    sequences: TrainingSequences, items: int, rule: MemoryRule, neighbours: sp.csr_matrix | None = None
) -> sp.csr_matrix:
    """Weight of each item as the next one, given one item of the history.

    What followed an item in training is counted; likeness in content enters as if it had been seen ``rule.content``
    times, so that it matters most for items that few have taken.

    Args:
        sequences: training part of every user's history.
        items: number of items with the padding item.
        rule: how things are weighted.
        neighbours: likeness in content, ``[items, items]``, see `data.similarity`; None for none.

    Returns:
        float32 ``[items, items]``, row the item of the history.
    """
    forward = transitions(sequences, items, rule.window, rule.decay)
    table = without_diagonal(sp.csr_matrix(forward + rule.backward * forward.T))
    if neighbours is not None:
        table = table + rule.content * neighbours
    table.eliminate_zeros()
    count = np.bincount(sequences.items, minlength=items).astype(np.float64)
    return sp.csr_matrix(
        sp.diags(rule.row_weights(count)) @ table @ sp.diags(rule.column_weights(count)), dtype=np.float32
    )


class Memory(nn.Module):
    """A memory table that is read by adding up the rows of a history's items.

    It grows with the interactions (times the window), not with items squared. Nothing of it is saved in checkpoints:
    it is built from the data in seconds.

    Args:
        table: see `memory_table`.
        recency: weight of an item of the history beside the next newer one, ``(0, 1]``. Items whose weight has fallen
            below a ten-thousandth are not read.
    """

    starts: Tensor
    items: Tensor
    weights: Tensor
    dense: Tensor | None

    def __init__(self, table: sp.csr_matrix, recency: float) -> None:
        super().__init__()
        self.recency, self.size = recency, table.shape[1]
        self.reach = None if recency >= 1.0 else int(math.log(_LEAST_WEIGHT) / math.log(recency)) + 1
        # As few bytes as scipy's own numbers take: there are as many entries as interactions times the window.
        self.register_buffer("starts", torch.from_numpy(table.indptr), persistent=False)
        self.register_buffer("items", torch.from_numpy(table.indices), persistent=False)
        self.register_buffer("weights", torch.from_numpy(table.data.astype(np.float32)), persistent=False)
        # A table that is full enough is read faster as a plain one, whose size the interactions still bound.
        full = table.nnz >= _DENSE_SHARE * self.size**2
        dense = torch.from_numpy(table.toarray().astype(np.float32)) if full else None
        self.register_buffer("dense", dense, persistent=False)
        # The same numbers once more as scipy sees them, without a copy.
        self._table: sp.csr_matrix | None = None

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Sum of the rows of a history's items, the newest with weight 1; 0 where nothing points.

        Args:
            items: int64 ``[B, T]``, 0 pads on the right.
            lengths: int64 ``[B]``.

        Returns:
            float32 ``[B, items + 1]``.
        """
        reach = min(items.shape[1], self.reach or items.shape[1])
        ages = torch.arange(reach, device=items.device)
        places = lengths.unsqueeze(1) - 1 - ages
        read = items.gather(1, places.clamp(min=0)) * (places >= 0)
        weight = (self.recency ** ages.float()).expand(read.shape)
        if self.dense is not None:
            return F.embedding_bag(read, self.dense, per_sample_weights=weight * (read > 0), mode="sum")
        return self._product(read, weight) if items.device.type == "cpu" else self._gathered(read, weight)

    def _gathered(self, read: Tensor, weight: Tensor) -> Tensor:
        """What the items read, int64 ``[B, reach]``, 0 for none, have in their rows, times their weights."""
        begin, count = self.starts[read].long(), (self.starts[read + 1] - self.starts[read]).long()
        count = (count * (read > 0)).flatten()
        # Every entry of every row that is read: which place of the batch wants it, and where in the table it stands.
        place = torch.repeat_interleave(torch.arange(len(count), device=read.device), count)
        before = count.cumsum(0) - count
        entry = begin.flatten()[place] + torch.arange(len(place), device=read.device) - before[place]
        reach = read.shape[1]
        values = self.weights[entry] * weight[0, place % reach]
        flat = torch.zeros(len(read) * self.size, device=read.device)
        flat.index_add_(0, place // reach * self.size + self.items[entry], values)
        return flat.view(len(read), self.size)

    def _product(self, read: Tensor, weight: Tensor) -> Tensor:
        """As `_gathered`, as one sparse product, which takes half the time on a CPU."""
        if self._table is None:
            parts = (self.weights.numpy(), self.items.numpy(), self.starts.numpy())
            self._table = sp.csr_matrix(parts, shape=(self.size, self.size))
        there = read > 0
        ends = F.pad(there.sum(1).cumsum(0), (1, 0))
        rows = (weight[there].numpy(), read[there].numpy(), ends.numpy())
        histories = sp.csr_matrix(rows, shape=(len(read), self.size))
        return torch.from_numpy((histories @ self._table).toarray())


def memory_rule(config: Any) -> MemoryRule:
    """The rule that the settings ``memory_*`` make."""
    return MemoryRule(
        window=int(config["memory_window"]),
        decay=float(config["memory_decay"]),
        backward=float(config["memory_backward"]),
        popularity=float(config["memory_popularity"]),
        strength=float(config["memory_strength"]),
        content=float(config["memory_content"]),
    )


def build_memory(config: Any, dataset: Any) -> Memory:
    """The memory of the training part of ``dataset``, by the settings ``memory_*``."""
    rule = memory_rule(config)
    neighbours = None
    if rule.content > 0:
        neighbours = content_neighbours(config, dataset, int(config["memory_neighbours"]))
    table = memory_table(training_sequences(dataset), dataset.item_num, rule, neighbours)
    return Memory(table, float(config["memory_recency"]))
