"""Which items are alike in content; what the item memory knows of items that few have taken (docs/method.md, 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_reg4rec.data.dataset import OrderedDataset
from recbole_reg4rec.data.features import choose_columns, item_vectors, item_words

# Pairs of items that a word may bring together, in proportion to the catalogue; more common words tell little.
_PAIRS_AN_ITEM = 2_000
_FEWEST = 100
_LARGEST_TABLE = 20_000_000
# Cells of the block of similarities held at a time.
_BLOCK = 4_000_000


def content_neighbours(config: Any, dataset: OrderedDataset, neighbours: int) -> sp.csr_matrix | None:
    """The most similar items of each item by words and vectors; interactions play no part.

    Args:
        config: reads ``item_*_fields`` and ``preload_weight``.
        dataset: any split of the data, for its item columns.
        neighbours: kept for each item, at most.

    Returns:
        float32 ``[items + 1, items + 1]``, cosines in ``(0, 1]``, mean over the sources there are, without a diagonal;
        None where the data set says nothing of its items.

    Raises:
        UserError: see `data.features.choose_columns`.
    """
    columns = choose_columns(config, dataset)
    words, vectors = item_words(dataset, columns), item_vectors(config, dataset, columns)
    sources = (words is not None) + len(vectors)
    if not sources or not neighbours:
        return None
    items = dataset.item_num
    table = _rare_words(*words, items) if words is not None else sp.csr_matrix((items, 1), dtype=np.float32)
    dense = np.concatenate([np.zeros((items, 0)), *vectors.values()], axis=1).astype(np.float32)
    flipped = sp.csr_matrix(table.T)
    kept: list[sp.csr_matrix] = []
    # A row of the block is as long as there are items where vectors make it full, else as the pairs that words make.
    longest = items if dense.shape[1] else int(_pairs(table).max(initial=0))
    step = max(1, _BLOCK // max(longest, 1))
    for begin in range(0, items, step):
        block = sp.csr_matrix(table[begin : begin + step] @ flipped)
        if dense.shape[1]:
            block = sp.csr_matrix(block + np.maximum(dense[begin : begin + step] @ dense.T, 0.0))
        kept.append(_nearest(block, begin, neighbours))
    return sp.csr_matrix(sp.vstack(kept) / sources, dtype=np.float32)


def _pairs(table: sp.csr_matrix) -> np.ndarray:
    """At most how many items each one shares words with, int64 ``[items + 1]``."""
    shared = np.bincount(table.indices, minlength=table.shape[1])
    return np.add.reduceat(np.append(shared[table.indices], 0), table.indptr[:-1]) * (np.diff(table.indptr) > 0)


def _rare_words(words: sp.csr_matrix, filled: list[int], items: int) -> sp.csr_matrix:
    """Rows for all items, without the words that most items share; float32 ``[items + 1, words]``."""
    most = max(_FEWEST, min(_PAIRS_AN_ITEM, _LARGEST_TABLE // items))
    rare = np.flatnonzero(np.bincount(words.indices, minlength=words.shape[1]) <= most)
    place = sp.csr_matrix((np.ones(len(filled)), (filled, np.arange(len(filled)))), shape=(items, len(filled)))
    return sp.csr_matrix(place @ words[:, rare], dtype=np.float32)


def _nearest(block: sp.csr_matrix, begin: int, count: int) -> sp.csr_matrix:
    """The ``count`` largest entries of each row, without row ``r``'s entry at column ``begin + r``."""
    starts, places = block.indptr, []
    for row in range(block.shape[0]):
        here = np.arange(starts[row], starts[row + 1])
        here = here[(block.indices[here] != begin + row) & (block.data[here] > 0)]
        if len(here) > count:
            here = here[np.argpartition(-block.data[here], count - 1)[:count]]
        places.append(here)
    lengths = [len(here) for here in places]
    chosen = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((block.data[chosen], block.indices[chosen], indptr), shape=block.shape)
