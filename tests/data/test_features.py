"""Item features: known answers of each part, own vectors by both ways, wrong ones refused."""

from __future__ import annotations

import numpy as np
import pytest
from toys import cyclic_rows, item_rows

from recbole_reg4rec.data.features import build_item_features, choose_columns
from recbole_reg4rec.errors import UserError

VECTOR_COLUMNS = ("item_id:token", "v:float_seq")


def vector_rows(items: int = 12, width: int = 3, seed: int = 0) -> list[tuple[str, str]]:
    values = np.random.default_rng(seed).normal(size=(items, width)).round(3)
    return [(f"i{i}", " ".join(map(str, row))) for i, row in enumerate(values)]


def part_of(features, name: str) -> np.ndarray:
    begin = 0
    for part, width in features.parts.items():
        if part == name:
            return features.matrix[:, begin : begin + width]
        begin += width
    raise AssertionError(f"{name} is not in {features.parts}")


def test_shape_parts_and_unit_rows(toy_data):
    toy = toy_data(cyclic_rows(users=12), item_rows(), collaborative_weight=0.5)
    features = toy.features
    assert features.matrix.dtype == np.float32 and features.known.dtype == bool
    assert features.parts == {"text": 4, "collaborative": 4}
    assert features.matrix.shape == (13, 8) and features.known.tolist() == [False, *[True] * 12]
    assert not features.matrix[0].any()
    np.testing.assert_allclose(np.linalg.norm(part_of(features, "text")[1:], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(part_of(features, "collaborative")[1:], axis=1), 0.5, rtol=1e-5)
    assert features.counts == {
        "items_without_content": 0,
        "items_without_training_interactions": 0,
        "items_without_features": 0,
    }


def test_the_same_words_give_the_same_row_others_another(toy_data):
    rows = [("i0", "Red Shoe", "a"), ("i1", "red shoe", "a"), ("i2", "blue hat", "b"), ("i3", "blue shoe", "b")]
    toy = toy_data(cyclic_rows(items=4), rows, collaborative_dim=0, text_dim=8)
    matrix = toy.features.matrix
    cosine = matrix[1:] @ matrix[1:].T
    assert cosine[0, 1] == pytest.approx(1, abs=1e-5)
    assert cosine[0, 2] == pytest.approx(0, abs=1e-5)
    assert 0.05 < cosine[0, 3] < cosine[2, 3] < 0.95


def test_items_without_line_or_interaction_are_counted(toy_data):
    # i0 has no line, "never" no interaction, "bare" neither words nor interactions, "late" is held out alone.
    items = [*item_rows()[1:], ("never", "name1 word1", "class1"), ("bare", None, None)]
    rows = [*cyclic_rows(users=12), ("u0", "late", 99)]
    features = toy_data(rows, items).features
    assert features.counts == {
        "items_without_content": 3,
        "items_without_training_interactions": 3,
        "items_without_features": 2,
    }
    assert features.known.sum() == 13 and not features.matrix[~features.known].any()


def test_columns_are_guessed_by_type(toy_data):
    columns = ("item_id:token", "title:token_seq", "brand:token", "code:token", "price:float", "v:float_seq")
    rows = [(f"i{i}", "a b", f"brand{i % 4}", f"code{i}", i, "1 2") for i in range(12)]
    toy = toy_data(item=rows, item_columns=columns)
    found = choose_columns(toy.config, toy.splits[0])
    assert (found.text, found.tokens, found.vectors) == (("title",), ("brand",), ("v",))
    # A column is categorical when two of the items that HAVE a value share it on average.
    few = [(*row[:2], row[2] if i < 6 else None, *row[3:]) for i, row in enumerate(rows)]
    other = toy_data(item=few, item_columns=columns, name="few")
    assert choose_columns(other.config, other.splits[0]).tokens == ()
    named = toy_data(
        item=rows,
        item_columns=columns,
        name="named",
        item_text_fields="brand",
        item_token_fields=["code", "title"],
        item_vector_fields=[],
    )
    found = choose_columns(named.config, named.splits[0])
    assert (found.text, found.tokens, found.vectors) == (("brand",), ("code", "title"), ())


def test_titles_of_type_token_are_text_too(toy_data):
    """As in RecBole's Amazon files; addresses and serial numbers are not, nor what items share."""
    columns = ("item_id:token", "title:token", "url:token", "city:token")
    rows = [(f"i{i}", f"Blue  shoe no{i % 5}-{i}", f"a.org/{i}", f"New York {i % 3}") for i in range(12)]
    toy = toy_data(item=rows, item_columns=columns)
    found = choose_columns(toy.config, toy.splits[0])
    assert (found.text, found.tokens) == (("title",), ("city",))
    sequences = ("item_id:token", "title:token_seq", *columns[2:])
    same = [(name, " ".join(title.split()), *rest) for name, title, *rest in rows]
    other = toy_data(item=same, item_columns=sequences, name="sequences")
    np.testing.assert_array_equal(toy.features.matrix, other.features.matrix)
    # Half of the values are enough; fewer are not.
    halves = [(name, title if i < 6 else f"one{i}", *rest) for i, (name, title, *rest) in enumerate(rows)]
    half = toy_data(item=halves, item_columns=columns, name="half")
    assert choose_columns(half.config, half.splits[0]).text == ("title",)
    less = [(name, title if i < 5 else f"one{i}", *rest) for i, (name, title, *rest) in enumerate(rows)]
    few = toy_data(item=less, item_columns=columns, name="less")
    assert choose_columns(few.config, few.splits[0]).text == ()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"item_text_fields": ["tittle"]}, r"item_text_fields names column 'tittle'.*\['class', 'title'\]"),
        ({"item_token_fields": "item_id"}, "item_token_fields names column 'item_id'"),
        ({"item_vector_fields": ["title"]}, "item_vector_fields names column 'title'.*float_seq; it has none"),
        ({"text_dim": 0, "collaborative_dim": 0}, "nothing to describe items by"),
        ({"text_dim": 0, "collaborative_weight": 0.0}, "nothing to describe items by"),
    ],
)
def test_mistakes_in_settings(toy_data, settings, expected):
    with pytest.raises(UserError, match=expected):
        _ = toy_data(item=item_rows(), **settings).features


def expected_vectors(rows) -> np.ndarray:
    values = np.array([[float(x) for x in (row[1] or "").split()] or [np.nan] * 3 for row in rows])
    values = values - np.nanmean(values, axis=0)
    return np.nan_to_num(values / np.linalg.norm(values, axis=1, keepdims=True))


@pytest.mark.parametrize("way", ["item column", "preload"])
@pytest.mark.parametrize("missing", [False, True])
def test_own_vectors(toy_data, way, missing):
    rows = vector_rows()
    if missing:  # one with an empty cell, one without a line
        rows = [(name, None if name == "i3" else cell) for name, cell in rows[:-1]]
    if way == "item column":
        toy, part = toy_data(item=rows, item_columns=VECTOR_COLUMNS, collaborative_dim=0), "vectors:v"
    else:
        toy = toy_data(
            files={"emb": (("vid:token", "v:float_seq"), rows)},
            additional_feat_suffix=["emb"],
            preload_weight={"vid": "v"},
            alias_of_item_id=["vid"],
            collaborative_dim=0,
        )
        part = "vectors:vid"
    features = toy.features
    assert features.parts == {part: 3} and toy.data.dataset.item_num == 13
    numbers = [toy.data.dataset.field2token_id["item_id"][name] for name, _ in rows]
    np.testing.assert_allclose(features.matrix[numbers], expected_vectors(rows), atol=1e-6)
    assert np.linalg.norm(features.matrix, axis=1).round(5).tolist().count(0) == (3 if missing else 1)
    assert features.counts["items_without_content"] == (2 if missing else 0)
    assert not features.matrix[~features.known].any()


@pytest.mark.parametrize("way", ["item column", "preload"])
def test_ragged_vectors_are_refused_where_they_are_used(toy_data, way):
    rows = vector_rows()
    rows[4] = ("i4", "1 2")
    if way == "item column":
        data = {"item": rows, "item_columns": VECTOR_COLUMNS}
        assert toy_data(**data, item_vector_fields=[], name="unused").features.parts == {"collaborative": 4}
    else:
        data = {
            "files": {"emb": (("vid:token", "v:float_seq"), rows)},
            "additional_feat_suffix": ["emb"],
            "preload_weight": {"vid": "v"},
            "alias_of_item_id": ["vid"],
        }
    with pytest.raises(UserError, match="'v' of .*toy.(item|emb) must hold vectors of one width, but data row 5 has 2"):
        _ = toy_data(**data).features


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "x"])
def test_vectors_that_are_no_finite_numbers_are_refused(toy_data, value):
    rows = vector_rows()
    rows[4] = ("i4", f"1 {value} 3")
    with pytest.raises(UserError, match=f"toy.item: column 'v' .*'{value}'.*not a finite number"):
        _ = toy_data(item=rows, item_columns=VECTOR_COLUMNS).features


def test_vectors_of_ids_that_are_no_items_are_refused(toy_data):
    # As many ids as there are items, so that a comparison of numbers would let them pass.
    settings = {"additional_feat_suffix": ["emb"], "preload_weight": {"vid": "v"}}
    with pytest.raises(UserError, match="'vid'.*alias_of_item_id"):
        _ = toy_data(files={"emb": (("vid:token", "v:float_seq"), vector_rows())}, **settings).features
    with pytest.raises(UserError, match="preload_weight.*nothing"):
        _ = toy_data(preload_weight={"nothing": "v"}, name="none").splits
    words = [("i1", "x"), ("i2", "y")]
    with pytest.raises(UserError, match="'w', which must be of type float_seq"):
        _ = toy_data(
            files={"emb": (("vid:token", "w:token"), words)},
            name="words",
            **{**settings, "preload_weight": {"vid": "w"}, "alias_of_item_id": ["vid"]},
        ).features


def test_features_do_not_depend_on_other_random_numbers_or_lines(toy_data):
    one = toy_data(item=item_rows()).features
    np.random.seed(5)
    other = toy_data(cyclic_rows()[::-1], item_rows()[::-1], name="other").features
    assert one.matrix.tobytes() == other.matrix.tobytes()


def test_a_row_of_rounding_noise_is_no_feature(toy_data):
    # Ten items of one word and one of another: one dimension keeps the ten, and of the other nothing.
    rows = [(f"i{i}", "same" if i else "other", None) for i in range(12)]
    features = toy_data(item=rows, text_dim=1, collaborative_dim=0).features
    assert features.matrix[1:].any(axis=1).tolist() == [False] + [True] * 11
    assert features.counts["items_without_content"] == 1


def test_whatever_way_it_is_called(toy_data):
    toy = toy_data(item=item_rows())
    again = build_item_features(toy.config, toy.data.test._dataset, toy.sequences)
    assert again.matrix.tobytes() == toy.features.matrix.tobytes()


def test_one_word_in_all(toy_data):
    rows = [(f"i{i}", "word" if i % 2 else None, None) for i in range(12)]
    features = toy_data(cyclic_rows(users=12), rows).features
    assert features.parts["text"] == 1
    assert sorted(part_of(features, "text")[1:, 0].tolist()) == [0.0] * 6 + [1.0] * 6
