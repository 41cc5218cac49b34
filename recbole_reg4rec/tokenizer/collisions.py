"""Makes the tuples of tokens unique, so that no two items are indistinguishable (METHOD section 1, our choice)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

# Pairs of codebooks are searched among this many nearest codewords of each, when no single move is free.
_NEAREST_FOR_PAIRS = 16


@dataclass(frozen=True)
class Resolved:
    """``codes`` int64 ``[N, M]``; ``moved`` items got another token; ``unresolved`` still share a tuple."""

    codes: np.ndarray
    moved: int
    unresolved: int


def count_collisions(codes: np.ndarray) -> int:
    """Items that share their whole tuple with another item; ``codes`` is int ``[N, M]``."""
    _, counts = np.unique(codes, axis=0, return_counts=True)
    return int(counts[counts > 1].sum())


def resolve_collisions(codes: np.ndarray, distances: np.ndarray) -> Resolved:
    """Moves the cheaper items of every collision to the nearest free tuple.

    Of the items sharing a tuple the one that would be hardest to move stays. The others, cheapest first, change the
    one token that costs least in distance; where no single change is free, two tokens.

    Args:
        codes: int64 ``[N, M]``, assigned tokens.
        distances: float32 ``[N, M, K]``, squared distance of each item to each codeword.
    """
    codes = codes.copy()
    groups: dict[bytes, list[int]] = defaultdict(list)
    for item, code in enumerate(codes):
        groups[code.tobytes()].append(item)
    taken = set(groups)
    waiting: list[tuple[float, int]] = []
    for members in groups.values():
        if len(members) > 1:
            costs = sorted((_cheapest_move(codes[item], distances[item]), item) for item in members)
            waiting.extend(costs[:-1])
    moved = unresolved = 0
    for _, item in sorted(waiting):
        free = _nearest_free(codes[item], distances[item], taken)
        if free is None:
            unresolved += 1
            continue
        codes[item] = free
        taken.add(free.tobytes())
        moved += 1
    return Resolved(codes=codes, moved=moved, unresolved=unresolved)


def _extra_cost(code: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """What each single change costs, ``[M, K]``; keeping the token costs 0."""
    return distance - distance[np.arange(len(code)), code][:, None]


def _cheapest_move(code: np.ndarray, distance: np.ndarray) -> float:
    extra = _extra_cost(code, distance)
    extra[np.arange(len(code)), code] = np.inf
    return float(extra.min())


def _nearest_free(code: np.ndarray, distance: np.ndarray, taken: set[bytes]) -> np.ndarray | None:
    extra = _extra_cost(code, distance)
    books, words = extra.shape
    for flat in np.argsort(extra, axis=None, kind="stable"):
        book, word = divmod(int(flat), words)
        candidate = code.copy()
        candidate[book] = word
        if candidate.tobytes() not in taken:
            return candidate
    nearest = np.argsort(extra, axis=1, kind="stable")[:, : min(_NEAREST_FOR_PAIRS, words)]
    best: tuple[float, np.ndarray] | None = None
    for first in range(books):
        for second in range(first + 1, books):
            for a in nearest[first]:
                for b in nearest[second]:
                    cost = float(extra[first, a] + extra[second, b])
                    if best is not None and cost >= best[0]:
                        continue
                    candidate = code.copy()
                    candidate[first], candidate[second] = a, b
                    if candidate.tobytes() not in taken:
                        best = (cost, candidate)
    return None if best is None else best[1]
