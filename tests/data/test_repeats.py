"""Odds of repeating, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_reg4rec.data.repeats import AGE_BUCKETS, repeat_odds
from recbole_reg4rec.data.sequences import TrainingSequences


def _sequences(*users: list[int]) -> TrainingSequences:
    lengths = [len(user) for user in users]
    return TrainingSequences(np.concatenate(users).astype(np.int64), np.cumsum([0, *lengths]).astype(np.int64))


def _by_hand(sequences: TrainingSequences, items: int) -> np.ndarray:
    share = np.bincount(sequences.items, minlength=items) / len(sequences.items)
    taken, expected = np.zeros(AGE_BUCKETS), np.zeros(AGE_BUCKETS)
    for begin, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        history = sequences.items[begin:end].tolist()
        for at in range(1, len(history)):
            before = history[:at]
            for item in set(before):
                age = before[::-1].index(item)
                bucket = min(int(4 * np.log2(age + 1)), AGE_BUCKETS - 1)
                expected[bucket] += share[item]
                taken[bucket] += history[at] == item
    overall = (taken.sum() + 0.5) / (expected.sum() + 0.5)
    return np.log((taken + overall) / (expected + 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_a_plain_count(seed: int) -> None:
    generator = np.random.default_rng(seed)
    users = [generator.integers(1, 6, generator.integers(1, 12)).tolist() for _ in range(8)]
    sequences = _sequences(*users)
    assert np.allclose(repeat_odds(sequences, 7), _by_hand(sequences, 7))


def test_nobody_repeats() -> None:
    odds = repeat_odds(_sequences(*([list(range(1, 30))] * 40)), 30)
    assert (odds < -3).all()


def test_everybody_repeats_the_item_before_last() -> None:
    odds = repeat_odds(_sequences(*([[1, 2] * 10, [3, 4] * 10, [5, 6] * 10])), 7)
    assert odds[4] > 1 > 0 > odds[0]  # age 1 is in bucket 4, age 0 in bucket 0


def test_users_with_one_interaction_say_nothing() -> None:
    assert np.allclose(repeat_odds(_sequences([1], [2]), 3), 0.0)
