"""What a token means, in words: what the items that share it have and the rest of the catalogue has not."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_reg4rec.data.categories import ItemCategories
from recbole_reg4rec.data.dataset import OrderedDataset
from recbole_reg4rec.data.features import choose_columns, column_words, text_words
from recbole_reg4rec.data.sequences import TrainingSequences

_TITLE_HINTS = ("title", "name")
_MOST = 3


@dataclass(frozen=True)
class TokenGloss:
    """One token of one codebook, ``codebook`` and ``token`` counted from 0.

    ``items``: how many items carry it. ``words``, ``categories``: most characteristic of them first, see
    `characteristic`; empty where they have nothing in common. ``examples``: the titles (ids, where there are none) of
    those taken most often in training.
    """

    codebook: int
    token: int
    items: int
    words: tuple[str, ...]
    categories: tuple[str, ...]
    examples: tuple[str, ...]

    @property
    def text(self) -> str:
        """The gloss in a line."""
        shared = ", ".join(dict.fromkeys((*self.categories, *self.words)))
        examples = "; ".join(_short(example, 30) for example in self.examples)
        return f"{shared}, e.g. {examples}" if shared else f"e.g. {examples}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def characteristic(has: sp.csr_matrix, group: np.ndarray, least: int) -> np.ndarray:
    """Columns that set a group of rows apart, most characteristic first.

    The score of a column is ``a log(a / b)``, ``a`` and ``b`` its shares of the group's and of the other rows, the
    latter with one more row that has it, so that a rare column does not win by being unique (our choice, like TF-IDF).

    Args:
        has: 0 or 1, ``[N, C]``.
        group: int ``[G]``, row numbers.
        least: rows of the group that must have a column.

    Returns:
        int64 ``[<= C]``; only columns that the group has at least twice as often as the others.
    """
    inside = np.asarray(has[group].sum(axis=0)).ravel()
    outside = np.asarray(has.sum(axis=0)).ravel() - inside
    share = inside / max(len(group), 1)
    rest = (outside + 1.0) / (has.shape[0] - len(group) + 1.0)
    score = share * np.log(np.maximum(share, 1e-12) / rest)
    order = np.argsort(-score, kind="stable")
    return order[(share[order] >= 2 * rest[order]) & (inside[order] >= least)]


class Glossary:
    """Glosses of all tokens of one data set's codes; each is made when first asked for.

    Args:
        config: reads ``item_text_fields`` and ``item_token_fields``.
        dataset: the training split.
        sequences: training part of every user's history.
        codes: int64 ``[items + 1, M]``.
        categories: of the items.
    """

    def __init__(
        self,
        config: Any,
        dataset: OrderedDataset,
        sequences: TrainingSequences,
        codes: np.ndarray,
        categories: ItemCategories,
    ) -> None:
        self.codes, self.categories = codes, categories
        columns = choose_columns(config, dataset)
        self._ids = [str(name) for name in dataset.field2id_token[dataset.iid_field]]
        self._words = [text_words(dataset, name) for name in columns.text if name != categories.source]
        self._words += [column_words(dataset, name) for name in columns.tokens if name != categories.source]
        titles = [name for name in columns.text if any(hint in name.lower() for hint in _TITLE_HINTS)]
        self._titles = text_words(dataset, titles[0]) if titles else None
        self._popularity = np.bincount(sequences.items, minlength=len(codes))
        self._known: dict[tuple[int, int], TokenGloss] = {}

    def item_id(self, item: int) -> str:
        """The id that the data give an item."""
        return self._ids[item]

    def title(self, item: int) -> str:
        """The title of an item; empty where it has none."""
        return " ".join(self._titles[item]) if self._titles is not None else ""

    def category(self, number: int) -> str:
        """The name of a category."""
        return self.categories.names[number]

    def gloss(self, codebook: int, token: int) -> TokenGloss:
        """What one token means."""
        if (codebook, token) not in self._known:
            self._known[codebook, token] = self._make(codebook, token)
        return self._known[codebook, token]

    def _make(self, codebook: int, token: int) -> TokenGloss:
        group = np.flatnonzero(self.codes[1:, codebook] == token)
        least = min(2, len(group))
        words, has_words = self._vocabulary
        popular = group[np.argsort(-self._popularity[group + 1], kind="stable")][:_MOST] + 1
        return TokenGloss(
            codebook=codebook,
            token=token,
            items=len(group),
            words=tuple(words[w] for w in characteristic(has_words, group, least)[:_MOST]),
            categories=tuple(
                self.category(c + 1) for c in characteristic(self._has_category, group, least)[: _MOST - 1]
            ),
            examples=tuple(self.title(item) or self.item_id(item) for item in popular.tolist()),
        )

    @cached_property
    def _vocabulary(self) -> tuple[list[str], sp.csr_matrix]:
        """Words of the items without punctuation around them, and which item has which, ``[items, words]``."""
        number: dict[str, int] = {}
        rows, columns = [], []
        for item in range(1, len(self.codes)):
            found = {_plain(word) for column in self._words for word in column[item]}
            for word in sorted(found - {""}):
                rows.append(item - 1)
                columns.append(number.setdefault(word, len(number)))
        return list(number), _incidence(rows, columns, len(self.codes) - 1, len(number))

    @cached_property
    def _has_category(self) -> sp.csr_matrix:
        """Which item has which category, ``[items, categories]``."""
        rows, places = np.nonzero(self.categories.members[1:])
        columns = self.categories.members[1:][rows, places] - 1
        return _incidence(rows, columns, len(self.codes) - 1, self.categories.number)


def _plain(word: str) -> str:
    word = word.strip(string.punctuation + string.whitespace).lower()
    return word if len(word) > 1 else ""


def _incidence(rows: Any, columns: Any, height: int, width: int) -> sp.csr_matrix:
    places = (np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64))
    return sp.csr_matrix((np.ones(len(rows), dtype=np.int64), places), (height, width))
