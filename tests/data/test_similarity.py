"""Likeness in content: known answers, own vectors, common words, nothing held out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from toys import cyclic_rows, item_rows

from recbole_reg4rec.data import similarity
from recbole_reg4rec.data.similarity import content_neighbours

ROWS = [("i0", "red shoe", "a"), ("i1", "red shoe", "a"), ("i2", "blue shoe", "b"), ("i3", "green hat", "c")]


def neighbours(toy, count: int = 50) -> np.ndarray:
    found = content_neighbours(toy.config, toy.splits[0], count)
    assert found is not None and found.dtype == np.float32
    return found.toarray()


def place(toy, name: str) -> int:
    return int(toy.dataset.token2id("item_id", name))


def test_items_of_the_same_words_are_alike_and_others_less(toy_data):
    toy = toy_data(cyclic_rows(items=4), ROWS)
    found = neighbours(toy)
    i0, i1, i2, i3 = (place(toy, f"i{n}") for n in range(4))
    assert found[i0, i1] == pytest.approx(1.0, abs=1e-6)
    assert 0.0 < found[i0, i2] < 0.9 and found[i0, i2] == pytest.approx(found[i2, i0])
    assert not found[i3].any() and not found.diagonal().any() and not found[0].any()


def test_only_the_nearest_are_kept(toy_data):
    toy = toy_data(cyclic_rows(items=4), ROWS)
    every, one = neighbours(toy), neighbours(toy, 1)
    assert (one > 0).sum(1).max() == 1
    assert one[place(toy, "i0")].argmax() == every[place(toy, "i0")].argmax() == place(toy, "i1")


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_pieces_give_what_the_whole_gives(toy_data, monkeypatch, block):
    toy = toy_data(cyclic_rows(), item_rows(), name=f"block{block}")
    whole = neighbours(toy, 3)
    monkeypatch.setattr(similarity, "_BLOCK", block)
    np.testing.assert_array_equal(neighbours(toy, 3), whole)


def test_own_vectors_are_compared_by_cosine(toy_data):
    columns = ("item_id:token", "v:float_seq")
    rows = [("i0", "1 0"), ("i1", "1 0.1"), ("i2", "-1 0"), ("i3", "-1 -0.1")]
    toy = toy_data(cyclic_rows(items=4), rows, item_columns=columns)
    found = neighbours(toy)
    i0, i1, i2 = (place(toy, f"i{n}") for n in range(3))
    vectors = np.array([[1, 0], [1, 0.1], [-1, 0], [-1, -0.1]])
    vectors -= vectors.mean(0)
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    assert found[i0, i1] == pytest.approx(cosine, abs=1e-6)
    assert found[i0, i2] == 0.0, "opposites are not alike"


def test_words_that_most_items_share_bring_nothing_together(toy_data, monkeypatch):
    monkeypatch.setattr(similarity, "_PAIRS_AN_ITEM", 2)
    monkeypatch.setattr(similarity, "_FEWEST", 2)
    toy = toy_data(cyclic_rows(items=4), ROWS)
    found = neighbours(toy)
    # Three items are shoes, two are red.
    assert found[place(toy, "i0"), place(toy, "i2")] == 0.0
    assert found[place(toy, "i0"), place(toy, "i1")] > 0.5


def test_data_that_say_nothing_of_items_have_no_neighbours(toy_data):
    toy = toy_data(cyclic_rows())
    assert content_neighbours(toy.config, toy.splits[0], 50) is None


def test_interactions_play_no_part(toy_data):
    one = toy_data(cyclic_rows(), item_rows(), name="one")
    two = toy_data([(user, item, -time) for user, item, time in cyclic_rows()], item_rows(), name="two")
    names = [f"i{n}" for n in range(12)]
    first, second = (
        sp.csr_matrix(neighbours(toy))[[place(toy, name) for name in names]][:, [place(toy, name) for name in names]]
        for toy in (one, two)
    )
    np.testing.assert_allclose(first.toarray(), second.toarray(), atol=1e-7)
