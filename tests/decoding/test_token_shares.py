"""What is worked out of a table of shares, against the whole table by its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.decoding import shares
from recbole_reg4rec.decoding.catalogue import Catalogue
from recbole_reg4rec.decoding.shares import RemainingShares, Table

ITEMS, BOOKS, BATCH, QUERIES = 40, 3, 2, 5


def make(words: int, left: int) -> tuple[RemainingShares, Tensor]:
    """Random shares of some items of each path, one path without any, and the table that they mean."""
    generator = torch.Generator().manual_seed(words + left)
    codes = torch.randint(words, (ITEMS + 1, BOOKS), generator=generator)
    table = torch.zeros(BATCH * QUERIES, BOOKS, words)
    items, owners, values = [], [], []
    for path in range(1, BATCH * QUERIES):
        for item in (torch.randperm(ITEMS, generator=generator)[:left] + 1).tolist():
            share = float(torch.rand((), generator=generator))
            items.append(item)
            owners.append(path)
            values.append(share)
            for book in range(BOOKS):
                table[path, book, codes[item, book]] += share
    found = RemainingShares(
        Catalogue(codes, words), torch.tensor(items), torch.tensor(owners), torch.tensor(values), (BATCH, QUERIES)
    )
    return found, table.view(BATCH, QUERIES, BOOKS, words)


# Few items left among many words, and so many that whole tables are less.
@pytest.mark.parametrize(("words", "left"), [(64, 2), (4, 30), (1, 1)])
@pytest.mark.parametrize("held", [1, 500, 8_000_000])
def test_what_is_asked_for_is_that_of_the_table(
    words: int, left: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_HELD", held)
    found, table = make(words, left)
    assert torch.allclose(found.table(), table)
    books = torch.stack([torch.arange(QUERIES) % BOOKS, (torch.arange(QUERIES) + 1) % BOOKS], dim=1)
    books = books.expand(BATCH, -1, -1)
    for _ in range(2):  # nothing is left behind in memory that is used again
        assert torch.allclose(found.largest(), table.amax(-1))
        assert torch.allclose(found.of(books), Table(table).of(books))
    for row in range(BATCH):
        for path in range(QUERIES):
            for place, book in enumerate(books[row, path].tolist()):
                assert torch.equal(Table(table).of(books)[row, path, place], table[row, path, book])


def test_memory_that_has_to_be_clear_is_left_clear() -> None:
    found, _ = make(64, 2)
    found.largest()
    assert not found.catalogue.blank(BATCH * QUERIES * BOOKS * 64).any()


def test_no_path_at_all_is_no_mistake() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    empty = RemainingShares(make(4, 2)[0].catalogue, none, none, torch.zeros(0), (0, 1))
    assert empty.largest().shape == (0, 1, BOOKS)
    assert empty.of(torch.zeros(0, 1, 2, dtype=torch.int64)).shape == (0, 1, 2, 4)
