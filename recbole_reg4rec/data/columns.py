"""Columns of user, item and time where they have other names than the settings expect (our choice).

RecBole's files of local businesses, artists or places name the item ``business_id``, ``artist_id``, ``venue_id``, and
the time ``date`` or ``timestamp``. What the user or a data set's property file names is always taken, and what a
setting names by default if it is there; else a column that can only be the one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from recbole.utils.enum_type import FeatureType

from recbole_reg4rec.data.reading import read_header
from recbole_reg4rec.data.rows import Column
from recbole_reg4rec.errors import UserError

# What the settings are where nobody has named a column; another name comes from a data set's property file.
_UNNAMED = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp"}
_TIME_WORDS = ("time", "date", "stamp")


def guess_columns(config: Any, given: Collection[str]) -> dict[str, str]:
    """Columns for ``USER_ID_FIELD``, ``ITEM_ID_FIELD`` and ``TIME_FIELD``, where the ``.inter`` file lacks those set.

    Args:
        config: RecBole configuration.
        given: names of the settings that the user gave; these are left alone.

    Returns:
        from setting to column; nothing for a setting that more than one column or none would suit, and nothing at all
        where the file is not there or cannot be read, which is for `OrderedDataset` to tell.
    """
    base = Path(config["data_path"]) / str(config["dataset"])
    columns = _header(base.with_name(f"{base.name}.inter"), config)
    names = {column.name for column in columns}
    guessed: dict[str, str] = {}

    def settle(setting: str, kind: FeatureType, suits: Callable[[str], bool]) -> None:
        if setting in given or config[setting] != _UNNAMED[setting] or config[setting] in names:
            return
        found = [column.name for column in columns if column.type is kind and suits(column.name)]
        if len(found) == 1:
            guessed[setting] = found[0]

    settle("USER_ID_FIELD", FeatureType.TOKEN, lambda name: "user" in name.lower())
    user = guessed.get("USER_ID_FIELD", config["USER_ID_FIELD"])
    # An .item file tells best: its first column is the id.
    first = [column.name for column in _header(base.with_name(f"{base.name}.item"), config)[:1]]
    ids = first if set(first) & names - {user} else [name for name in names if name.lower().endswith("id")]
    settle("ITEM_ID_FIELD", FeatureType.TOKEN, lambda name: name in ids and name != user)
    settle("TIME_FIELD", FeatureType.FLOAT, lambda name: any(word in name.lower() for word in _TIME_WORDS))
    return guessed


def _header(path: Path, config: Any) -> Sequence[Column]:
    if not path.is_file():
        return []
    try:
        return read_header(path, config["field_separator"], str(config["encoding"] or "utf-8-sig"))
    except UserError:
        return []
