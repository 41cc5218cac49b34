"""What follows what in the TRAINING interactions: counts that item features and the item memory are made of."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from recbole_reg4rec.data.sequences import TrainingSequences


def transitions(sequences: TrainingSequences, items: int, window: int, decay: float) -> sp.csr_matrix:
    """How often an item follows another within ``window`` steps of one user, weighted by ``distance ** -decay``.

    Args:
        sequences: training part of every user's history.
        items: number of items with the padding item.
        window: largest distance in steps, at least 1.
        decay: 0 counts all distances alike.

    Returns:
        float64 ``[items, items]``: row the earlier item, column the later one; an item may follow itself.
    """
    user = sequences.users
    total = sp.csr_matrix((items, items))
    for distance in range(1, min(window, len(user) - 1) + 1):
        together = user[distance:] == user[:-distance]
        earlier, later = sequences.items[:-distance][together], sequences.items[distance:][together]
        weight = np.full(len(earlier), float(distance) ** -decay)
        total = total + sp.csr_matrix((weight, (earlier, later)), shape=(items, items))
    return total


def cooccurrence(sequences: TrainingSequences, items: int, window: int) -> sp.csr_matrix:
    """How often two items stand within ``window`` steps in one user's training history, weighted by 1/distance.

    Returns:
        symmetric float64 ``[items, items]`` without a diagonal.
    """
    counts = transitions(sequences, items, window, decay=1.0)
    return without_diagonal(sp.csr_matrix(counts + counts.T))


def without_diagonal(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The matrix without its diagonal; scipy's own way writes zeros there first, which costs more and is warned of."""
    entries = matrix.tocoo()
    kept = entries.row != entries.col
    return sp.csr_matrix((entries.data[kept], (entries.row[kept], entries.col[kept])), shape=matrix.shape)
