"""The largest numbers by groups against those of all in order."""

from __future__ import annotations

import pytest
import torch

from recbole_reg4rec.model.likeliest import likeliest


@pytest.mark.parametrize(("size", "count"), [(5, 5), (40, 3), (96, 3), (1000, 7), (1007, 7), (1007, 31)])
def test_places_are_those_of_the_largest_ascending(size: int, count: int) -> None:
    values = torch.randn(6, size, generator=torch.Generator().manual_seed(size))
    expected = values.argsort(dim=1, descending=True)[:, :count].sort(dim=1).values
    assert torch.equal(likeliest(values, count), expected)


def test_all_of_the_largest_may_lie_in_one_group_and_among_what_is_in_none() -> None:
    values = torch.zeros(2, 1003)
    values[0, [2, 64, 126, 188]] = torch.tensor([4.0, 3.0, 2.0, 1.0])  # one group: 62 groups of every 62nd number
    values[1, [1002, 1001, 1000, 999]] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert likeliest(values, 4).tolist() == [[2, 64, 126, 188], [999, 1000, 1001, 1002]]


def test_among_equals_some_are_taken_and_numbers_that_never_win_last() -> None:
    values = torch.full((3, 500), float("-inf"))
    values[:, 7] = 1.0
    values[0] = 2.0
    for row, places in enumerate(likeliest(values, 4).tolist()):
        assert len(set(places)) == 4 and places == sorted(places)
        assert row == 0 or 7 in places
