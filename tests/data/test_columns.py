"""Columns of user, item and time by other names than the default: taken where only one suits, else left alone."""

from __future__ import annotations

from typing import Any

import pytest
from toys import cyclic_rows, item_rows

from recbole_reg4rec.data.columns import guess_columns
from recbole_reg4rec.errors import UserError

BUSINESS = ("review_id:token", "user_id:token", "business_id:token", "stars:float", "date:float")


def business_rows() -> list[tuple[Any, ...]]:
    return [(f"r{n}", user, item, 4, time) for n, (user, item, time) in enumerate(cyclic_rows())]


def test_local_businesses_run_as_they_are(toy_data: Any) -> None:
    plain = toy_data(cyclic_rows(), item_rows(), name="plain")
    columns = ("business_id:token", "item_name:token_seq", "categories:token_seq")
    toy = toy_data(business_rows(), item_rows(), inter_columns=BUSINESS, item_columns=columns)
    assert toy.config.guessed_columns == {"ITEM_ID_FIELD": "business_id", "TIME_FIELD": "date"}
    assert (toy.config["ITEM_ID_FIELD"], toy.config["TIME_FIELD"]) == ("business_id", "date")
    ours, theirs = toy.data, plain.data
    assert ours.dataset.statistics == theirs.dataset.statistics
    assert ours.test._dataset.inter_feat["business_id"].tolist() == theirs.test._dataset.inter_feat["item_id"].tolist()
    assert plain.config.guessed_columns == {}


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("user_id:token", "artist_id:token", "timestamp:float"), {"ITEM_ID_FIELD": "artist_id"}),
        (("userID:token", "venueid:token", "local_time:float"),
         {"USER_ID_FIELD": "userID", "ITEM_ID_FIELD": "venueid", "TIME_FIELD": "local_time"}),
        # Two that suit, or none: the user has to say.
        (("user_id:token", "artist_id:token", "tag_id:token", "timestamp:float"), {}),
        (("user_id:token", "item_id:token", "start_time:float", "end_time:float"), {}),
        (("user_id:token", "artist:token", "timestamp:float"), {}),
        # Of another type it cannot be the one.
        (("user_id:token", "item_id:token", "date:token"), {}),
    ],
)  # fmt: skip
def test_without_a_file_of_items_names_tell(toy_data: Any, columns: Any, found: dict[str, str]) -> None:
    rows = [("u", "i", "t", 1)[: len(columns)]]
    assert toy_data(rows, inter_columns=columns).config.guessed_columns == found


def test_what_the_user_names_is_left_alone(toy_data: Any) -> None:
    toy = toy_data(business_rows(), inter_columns=BUSINESS, ITEM_ID_FIELD="review_id", TIME_FIELD="timestamp")
    assert toy.config.guessed_columns == {}
    with pytest.raises(UserError, match="has no column 'timestamp'"):
        toy.dataset  # noqa: B018


def test_what_a_property_file_names_is_left_alone(toy_data: Any) -> None:
    toy = toy_data(business_rows(), inter_columns=BUSINESS)
    assert guess_columns(toy.config, ()) == {}, "guessed once, they are there"
    toy.config["TIME_FIELD"] = "dat"
    assert guess_columns(toy.config, ()) == {}
    toy.config["TIME_FIELD"] = "timestamp"
    assert guess_columns(toy.config, ()) == {"TIME_FIELD": "date"}


def test_files_that_are_missing_or_broken_are_for_others_to_tell(toy_data: Any) -> None:
    toy = toy_data()
    (toy.folder / "toy.inter").write_text("no header")
    assert guess_columns(toy.config, ()) == {}
    (toy.folder / "toy.inter").unlink()
    assert guess_columns(toy.config, ()) == {}
