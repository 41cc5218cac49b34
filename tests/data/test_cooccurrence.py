"""Counts of what follows what, against brute force."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_reg4rec.data.cooccurrence import cooccurrence, transitions
from recbole_reg4rec.data.sequences import TrainingSequences


def brute_force(histories: list[list[int]], items: int, window: int) -> np.ndarray:
    table = np.zeros((items, items))
    for history in histories:
        for a, first in enumerate(history):
            for b, second in enumerate(history):
                if a != b and abs(a - b) <= window and first != second:
                    table[first, second] += 1 / abs(a - b)
    return table


@given(st.lists(st.lists(st.integers(1, 6), max_size=9), min_size=1, max_size=5), st.integers(1, 7))
def test_cooccurrence_is_brute_force(histories, window):
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    items = np.array([item for history in histories for item in history], dtype=np.int64)
    found = cooccurrence(TrainingSequences(items, offsets), 7, window)
    np.testing.assert_allclose(found.toarray(), brute_force(histories, 7, window), atol=1e-12)


def test_transitions_keep_direction_users_and_repeats_apart():
    # Two users: 1 1 2 and 2 3.
    sequences = TrainingSequences(np.array([1, 1, 2, 2, 3]), np.array([0, 3, 5]))
    found = transitions(sequences, 4, window=2, decay=1.0).toarray()
    expected = np.zeros((4, 4))
    expected[1, 1], expected[1, 2], expected[2, 3] = 1.0, 1.0 + 0.5, 1.0
    np.testing.assert_allclose(found, expected)
    flat = transitions(sequences, 4, window=50, decay=0.0).toarray()
    assert flat[1, 2] == 2.0 and flat.sum() == 4.0


def test_a_single_interaction_follows_nothing():
    assert transitions(TrainingSequences(np.array([1]), np.array([0, 1])), 3, window=5, decay=1.0).nnz == 0
