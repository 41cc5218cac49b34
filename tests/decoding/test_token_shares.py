"""What is worked out of a table of shares, against the whole table by its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.decoding import catalogue, shares
from recbole_reg4rec.decoding.catalogue import Candidates, Catalogue
from recbole_reg4rec.decoding.shares import RemainingShares, Table, TokenShares

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
    for _ in range(2):  # what is left behind in memory that is used again does no harm
        _check(found, table, left)
    _check(Table(table), table, left)


def posted(words: int, steps: int, empty: bool) -> tuple[RemainingShares, Tensor]:
    """Random shares of what is left to paths that took the tokens of a random item, and the table that they mean.

    ``empty``: the first path took, last, a token that few or none of its items carry.
    """
    generator = torch.Generator().manual_seed(words + steps)
    codes = torch.randint(words, (ITEMS + 1, BOOKS), generator=generator)
    found = Catalogue(codes, words)
    targets = torch.randint(1, ITEMS + 1, (BATCH * QUERIES,), generator=generator)
    left: Candidates | None = None
    for book in (2, 0)[:steps]:
        tokens = codes[targets, book].clone()
        if empty and book == (2, 0)[steps - 1]:
            tokens[0] = words - 1
        books = torch.full_like(tokens, book)
        left = found.open(books, tokens) if left is None else found.narrow(left, books, tokens)
    assert left is not None
    # Some of them in another order, and one twice, as beams go on.
    order = torch.tensor([3, 0, 0, *range(4, BATCH * QUERIES), 1])
    left = left[order]
    items, owners = left.entries()
    values = torch.rand(len(items), generator=generator)
    table = torch.zeros(BATCH * QUERIES, BOOKS, words)
    for item, owner, value in zip(items.tolist(), owners.tolist(), values, strict=True):
        for book in range(BOOKS):
            table[owner, book, codes[item, book]] += value
    shape = BATCH, QUERIES
    return RemainingShares(found, items, owners, values, shape, left), table.view(*shape, BOOKS, words)


@pytest.mark.parametrize("words", [2, 6, 64])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("largest", [0, 1 << 26])
@pytest.mark.parametrize("held", [1, 50, 8_000_000])
def test_places_known_of_posting_lists_give_what_the_table_gives(
    words: int, steps: int, empty: bool, largest: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_HELD", held)
    monkeypatch.setattr(catalogue, "_LARGEST_TABLE", largest)
    found, table = posted(words, steps, empty)
    assert (found.catalogue.slots() is None) == (largest == 0)
    assert torch.allclose(found.table(), table)
    _check(found, table, 1)
    # Whether the items are known to be of posting lists changes nothing but the time it takes.
    alone = replace(found, candidates=None)
    assert torch.equal(alone.largest(), found.largest())
    books = torch.ones(BATCH, QUERIES, 1, dtype=torch.int64)
    assert torch.equal(alone.likeliest(books, 3)[0], found.likeliest(books, 3)[0])


def _check(found: TokenShares, table: Tensor, left: int) -> None:
    """What is asked for is that of the table, whose paths have ``left`` items at least, or none."""
    assert torch.allclose(found.largest(), table.amax(-1))
    books = torch.stack([torch.arange(QUERIES) % BOOKS, (torch.arange(QUERIES) + 1) % BOOKS], dim=1)
    books = books.expand(BATCH, -1, -1)
    for count in (1, 3, 100):
        _check_likeliest(found.likeliest(books, count), table, books, count, left)


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


def test_no_path_at_all_is_no_mistake() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    empty = RemainingShares(make(4, 2)[0].catalogue, none, none, torch.zeros(0), (0, 1))
    assert empty.largest().shape == (0, 1, BOOKS)
    assert empty.likeliest(torch.zeros(0, 1, 2, dtype=torch.int64), 3)[0].shape == (0, 1, 2, 1)
