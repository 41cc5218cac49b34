"""Which codewords are next to each codeword: what tells colliding items of large catalogues apart (our choice).

There every item of a collision counts as lying where its codewords do, so that one look-up serves all that share a
tuple; working out hundreds of thousands of items' distances to all codewords would take longer than all else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_reg4rec.tokenizer.collisions import Nearest, nearest

# Codewords whose distances to all others are held at a time.
_AT_ONCE = 512


@dataclass(frozen=True)
class WordNeighbours:
    """``words`` int64 and ``distances`` float32 ``[M, K, R]``: the ``R`` codewords next to each, itself first."""

    words: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, codewords: Tensor, count: int) -> WordNeighbours:
        """Those of codewords, float32 ``[M, K, w]``; ``count``: ``R``, at most ``K``."""
        words, distances = [], []
        for book in codewords:
            found = [nearest(_squared(part, book), count) for part in book.split(_AT_ONCE)]
            words.append(np.concatenate([part.words for part in found]))
            distances.append(np.concatenate([part.distances for part in found]))
        lengths = np.stack(distances)
        lengths[..., 0] = 0.0
        return cls(_first(np.stack(words)), lengths)

    def around(self, codes: np.ndarray) -> Nearest:
        """The words near tuples: int64 ``[n, M]`` to ``[n, M, R]``."""
        books = np.arange(len(self.words))
        whole = self.words.shape[1] == self.words.shape[2]
        return Nearest(self.words[books, codes], self.distances[books, codes], whole)


def _squared(part: Tensor, book: Tensor) -> np.ndarray:
    """Squared distances of some codewords to all, ``[n, w]`` and ``[K, w]`` to ``[n, K]``."""
    return torch.cdist(part, book).square_().numpy()


def _first(words: np.ndarray) -> np.ndarray:
    """Puts each codeword first among those next to it, wherever a twin of it came before."""
    own = np.arange(words.shape[1])[:, None]
    for row in words:
        place = np.where((row == own).any(1), (row == own).argmax(1), row.shape[1] - 1)
        row[np.arange(len(row)), place] = row[:, 0]
        row[:, 0] = own[:, 0]
    return words
