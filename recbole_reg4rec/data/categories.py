"""Categories of items: what every reasoning step also predicts (docs/method.md, 2 and 3).

From the column named by ``item_category_field``; an item may have several. Data without categories gets
pseudo-categories by clustering the item features (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from recbole.utils.enum_type import FeatureType
from sklearn.cluster import KMeans

from recbole_reg4rec.data.dataset import OrderedDataset
from recbole_reg4rec.data.features import ItemFeatures, column_words, is_filled, item_columns
from recbole_reg4rec.errors import UserError


@dataclass(frozen=True)
class ItemCategories:
    """``members``: int64 ``[items + 1, most categories of an item]``, 0 pads, categories count from 1.

    ``names``: name of each category, ``names[0]`` is the padding. ``source``: the column, or ``clusters``.
    """

    members: np.ndarray
    names: tuple[str, ...]
    source: str

    @property
    def number(self) -> int:
        """How many categories there are, padding not counted."""
        return len(self.names) - 1


def build_item_categories(config: Any, dataset: OrderedDataset, features: ItemFeatures) -> ItemCategories:
    """Reads the category column, or clusters the features where none is named or found.

    Raises:
        UserError: the named column does not exist, is not a token column, or is empty for every item.
    """
    column = config["item_category_field"]
    available = item_columns(dataset)
    if column == "auto":
        column = _guess(dataset, available)
    if column is None:
        return _clusters(features, int(config["pseudo_categories"]), int(config["seed"]))
    if column not in available or available[column] not in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ):
        fitting = [name for name, kind in available.items() if kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)]
        raise UserError(
            f"setting item_category_field names column '{column}', but the item data of {dataset.dataset_name} has the "
            f"token columns {fitting or 'none'}; name one of them, or set it to null to cluster item features"
        )
    words = [[_bare(word) for word in row] for row in column_words(dataset, column)]
    names = sorted({word for row in words for word in row})
    if not names:
        raise UserError(
            f"column '{column}', which item_category_field names, is empty for every item of {dataset.dataset_name}; "
            "name another column, or set it to null to cluster item features"
        )
    number = {name: i + 1 for i, name in enumerate(names)}
    rows = [sorted({number[word] for word in row}) for row in words]
    members = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for item, row in enumerate(rows):
        members[item, : len(row)] = row
    return ItemCategories(members, ("[PAD]", *names), column)


def _bare(word: str) -> str:
    """Without the quotes and commas that RecBole's Amazon files have around the words of ``categories``."""
    return word.strip("',\"") or word


def _guess(dataset: OrderedDataset, available: dict[str, FeatureType]) -> str | None:
    """The column whose name says category, genre or class and which holds something; titles and brands never."""
    for hint in ("categor", "genre", "class"):
        for name, kind in available.items():
            token = kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)
            if hint in name.lower() and token and is_filled(dataset, name):
                return name
    return None


def _clusters(features: ItemFeatures, number: int, seed: int) -> ItemCategories:
    known = np.flatnonzero(features.known)
    number = max(1, min(number, len(known)))
    members = np.zeros((len(features.matrix), 1), dtype=np.int64)
    if len(known):
        rows = features.matrix[known]
        members[known, 0] = KMeans(n_clusters=number, n_init=1, random_state=seed).fit_predict(rows) + 1
    return ItemCategories(members, ("[PAD]", *(f"cluster {i}" for i in range(1, number + 1))), "clusters")
