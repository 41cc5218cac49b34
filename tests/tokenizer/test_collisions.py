"""Collisions: unique whenever there is room, at the least cost, the same for items that others do not touch, fast."""

from __future__ import annotations

import itertools
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_reg4rec.tokenizer import collisions
from recbole_reg4rec.tokenizer.collisions import count_collisions, resolve_collisions


def resolve(distances: np.ndarray, codes: np.ndarray | None = None, last: np.ndarray | None = None):
    codes = distances.argmin(axis=2).astype(np.int64) if codes is None else codes
    return resolve_collisions(codes, lambda items: distances[items], last)


def cost(distances: np.ndarray, code) -> float:
    return float(sum(distances[book, word] for book, word in enumerate(code)))


def test_count_collisions():
    assert count_collisions(np.array([[0, 1], [0, 1], [1, 0], [0, 1], [1, 1]])) == 3
    assert count_collisions(np.array([[0, 1], [1, 0]])) == 0


TABLES = st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())


@given(TABLES)
@settings(max_examples=200)
def test_unique_whenever_there_is_room(table):
    items, books, words, seed, coarse = table
    generator = np.random.default_rng(seed)
    shape = (items, books, words)
    distances = (generator.integers(0, 3, shape) if coarse else generator.random(shape)).astype(np.float32)
    before = distances.argmin(axis=2).astype(np.int64)
    keep = before.copy()
    found = resolve(distances, before)
    assert np.array_equal(before, keep)
    assert found.codes.shape == before.shape and found.codes.dtype == np.int64
    assert ((found.codes >= 0) & (found.codes < words)).all()
    distinct = len(np.unique(found.codes, axis=0))
    assert distinct == min(items, words**books)
    assert found.unresolved == items - distinct
    changed = (found.codes != before).any(axis=1)
    assert found.moved == changed.sum()
    # Whoever shared with nobody stays, and of those who share one stays.
    _, group, size = np.unique(before, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    for number, members in enumerate(size):
        assert members - changed[group == number].sum() >= 1


@given(TABLES)
@settings(max_examples=100)
def test_the_last_to_move_takes_the_cheapest_tuple_left(table):
    items, books, words, seed, _ = table
    distances = np.random.default_rng(seed).random((items, books, words)).astype(np.float32)
    before = distances.argmin(axis=2).astype(np.int64)
    found = resolve(distances, before)
    if not found.moved or found.unresolved:
        return
    # Greedy: nobody who moved would find a cheaper tuple that is free in the end.
    taken = {tuple(code) for code in found.codes}
    everything = list(itertools.product(range(words), repeat=books))
    for item in np.flatnonzero((found.codes != before).any(axis=1)):
        free = [cost(distances[item], code) for code in everything if code not in taken]
        assert not free or cost(distances[item], found.codes[item]) <= min(free) + 1e-6


def test_the_cheaper_item_moves_to_its_nearest():
    # Both items sit on (0, 0). Item 0 may leave at a cost of 0.5, item 1 at 0.2 in book 1.
    distances = np.array([[[0, 0.5, 0.9], [0, 0.6, 0.7]], [[0, 0.3, 0.9], [0, 0.8, 0.2]]])
    found = resolve(distances)
    assert found.codes.tolist() == [[0, 0], [0, 2]]
    assert (found.moved, found.unresolved) == (1, 0)


def test_two_cheap_changes_go_before_a_dear_one():
    # (0, 0) twice, (0, 1) and (1, 0) taken: (1, 1) costs 0.3, the next single change 5.
    distances = np.full((4, 2, 3), 9.0)
    distances[:2, 0] = [0, 0.1, 5]
    distances[:2, 1] = [0, 0.2, 5]
    distances[2, 0, 0] = distances[2, 1, 1] = distances[3, 0, 1] = distances[3, 1, 0] = 0
    found = resolve(distances)
    assert sorted(map(tuple, found.codes[:2].tolist())) == [(0, 0), (1, 1)]
    assert found.codes[2:].tolist() == [[0, 1], [1, 0]]


def test_three_changes_where_all_else_is_taken():
    distances = np.zeros((8, 3, 2), dtype=np.float32)
    distances[:, :, 1] = 1
    found = resolve(distances)
    assert len(np.unique(found.codes, axis=0)) == 8 and found.moved == 7 and found.unresolved == 0


def test_too_small_capacity_is_counted():
    found = resolve(np.zeros((10, 2, 2), dtype=np.float32))
    assert (found.moved, found.unresolved) == (3, 6)
    assert count_collisions(found.codes) == 7


def test_one_codeword():
    found = resolve(np.zeros((3, 2, 1), dtype=np.float32))
    assert (found.moved, found.unresolved) == (0, 2)


def test_nothing_to_do_asks_for_few_distances():
    codes = np.array([[0, 1], [1, 0], [1, 1]])
    asked = []

    def distances(items):
        asked.append(len(items))
        return np.zeros((len(items), 2, 2))

    assert np.array_equal(resolve_collisions(codes, distances).codes, codes)
    assert sum(asked) <= 1
    assert len(resolve_collisions(np.zeros((0, 2), dtype=np.int64), distances).codes) == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_items_that_come_last_change_nobody_else(seed, extra):
    generator = np.random.default_rng(seed)
    known = generator.integers(0, 3, (9, 2, 4)).astype(np.float32)
    unknown = np.tile(generator.integers(0, 3, (1, 2, 4)).astype(np.float32), (extra, 1, 1))
    alone = resolve(known)
    where = np.sort(generator.choice(9 + extra, extra, replace=False))
    last = np.zeros(9 + extra, dtype=bool)
    last[where] = True
    distances = np.zeros((9 + extra, 2, 4), dtype=np.float32)
    distances[last], distances[~last] = unknown, known
    found = resolve(distances, last=last)
    assert np.array_equal(found.codes[~last], alone.codes)
    assert len(np.unique(found.codes, axis=0)) == 9 + extra - found.unresolved
    assert found.unresolved == 0


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_many_items_alike_take_seconds_at_most(noise):
    generator = np.random.default_rng(0)
    distances = np.tile(generator.random((1, 4, 256)), (2000, 1, 1))
    distances += noise * generator.random(distances.shape)
    codes = np.tile(distances[0].argmin(axis=-1), (2000, 1)).astype(np.int64)
    begin = process_time()
    found = resolve(distances, codes)
    assert process_time() - begin < 20
    assert found.moved == 1999 and len(np.unique(found.codes, axis=0)) == 2000


def test_items_that_are_alike_are_asked_for_once_and_few_at_a_time():
    generator = np.random.default_rng(5)
    kinds = generator.random((150, 3, 4)).astype(np.float32)
    belongs = np.repeat(np.arange(150), 3)
    distances, asked = kinds[belongs], []

    def counted(items):
        asked.append(len(items))
        return distances[items]

    codes = distances.argmin(axis=2).astype(np.int64)
    # 64 tuples for 450 items, so that most find no place.
    found = resolve_collisions(codes, counted, alike=lambda items: belongs[items])
    plain = resolve_collisions(codes, lambda items: distances[items])
    assert np.array_equal(found.codes, plain.codes) and found.unresolved == plain.unresolved == 450 - 64
    assert max(asked) == 64 and sum(asked) <= 1 + 150 + 150


@pytest.mark.parametrize("near", [2, 4, 7])
def test_looking_at_near_words_first_changes_nothing(monkeypatch, near):
    generator = np.random.default_rng(8)
    distances = generator.random((90, 2, 12)).astype(np.float32)
    # A third of the items are copies of others, and everybody crowds into a corner of the 144 tuples.
    distances[:, :, :2] -= 2.0
    distances[60:] = distances[:30]
    monkeypatch.setattr(collisions, "_NEAR", 12)
    whole = resolve(distances)
    monkeypatch.setattr(collisions, "_NEAR", near)
    found = resolve(distances)
    assert np.array_equal(found.codes, whole.codes) and found.moved == whole.moved > 60
