"""Meanings of tokens on catalogues whose right answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_reg4rec.data.categories import ItemCategories
from recbole_reg4rec.study.gloss import Glossary, characteristic

ITEMS = [(f"i{i}", f"the {'dark' if i < 6 else 'sunny'} tale, {'blue' if i % 2 else 'red'}", "x") for i in range(12)]


def glossary(toy: Any) -> Glossary:
    """Codebook 0 tells dark from sunny items, codebook 1 odd from even ones."""
    numbers = {toy.item(n): n for n in range(1, 13)}
    codes = np.zeros((13, 2), dtype=np.int64)
    for i in range(12):
        codes[numbers[f"i{i}"]] = (i >= 6, i % 2)
    members = np.zeros((13, 1), dtype=np.int64)
    for i in range(12):
        members[numbers[f"i{i}"]] = 1 + i % 2
    categories = ItemCategories(members, ("[PAD]", "even", "odd"), "clusters")
    return Glossary(toy.config, toy.data.train._dataset, toy.sequences, codes, categories)


def test_words_that_set_a_group_apart_come_first() -> None:
    has = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]))
    assert characteristic(has, np.array([0, 1]), least=2).tolist() == [1]
    assert characteristic(has, np.array([0, 1]), least=1).tolist() == [1, 3]
    assert characteristic(has, np.array([2, 3, 4, 5]), least=2).tolist() == []  # two of four against one in three
    assert characteristic(has, np.arange(6), least=1).tolist() == []


def test_tokens_are_told_by_what_their_items_share(toy_data: Any) -> None:
    known = glossary(toy_data(item=ITEMS, item_columns=("item_id:token", "title:token_seq", "shelf:token")))
    dark, odd = known.gloss(0, 0), known.gloss(1, 1)
    assert (dark.items, dark.words, dark.categories) == (6, ("dark",), ())
    assert (odd.items, odd.words, odd.categories) == (6, ("blue",), ("odd",))
    assert odd.text.startswith("odd, blue, e.g. the dark tale, blue; ")
    assert known.gloss(0, 0) is dark


def test_titles_of_type_token_are_read_word_by_word(toy_data: Any) -> None:
    sequences = glossary(toy_data(item=ITEMS, item_columns=("item_id:token", "title:token_seq", "shelf:token")))
    titles = [(name, f"{title} {name}", shelf) for name, title, shelf in ITEMS]  # no two alike, else they were values
    tokens = glossary(
        toy_data(item=titles, item_columns=("item_id:token", "title:token", "shelf:token"), name="tokens")
    )
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert tokens.gloss(*place).words == sequences.gloss(*place).words
    assert tokens.title(1) == f"{sequences.title(1)} {tokens.item_id(1)}"


def test_examples_are_the_most_popular_items(toy_data: Any) -> None:
    rows = [(f"u{u}", f"i{i}", t) for u in range(5) for t, i in enumerate((4, 3, 1, *range(5, 5 + u), 0, 2))]
    toy = toy_data(inter=[*rows, *(("v", f"i{i}", i) for i in range(12))], item=ITEMS)
    known = glossary(toy)
    counts = np.bincount(toy.sequences.items, minlength=13)
    group = [n for n in range(1, 13) if known.codes[n, 0] == 0]
    best = sorted(group, key=lambda n: -counts[n])[:3]
    assert known.gloss(0, 0).examples == tuple(known.title(n) for n in best)


def test_without_titles_ids_and_categories_speak(toy_data: Any) -> None:
    known = glossary(toy_data())
    even = known.gloss(1, 0)
    assert (even.words, even.categories, even.items) == ((), ("even",), 6)
    assert all(example.startswith("i") for example in even.examples) and len(even.examples) == 3
    assert known.gloss(0, 1).text.startswith("e.g. i")
    assert known.gloss(0, 7).items == 0
