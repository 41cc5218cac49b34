"""Categories: from the column named or guessed, from clusters where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from toys import cyclic_rows, item_rows

from recbole_reg4rec.errors import UserError

COLUMNS = ("item_id:token", "title:token_seq", "kind:token_seq", "brand:token")


def rows(items: int = 12) -> list[tuple[str, str, str | None, str]]:
    return [(f"i{i}", "t", "b a" if i == 3 else None if i == 4 else f"c{i % 2}", f"x{i % 3}") for i in range(items)]


def names_of(toy) -> dict[str, set[str]]:
    found = toy.categories
    return {
        toy.item(i): {found.names[c] for c in row if c > 0} for i, row in enumerate(found.members.tolist()) if i > 0
    }


def test_named_column_with_several_and_none(toy_data):
    toy = toy_data(item=rows(), item_columns=COLUMNS, item_category_field="kind")
    found = toy.categories
    assert found.source == "kind" and found.names == ("[PAD]", "a", "b", "c0", "c1") and found.number == 4
    assert found.members.shape == (13, 2) and found.members.dtype == np.int64 and not found.members[0].any()
    names = names_of(toy)
    assert names["i3"] == {"a", "b"} and names["i4"] == set() and names["i5"] == {"c1"} and names["i6"] == {"c0"}
    single = toy_data(item=rows(), item_columns=COLUMNS, item_category_field="brand", name="single")
    assert names_of(single)["i5"] == {"x2"} and single.categories.members.shape == (13, 1)


def test_a_category_twice_on_one_line_counts_once(toy_data):
    items = [(name, "t", "a a b", "x") for name, *_ in item_rows()]
    toy = toy_data(item=items, item_columns=COLUMNS, item_category_field="kind")
    assert toy.categories.members[1:].tolist() == [[1, 2]] * 12


def test_quotes_and_commas_of_recboles_amazon_files_are_no_part_of_a_name(toy_data):
    items = [
        (name, "t", "'Men's', 'Shoes'" if i % 2 else "'Shoes', 'Men's',", "',")
        for i, (name, *_) in enumerate(item_rows())
    ]
    toy = toy_data(item=items, item_columns=COLUMNS, item_category_field="kind")
    assert toy.categories.names == ("[PAD]", "Men's", "Shoes") and toy.categories.members[1:].tolist() == [[1, 2]] * 12
    bare = toy_data(item=items, item_columns=COLUMNS, item_category_field="brand", name="bare")
    assert bare.categories.names == ("[PAD]", "',")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("item_id:token", "title:token_seq", "Genre:token_seq", "brand:token"), "Genre"),
        (("item_id:token", "subclass:token_seq", "main_category:token_seq", "genre:token"), "main_category"),
        (("item_id:token", "title:token_seq", "class:token_seq", "brand:token"), "class"),
        (("item_id:token", "title:token_seq", "kind:token_seq", "brand:token"), "clusters"),
    ],
)
def test_guess_by_name(toy_data, columns, expected):
    assert toy_data(item=rows(), item_columns=columns).categories.source == expected


def test_clusters_where_there_is_no_column(toy_data):
    toy = toy_data(item=rows(), item_columns=COLUMNS, item_category_field=None, pseudo_categories=3)
    found = toy.categories
    assert found.source == "clusters" and found.names == ("[PAD]", "cluster 1", "cluster 2", "cluster 3")
    assert found.members.shape == (13, 1) and set(found.members[1:].ravel()) == {1, 2, 3} and found.members[0] == 0


def test_clusters_put_equal_items_together_and_leave_out_the_unknown(toy_data):
    items = [(f"i{i}", f"t{i % 3}", "k", "x") for i in range(12)]
    inter = [*cyclic_rows(), ("u0", "late", 99)]
    settings = {"item_category_field": None, "pseudo_categories": 3, "collaborative_dim": 0}
    toy = toy_data(inter, items, item_columns=COLUMNS, **settings)
    groups = names_of(toy)
    assert groups.pop("late") == set()
    assert {tuple(sorted(name for name in groups if groups[name] == own)) for own in groups.values()} == {
        tuple(sorted(f"i{i}" for i in range(12) if i % 3 == kind)) for kind in range(3)
    }


def test_more_clusters_than_items(toy_data):
    toy = toy_data(cyclic_rows(users=12), pseudo_categories=50)
    assert toy.categories.number == 12 and toy.categories.members.max() <= 12


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"item_category_field": "genre"}, r"item_category_field names column 'genre'.*\['title', 'kind', 'brand'\]"),
        ({"item_category_field": "v"}, "column 'v'"),
        ({"item_category_field": "empty"}, "'empty'.* is empty for every item"),
    ],
)
def test_mistakes_are_named(toy_data, settings, expected):
    items = [(*row, "1 2", None) for row in rows()]
    columns = (*COLUMNS, "v:float_seq", "empty:token")
    if settings["item_category_field"] == "genre":
        items, columns = rows(), COLUMNS
    with pytest.raises(UserError, match=expected):
        _ = toy_data(item=items, item_columns=columns, **settings).categories


def test_an_empty_column_is_not_guessed(toy_data):
    items = [(*row, None) for row in rows()]
    columns = ("item_id:token", "class:token_seq", "title:token_seq", "brand:token", "category:token")
    assert toy_data(item=items, item_columns=columns).categories.source == "class"
