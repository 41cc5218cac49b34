"""Optimised product quantisation: the features are turned, cut into slices, and each slice has a codebook of its own.

For long unordered codes (RPG, Hou et al. 2025, which quantises by OPQ). The turn and the codewords are fitted in turns
for the least squared error; the start deals the principal axes out so that every slice holds as much variance (both as
optimised product quantisation is defined by Ge et al. 2013; the schedule is our choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from tqdm import tqdm

from recbole_reg4rec.tokenizer.fit import check_codewords, principal_axes

# k-means sees at most this many items a codeword.
_KMEANS_ITEMS_A_CODEWORD = 64


@dataclass(frozen=True)
class OPQSettings:
    """Everything besides the features that the codes depend on; names as in ``properties/model/RPG.yaml``."""

    kind: ClassVar[str] = "opq"
    codebooks: int
    codewords: int
    rounds: int
    seed: int


class OPQ:
    """A fitted product quantiser.

    Args:
        mean: float32 ``[F]``, taken off first.
        turn: float32 ``[F', F']``, orthogonal; ``F'`` is ``F`` filled up to a multiple of the number of codebooks.
        codewords: float32 ``[M, K, F' / M]``.
    """

    def __init__(self, mean: Tensor, turn: Tensor, codewords: Tensor) -> None:
        self.mean, self.turn, self.codewords = mean, turn, codewords

    def slices(self, rows: Tensor) -> Tensor:
        """What each codebook sees of items: float32 ``[B, F]`` to ``[M, B, F' / M]``."""
        return _cut(_widen(rows - self.mean, len(self.turn)) @ self.turn, len(self.codewords))

    def distances(self, rows: Tensor) -> Tensor:
        """Squared distances of items to codewords, float32 ``[B, M, K]``."""
        return _squared_distances(self.slices(rows), self.codewords).transpose(0, 1)

    def codebook(self) -> Tensor:
        """Codewords, float32 ``[M, K, F' / M]``."""
        return self.codewords

    def reconstruct(self, rows: Tensor, codes: Tensor) -> Tensor:
        """The features that codes ``[B, M]`` stand for, float32 ``[B, F]``; of ``rows`` only the width counts."""
        return _join(_look_up(self.codewords, codes)) @ self.turn.T[:, : rows.shape[1]] + self.mean


def fit_opq(features: np.ndarray, known: np.ndarray, settings: OPQSettings, show_progress: bool = False) -> OPQ:
    """Fits turn and codewords on the items that have features; the same input and seed give the same.

    Args:
        features: float32 ``[items + 1, F]``.
        known: bool ``[items + 1]``, items to fit on.
        settings: sizes and rounds.
        show_progress: draw a progress bar.

    Raises:
        UserError: more codewords than items with features.
    """
    check_codewords(settings.codewords, int(known.sum()))
    data = torch.from_numpy(np.ascontiguousarray(features[known]))
    mean = data.mean(0)
    books = settings.codebooks
    data = _widen(data - mean, -(-data.shape[1] // books) * books)
    turn = _balanced_start(data, books)
    codewords = _start(_cut(data @ turn, books), settings)
    for _ in tqdm(range(settings.rounds), desc="Tokenizer (OPQ)", disable=not show_progress, ncols=100):
        parts = _cut(data @ turn, books)
        codes = _nearest(parts, codewords)
        _centre(codewords, parts, codes)
        # The turn that brings the items nearest to their codewords (orthogonal Procrustes).
        left, _, right = torch.linalg.svd(data.T @ _join(_look_up(codewords, codes.T)))
        turn = left @ right
    parts = _cut(data @ turn, books)
    for _ in range(5):
        _centre(codewords, parts, _nearest(parts, codewords))
    return OPQ(mean, turn, codewords)


def _widen(rows: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def _cut(rows: Tensor, books: int) -> Tensor:
    """``[B, F']`` to ``[M, B, F' / M]``."""
    return rows.unflatten(1, (books, -1)).transpose(0, 1).contiguous()


def _join(parts: Tensor) -> Tensor:
    """``[M, B, F' / M]`` to ``[B, F']``."""
    return parts.transpose(0, 1).flatten(1)


def _look_up(codewords: Tensor, codes: Tensor) -> Tensor:
    """Codewords of codes ``[B, M]``, as ``[M, B, F' / M]``."""
    return codewords[torch.arange(len(codewords)).unsqueeze(1), codes.T]


def _squared_distances(parts: Tensor, codewords: Tensor) -> Tensor:
    """``[M, B, w]`` and ``[M, K, w]`` to ``[M, B, K]``."""
    lengths = parts.square().sum(-1, keepdim=True) + codewords.square().sum(-1).unsqueeze(1)
    return torch.baddbmm(lengths, parts, codewords.transpose(1, 2), alpha=-2.0).clamp_(min=0.0)


def _nearest(parts: Tensor, codewords: Tensor) -> Tensor:
    """The nearest codeword of every slice, int64 ``[M, B]``; one codebook at a time, for the sake of memory."""
    pairs = zip(parts, codewords, strict=True)
    return torch.stack([_squared_distances(part[None], words[None])[0].argmin(-1) for part, words in pairs])


def _balanced_start(data: Tensor, books: int) -> Tensor:
    """Principal axes in an order that gives each slice the next strongest axis while it has least variance."""
    axes = principal_axes(data)
    variance = (data @ axes).var(0, unbiased=False).double().clamp(min=1e-12).log()
    room, load = data.shape[1] // books, [0.0] * books
    dealt: list[list[int]] = [[] for _ in range(books)]
    for axis in range(data.shape[1]):
        book = min((b for b in range(books) if len(dealt[b]) < room), key=lambda b: (len(dealt[b]) > 0, load[b]))
        dealt[book].append(axis)
        load[book] += float(variance[axis])
    return axes[:, [axis for axes_of_book in dealt for axis in axes_of_book]].contiguous()


def _start(parts: Tensor, settings: OPQSettings) -> Tensor:
    """k-means in every slice."""
    generator = np.random.default_rng(settings.seed)
    limit = min(parts.shape[1], _KMEANS_ITEMS_A_CODEWORD * settings.codewords)
    out = []
    for book, part in enumerate(parts.numpy()):
        sample = part[generator.permutation(len(part))[:limit]]
        kmeans = KMeans(n_clusters=settings.codewords, n_init=1, max_iter=20, random_state=settings.seed + book)
        out.append(torch.from_numpy(kmeans.fit(sample).cluster_centers_.astype(np.float32)))
    return torch.stack(out)


def _centre(codewords: Tensor, parts: Tensor, codes: Tensor) -> None:
    """Moves every codeword to the mean of its items; one that has none onto the item that is worst off."""
    for words, part, code in zip(codewords, parts, codes, strict=True):
        count = torch.bincount(code, minlength=len(words)).to(part.dtype).unsqueeze(1)
        total = torch.zeros_like(words).index_add_(0, code, part)
        worst_off = (part - words[code]).square().sum(-1).argsort(descending=True, stable=True)
        words.copy_(torch.where(count > 0, total / count.clamp(min=1.0), words))
        unused = torch.nonzero(count[:, 0] == 0).squeeze(1)
        words[unused] = part[worst_off[: len(unused)]]
