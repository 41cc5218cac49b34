"""Words next to words, and collisions resolved by them."""

from __future__ import annotations

import numpy as np
import torch

from recbole_reg4rec.tokenizer.collisions import count_collisions, resolve_collisions
from recbole_reg4rec.tokenizer.neighbours import WordNeighbours


def test_known_answer():
    near = WordNeighbours.of(torch.tensor([[[0.0], [3.0], [1.0]]]), 2)
    assert near.words.tolist() == [[[0, 2], [1, 2], [2, 0]]]
    assert np.allclose(near.distances, [[[0.0, 1.0], [0.0, 4.0], [0.0, 1.0]]], atol=1e-4)


def test_a_word_comes_first_even_among_its_twins():
    near = WordNeighbours.of(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]), 2)
    assert near.words[0, :, 0].tolist() == [0, 1, 2, 3]
    assert all(len(set(row)) == 2 for row in near.words[0].tolist())


def test_tuples_get_the_words_of_their_books():
    words = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(1))
    near = WordNeighbours.of(words, 5).around(np.array([[4, 7, 19], [0, 0, 0]]))
    assert near.words.shape == (2, 3, 5) and not near.whole
    assert near.words[0, :, 0].tolist() == [4, 7, 19]
    for book, own in enumerate([4, 7, 19]):
        expected = (words[book] - words[book, own]).square().sum(-1).sort().values[:5]
        assert np.allclose(near.distances[0, book], expected, atol=1e-4)
    assert WordNeighbours.of(words, 20).around(np.array([[1, 2, 3]])).whole


def test_collisions_take_the_next_tuples_and_no_distances_are_asked_for():
    words = torch.tensor([[[0.0], [1.0], [10.0]], [[0.0], [2.0], [20.0]]])
    near = WordNeighbours.of(words, 3)

    def never(items: np.ndarray) -> np.ndarray:
        raise AssertionError(items)

    codes = np.array([[0, 0], [0, 0], [0, 0], [2, 2]])
    found = resolve_collisions(codes, never, around=near.around)
    # The last of equal ones stays; a step in the first book costs 1, in the second 4.
    assert sorted(map(tuple, found.codes[:3].tolist())) == [(0, 0), (0, 1), (1, 0)]
    assert found.codes[3].tolist() == [2, 2] and found.moved == 2 and found.unresolved == 0


def test_where_near_words_do_not_do_all_are_asked_for():
    words = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(2))
    near = WordNeighbours.of(words, 2)
    table = torch.stack([torch.cdist(words[book, :1], words[book])[0] for book in range(2)]).numpy()
    codes = np.zeros((40, 2), dtype=np.int64)
    found = resolve_collisions(codes, lambda items: np.stack([table] * len(items)), around=near.around)
    assert count_collisions(found.codes) == 0 and found.moved == 39
