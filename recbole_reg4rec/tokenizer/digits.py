"""The last digit that tells items with the same semantic codes apart (TIGER, Rajput et al. 2023, section 3.1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from recbole_reg4rec.tokenizer.collisions import Resolved


def append_digits(
    codes: np.ndarray, codewords: int, distances: Callable[[np.ndarray], np.ndarray], last: np.ndarray
) -> Resolved:
    """Appends 0, 1, ... to items that share their codes, in the order of the items.

    Where more items share their codes than there are digits, those beyond take the nearest codeword of the last level
    that has a digit left (our choice; the paper does not meet the case).

    Args:
        codes: int64 ``[N, M]``, from coarse to fine.
        codewords: digits there are, ``K``.
        distances: for items ``[n]`` their distances to the codewords of the last level, float32 ``[n, K]``.
        last: bool ``[N]``, items that get their digits after all others.

    Returns:
        ``codes`` int64 ``[N, M + 1]``; ``moved``: items whose digit is not 0; ``unresolved``: items for which neither
        a digit nor another codeword was left, which share the digit 0.
    """
    out = np.concatenate([codes, np.zeros((len(codes), 1), dtype=np.int64)], axis=1)
    taken: dict[tuple[int, ...], int] = defaultdict(int)
    unresolved = 0
    for members in (np.flatnonzero(~last), np.flatnonzero(last)):
        waiting: list[int] = []
        for item in members.tolist():
            prefix = tuple(codes[item].tolist())
            if taken[prefix] < codewords:
                out[item, -1] = taken[prefix]
                taken[prefix] += 1
            else:
                waiting.append(item)
        for item in waiting:
            order = np.argsort(distances(np.array([item]))[0], kind="stable").tolist()
            coarse = tuple(codes[item, :-1].tolist())
            free = next((word for word in order if taken[coarse + (word,)] < codewords), None)
            if free is None:
                unresolved += 1
                continue
            out[item, -2:] = free, taken[coarse + (free,)]
            taken[coarse + (free,)] += 1
    return Resolved(codes=out, moved=int((out[:, -1] > 0).sum()), unresolved=unresolved)
