"""How often users take an item again, by how long ago it was; from TRAINING interactions (docs/method.md, 5)."""

from __future__ import annotations

import numpy as np

from recbole_reg4rec.data.sequences import TrainingSequences

# Ages are told apart on a logarithmic scale, four buckets to a doubling; the last begins at an age of 55,000.
AGE_BUCKETS = 64
PER_DOUBLING = 4


def repeat_odds(sequences: TrainingSequences, items: int) -> np.ndarray:
    """Log of how much more often a seen item is taken than its popularity alone would have it.

    An item is on offer, at the age of its last occurrence, whenever the user takes something. Buckets with little data
    lean on the figure of all ages.

    Args:
        sequences: training part of every user's history.
        items: number of items with the padding item.

    Returns:
        float64 ``[AGE_BUCKETS]``; bucket ``floor(4 log2(age + 1))``, age 0 being the item taken just before.
    """
    place, last = np.arange(len(sequences.items)), np.repeat(sequences.offsets[1:], sequences.lengths) - 1
    order = np.lexsort((place, sequences.items, sequences.users))
    again = np.zeros(len(place), dtype=bool)
    again[order[:-1]] = (sequences.items[order[1:]] == sequences.items[order[:-1]]) & (
        sequences.users[order[1:]] == sequences.users[order[:-1]]
    )
    following = last.copy()
    following[order[:-1]] = np.where(again[order[:-1]], order[1:], last[order[:-1]])
    oldest = following - place - 1  # the greatest age that this occurrence is on offer at; -1: never
    share = np.bincount(sequences.items, minlength=items) / max(len(place), 1)
    longest = int(oldest.max(initial=0)) + 1
    ends = np.bincount(oldest + 1, weights=share[sequences.items], minlength=longest + 1)
    expected = np.cumsum(ends[::-1])[::-1][1:]
    taken = np.bincount(oldest[again], minlength=longest).astype(np.float64)
    bucket = np.minimum(PER_DOUBLING * np.log2(np.arange(longest) + 1.0), AGE_BUCKETS - 1).astype(np.int64)
    taken_in = np.bincount(bucket, weights=taken, minlength=AGE_BUCKETS)
    expected_in = np.bincount(bucket, weights=expected, minlength=AGE_BUCKETS)
    overall = (taken_in.sum() + 0.5) / (expected_in.sum() + 0.5)
    return np.log((taken_in + overall) / (expected_in + 1.0))
