"""The last digit: items with the same codes are told apart, in the order of the items, whatever comes last."""

from __future__ import annotations

import numpy as np

from recbole_reg4rec.tokenizer.digits import append_digits

NONE_LAST = np.zeros(5, dtype=bool)


def nobody(items: np.ndarray) -> np.ndarray:
    raise AssertionError("no item has to leave its codes")


def test_items_with_the_same_codes_are_numbered() -> None:
    codes = np.array([[1, 2], [0, 2], [1, 2], [1, 1], [1, 2]])
    found = append_digits(codes, 4, nobody, NONE_LAST)
    assert found.codes.tolist() == [[1, 2, 0], [0, 2, 0], [1, 2, 1], [1, 1, 0], [1, 2, 2]]
    assert (found.moved, found.unresolved) == (2, 0)


def test_items_that_come_last_take_nothing_from_the_others() -> None:
    codes = np.array([[1, 2], [1, 2], [1, 2], [1, 2], [1, 2]])
    found = append_digits(codes, 8, nobody, np.array([True, False, False, True, False]))
    assert found.codes[:, -1].tolist() == [3, 0, 1, 4, 2]


def test_more_items_than_digits_go_to_the_nearest_word_with_room() -> None:
    codes = np.array([[1, 0], [1, 0], [1, 0], [1, 2], [1, 2]])
    # Word 2 is nearest after their own and full; so is word 0; word 1 has room.
    found = append_digits(codes, 2, lambda items: np.array([[0.0, 3.0, 1.0, 4.0]] * len(items)), NONE_LAST)
    assert found.codes.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 2, 0], [1, 2, 1]]
    assert found.unresolved == 0


def test_where_nothing_is_left_it_is_counted() -> None:
    codes = np.zeros((5, 1), dtype=np.int64)
    found = append_digits(codes, 2, lambda items: np.array([[0.0, 1.0]] * len(items)), NONE_LAST)
    assert found.unresolved == 1
    assert len(np.unique(found.codes, axis=0)) == 4
