"""How good the codes are, by numbers that need no recommender (docs/method.md, 1: always reported)."""

from __future__ import annotations

from typing import Any

import numpy as np


def utilisation(codes: np.ndarray, codewords: int) -> np.ndarray:
    """Share of codewords that any item uses, float64 ``[M]`` in ``[0, 1]``; ``codes`` int ``[N, M]``."""
    return np.array([len(np.unique(column)) / codewords for column in codes.T])


def perplexity(codes: np.ndarray, codewords: int) -> np.ndarray:
    """exp(entropy) of each codebook's use, float64 ``[M]`` in ``[1, K]``: codewords in effective use."""
    return np.array([np.exp(_entropy(np.bincount(column, minlength=codewords))) for column in codes.T])


def mutual_information(codes: np.ndarray, codewords: int) -> np.ndarray:
    """Mutual information between codebooks in nats, over items, float64 ``[M, M]``; the diagonal is the entropy.

    Biased upwards when items are few beside K squared; compare codes of one data set, not across data sets.
    """
    books = codes.shape[1]
    entropies = [_entropy(np.bincount(column, minlength=codewords)) for column in codes.T]
    out = np.diag(entropies).astype(float)
    for a in range(books):
        for b in range(a + 1, books):
            joint = _entropy(np.unique(codes[:, a].astype(np.int64) * codewords + codes[:, b], return_counts=True)[1])
            out[a, b] = out[b, a] = max(entropies[a] + entropies[b] - joint, 0.0)
    return out


def category_purity(codes: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Share of items that carry their token's most common category, float64 ``[M]`` in ``[0, 1]``.

    Args:
        codes: int ``[N, M]``.
        members: int ``[N, most categories]``, 0 pads; items without a category do not count.
    """
    has = members[:, 0] > 0
    out = []
    for column in codes[has].T:
        token = np.repeat(column, members.shape[1])
        category = members[has].ravel()
        pairs = token[category > 0], category[category > 0]
        table = np.zeros((column.max() + 1 if len(column) else 1, members.max() + 1))
        np.add.at(table, pairs, 1)
        out.append(float(table.max(axis=1).sum() / max(has.sum(), 1)))
    return np.array(out)


def explained_variance(features: np.ndarray, reconstruction: np.ndarray) -> float:
    """R squared of the reconstruction over all entries: 1 is perfect, 0 is no better than the mean; ``[N, F]`` both."""
    residual = float(np.square(features - reconstruction).sum())
    total = float(np.square(features - features.mean(axis=0)).sum())
    return 1.0 - residual / total if total > 0 else 1.0


def health_report(
    codes: np.ndarray, codewords: int, features: np.ndarray, reconstruction: np.ndarray, members: np.ndarray
) -> dict[str, Any]:
    """All figures as plain numbers, for the record and the terminal; arrays are per item, without the padding item."""
    information = mutual_information(codes, codewords)
    off_diagonal = information[~np.eye(len(information), dtype=bool)]
    return {
        "utilisation": [round(float(x), 4) for x in utilisation(codes, codewords)],
        "perplexity": [round(float(x), 2) for x in perplexity(codes, codewords)],
        "mutual_information": round(float(off_diagonal.mean()), 4) if len(off_diagonal) else 0.0,
        "entropy": round(float(np.diag(information).mean()), 4),
        "category_purity": [round(float(x), 4) for x in category_purity(codes, members)],
        "reconstruction_r2": round(explained_variance(features, reconstruction), 4),
    }


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
