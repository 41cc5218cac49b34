"""What is worked out of a table of shares, against the whole table by its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.decoding import shares
from recbole_reg4rec.decoding.catalogue import Catalogue
from recbole_reg4rec.decoding.shares import RemainingShares, Table

ITEMS, BOOKS, BATCH, QUERIES = 40, 3, 2, 5


def make(words: int, left: int, growing: bool = False) -> tuple[RemainingShares, Tensor]:
    """Random shares of some items of each path, one path without any, and the table that they mean.

    ``growing``: the second path has one item left, the third two, and so on.
    """
    generator = torch.Generator().manual_seed(words + left)
    codes = torch.randint(words, (ITEMS + 1, BOOKS), generator=generator)
    table = torch.zeros(BATCH * QUERIES, BOOKS, words)
    items, owners, values = [], [], []
    for path in range(1, BATCH * QUERIES):
        for item in (torch.randperm(ITEMS, generator=generator)[: path if growing else left] + 1).tolist():
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
@pytest.mark.parametrize(("held", "touched"), [(1, 8_192), (500, 8_192), (8_000_000, 8_192), (8_000_000, 7)])
def test_what_is_asked_for_is_that_of_the_table(
    words: int, left: int, held: int, touched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_HELD", held)
    monkeypatch.setattr(shares, "_TOUCHED", touched)
    found, table = make(words, left)
    assert torch.allclose(found.table(), table)
    books = torch.stack([torch.arange(QUERIES) % BOOKS, (torch.arange(QUERIES) + 1) % BOOKS], dim=1)
    books = books.expand(BATCH, -1, -1)
    for _ in range(2):  # nothing is left behind in memory that is used again
        assert torch.allclose(found.largest(), table.amax(-1))
        for kind in (found, Table(table)):
            for count in (1, 3, 100):
                _check_likeliest(kind.likeliest(books, count), table, books, count, left)


@pytest.mark.parametrize("words", [8, 64])
@pytest.mark.parametrize("touched", [8_192, 7])
def test_comparing_few_items_with_each_other_gives_what_a_table_gives(
    words: int, touched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_TOUCHED", touched)
    found, table = make(words, 0, growing=True)
    largest = found.largest()
    assert torch.allclose(largest, table.amax(-1))
    for limits in ((), (1,), (2, 4), (BATCH * QUERIES,)):
        monkeypatch.setattr(shares, "_COMPARED", limits)
        assert torch.equal(found.largest(), largest)


def _check_likeliest(got: tuple[Tensor, Tensor], table: Tensor, books: Tensor, count: int, left: int) -> None:
    values, tokens = got
    words = table.shape[-1]
    assert min(count, words) >= values.shape[-1] >= min(count, words, left) and tokens.shape == values.shape
    for row in range(BATCH):
        for path in range(QUERIES):
            for place, book in enumerate(books[row, path].tolist()):
                own, there = table[row, path, book], values[row, path, place]
                best = own.sort(descending=True).values[: len(there)]
                assert torch.allclose(there[: len(best)], best) and not there[len(best) :].any()
                listed = tokens[row, path, place][there > 0]
                assert torch.allclose(own[listed], there[there > 0]) and len(listed.unique()) == len(listed)


def test_memory_that_has_to_be_clear_is_left_clear() -> None:
    found, _ = make(64, 2)
    found.largest()
    assert not found.catalogue.blank(BATCH * QUERIES * BOOKS * 64).any()
    found.likeliest(torch.zeros(BATCH, QUERIES, 2, dtype=torch.int64), 5)
    assert not found.catalogue.blank(BATCH * QUERIES * BOOKS * 64).any()


def test_no_path_at_all_is_no_mistake() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    empty = RemainingShares(make(4, 2)[0].catalogue, none, none, torch.zeros(0), (0, 1))
    assert empty.largest().shape == (0, 1, BOOKS)
    assert empty.likeliest(torch.zeros(0, 1, 2, dtype=torch.int64), 3)[0].shape == (0, 1, 2, 1)
