"""Item features ``v_i`` for the tokenizer: what the item is (content) and how it is used (collaborative part).

Source: docs/method.md, 1; multimodal features are the paper's, these parts are our choice. The content comes from the
columns of the item file, the collaborative part from TRAINING interactions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from recbole.utils.enum_type import FeatureType
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_reg4rec.data.cooccurrence import cooccurrence
from recbole_reg4rec.data.dataset import OrderedDataset
from recbole_reg4rec.data.sequences import TrainingSequences
from recbole_reg4rec.errors import UserError

Array = np.ndarray


@dataclass
class ItemFeatures:
    """Features of every item, row 0 is the padding item.

    ``matrix``: float32 ``[items + 1, F]``. ``known``: bool ``[items + 1]``, False where an item has neither content
    nor training interactions (its row is zero). ``parts``: width of each part, by name. ``counts``: what was found.
    """

    matrix: Array
    known: Array
    parts: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemColumns:
    """Which columns of the item data feed which part."""

    text: tuple[str, ...]
    tokens: tuple[str, ...]
    vectors: tuple[str, ...]


def choose_columns(config: Any, dataset: OrderedDataset) -> ItemColumns:
    """The columns named by settings, or a guess by type where a setting is ``auto``.

    Guess: every ``token_seq`` column is text; a ``token`` column is categorical when on average at least two items
    share a value, else text when most of its values are of several words, as titles are in RecBole's Amazon files (so
    that serial numbers and addresses of pages stay out); every ``float_seq`` column is a vector.

    Raises:
        UserError: a named column does not exist or has another type, or vectors differ in width.
    """
    available = item_columns(dataset)
    guesses: dict[str, list[str]] = {"item_text_fields": [], "item_token_fields": [], "item_vector_fields": []}
    for name, kind in available.items():
        if kind == FeatureType.TOKEN_SEQ:
            guesses["item_text_fields"].append(name)
        elif kind == FeatureType.TOKEN and 2 * (dataset.num(name) - 1) <= _filled(dataset, name):
            guesses["item_token_fields"].append(name)
        elif kind == FeatureType.TOKEN and _of_several_words(dataset, name):
            guesses["item_text_fields"].append(name)
        elif kind == FeatureType.FLOAT_SEQ:
            guesses["item_vector_fields"].append(name)
    allowed = {
        "item_text_fields": {FeatureType.TOKEN_SEQ, FeatureType.TOKEN},
        "item_token_fields": {FeatureType.TOKEN, FeatureType.TOKEN_SEQ},
        "item_vector_fields": {FeatureType.FLOAT_SEQ},
    }
    chosen: dict[str, tuple[str, ...]] = {}
    for setting, guess in guesses.items():
        value = config[setting]
        names = guess if value in (None, "auto") else [value] if isinstance(value, str) else list(value)
        for name in names:
            if name not in available or available[name] not in allowed[setting]:
                kinds = " or ".join(sorted(kind.value for kind in allowed[setting]))
                fitting = sorted(column for column, kind in available.items() if kind in allowed[setting])
                raise UserError(
                    f"setting {setting} names column '{name}', but the item data of {dataset.dataset_name} has no such "
                    f"column of type {kinds}; it has {fitting or 'none'} (columns are loaded by load_col: item)"
                )
        chosen[setting] = tuple(names)
    for name in chosen["item_vector_fields"]:
        if name in dataset.vector_problems:
            raise dataset.vector_problems[name]
    return ItemColumns(chosen["item_text_fields"], chosen["item_token_fields"], chosen["item_vector_fields"])


def _filled(dataset: OrderedDataset, name: str) -> int:
    """Items that have a value; not all items, since one that occurs in held-out interactions alone must not count."""
    return int((dataset.item_feat[name] > 0).sum())


def _of_several_words(dataset: OrderedDataset, name: str) -> bool:
    """Whether at least half of the values of a ``token`` column have more than one word."""
    values = dataset.field2id_token[name][1:]
    return 2 * sum(len(str(value).split()) > 1 for value in values) >= len(values)


def is_filled(dataset: OrderedDataset, name: str) -> bool:
    """Whether any item has a value in a token column."""
    return _filled(dataset, name) > 0


def item_columns(dataset: OrderedDataset) -> dict[str, FeatureType]:
    """Columns of the item data other than the id, with their types; empty where there is no item file."""
    if dataset.item_feat is None:
        return {}
    return {name: dataset.field2type[name] for name in dataset.item_feat.columns if name != dataset.iid_field}


def column_words(dataset: OrderedDataset, name: str) -> list[list[str]]:
    """The original words of a token column for every item, item 0 first: ``[items + 1]`` lists, empty where missing."""
    ids = dataset.item_feat[name].numpy()
    ids = ids.reshape(len(ids), -1)
    names = dataset.field2id_token[name]
    return [[str(names[i]) for i in row if i > 0] for row in ids]


def text_words(dataset: OrderedDataset, name: str) -> list[list[str]]:
    """`column_words` of a column read as text, which may also be a ``token`` column: its values are split at blanks."""
    words = column_words(dataset, name)
    if dataset.field2type[name] == FeatureType.TOKEN:
        return [[word for value in row for word in value.split()] for row in words]
    return words


def build_item_features(config: Any, dataset: OrderedDataset, sequences: TrainingSequences) -> ItemFeatures:
    """Builds and joins the parts; each known row of a part has length 1 times the part's weight.

    Args:
        config: reads ``text_dim``, ``collaborative_dim``, ``collaborative_window``, ``collaborative_weight``,
            ``item_*_fields``, ``seed``.
        dataset: any split of the data (for the item columns; its interactions are not read).
        sequences: training part of every user's history.

    Raises:
        UserError: there is nothing to describe items by.
    """
    items = dataset.item_num
    columns = choose_columns(config, dataset)
    parts: list[tuple[str, Array]] = []
    text = _text_part(dataset, columns, int(config["text_dim"]), int(config["seed"]))
    if text is not None:
        parts.append(("text", text))
    parts.extend((f"vectors:{name}", block) for name, block in item_vectors(config, dataset, columns).items())
    content = np.zeros(items, dtype=bool)
    for _, block in parts:
        content |= np.abs(block).sum(axis=1) > 0
    collaborative = _collaborative_part(
        sequences,
        items,
        dim=int(config["collaborative_dim"]),
        window=int(config["collaborative_window"]),
        seed=int(config["seed"]),
    )
    weight = float(config["collaborative_weight"])
    if collaborative is not None and weight > 0:
        parts.append(("collaborative", weight * collaborative))
    if not parts:
        raise UserError(
            f"data set {dataset.dataset_name} gives the tokenizer nothing to describe items by: no item column that is "
            "read holds anything, and collaborative_dim or collaborative_weight is 0, or too few items follow one "
            "another in training; add item columns or interactions"
        )
    matrix = np.concatenate([block for _, block in parts], axis=1).astype(np.float32)
    known = np.abs(matrix).sum(axis=1) > 0
    known[0] = False
    matrix[0] = 0.0
    trained = np.bincount(sequences.items, minlength=items) > 0
    return ItemFeatures(
        matrix=matrix,
        known=known,
        parts={name: block.shape[1] for name, block in parts},
        counts={
            "items_without_content": int((~content[1:]).sum()),
            "items_without_training_interactions": int((~trained[1:]).sum()),
            "items_without_features": int((~known[1:]).sum()),
        },
    )


def _preloaded(config: Any, dataset: OrderedDataset, source: str) -> Array:
    """Vectors of RecBole's setting ``preload_weight`` for ids in column ``source``; float64 ``[items + 1, F]``."""
    column = config["preload_weight"][source]
    if source not in dataset.alias["item_id"]:
        raise UserError(
            f"setting preload_weight takes vectors for the ids in column '{source}', but these are not item ids; "
            f"add '{source}' to alias_of_item_id"
        )
    if column in dataset.vector_problems:
        raise dataset.vector_problems[column]
    try:
        vectors = np.asarray(dataset.get_preload_weight(source), dtype=np.float64)
    except ValueError as error:
        raise UserError(f"setting preload_weight names column '{column}', which must be of type float_seq") from error
    return vectors.reshape(len(vectors), -1)


def item_words(dataset: OrderedDataset, columns: ItemColumns) -> tuple[sp.csr_matrix, list[int]] | None:
    """TF-IDF over words and categorical values, rows of length 1, and the items they belong to; None without any.

    Returns:
        float64 ``[documents, words]`` and the item of each document, ascending.
    """
    documents: list[list[str]] = [[] for _ in range(dataset.item_num)]
    for name in columns.text:
        for document, words in zip(documents, text_words(dataset, name), strict=True):
            document.extend(word.lower() for word in words)
    for name in columns.tokens:
        for document, words in zip(documents, column_words(dataset, name), strict=True):
            document.extend(f"{name}={word}" for word in words)
    filled = [i for i, document in enumerate(documents) if document]
    if not filled:
        return None
    vectorizer = TfidfVectorizer(analyzer=_identity, sublinear_tf=True, dtype=np.float64)
    return sp.csr_matrix(vectorizer.fit_transform([documents[i] for i in filled])), filled


def item_vectors(config: Any, dataset: OrderedDataset, columns: ItemColumns) -> dict[str, Array]:
    """The user's own vectors by source, centred, rows of length 1 or zero where missing; ``[items + 1, F]`` each."""
    raw = {name: dataset.item_feat[name].numpy().astype(np.float64) for name in columns.vectors}
    raw.update({source: _preloaded(config, dataset, source) for source in config["preload_weight"] or {}})
    return {name: _unit_rows(_centred(vectors)) for name, vectors in raw.items()}


def _text_part(dataset: OrderedDataset, columns: ItemColumns, dim: int, seed: int) -> Array | None:
    """`item_words` reduced by truncated SVD; float64 ``[items + 1, <= dim]``."""
    found = item_words(dataset, columns) if dim > 0 else None
    if found is None:
        return None
    words, filled = found
    block = np.zeros((dataset.item_num, min(dim, *words.shape)))
    block[filled] = _reduce(words, block.shape[1], seed)
    return _unit_rows(block)


def _identity(document: Sequence[str]) -> Sequence[str]:
    """Documents are split into words already."""
    return document


def _collaborative_part(sequences: TrainingSequences, items: int, dim: int, window: int, seed: int) -> Array | None:
    """Positive pointwise mutual information of co-occurrence, reduced by SVD; float64 ``[items + 1, <= dim]``."""
    if dim == 0:
        return None
    counts = cooccurrence(sequences, items, window).tocoo()
    if counts.nnz == 0:
        return None
    # Added up entry by entry: how numpy adds a whole array depends on its length, and so on items that never occur.
    margin = np.bincount(counts.row, weights=counts.data, minlength=items)
    information = np.log(counts.data * counts.data.sum() / (margin[counts.row] * margin[counts.col]))
    positive = sp.csr_matrix((np.maximum(information, 0.0), (counts.row, counts.col)), shape=counts.shape)
    positive.eliminate_zeros()
    used = np.flatnonzero(np.diff(positive.indptr))
    if len(used) < 2:
        return None
    # Only items that occur enter the decomposition, so that an unseen item changes nothing for the others.
    small = positive[used][:, used]
    block = np.zeros((items, min(dim, len(used) - 1)))
    block[used] = _reduce(small, block.shape[1], seed, power=0.5)
    return _unit_rows(block)


def _reduce(matrix: sp.spmatrix, dim: int, seed: int, power: float = 1.0) -> Array:
    """Left singular vectors times singular values to ``power``, float64 ``[rows, dim]``."""
    if matrix.shape[1] == 1:  # one word in all: nothing to reduce, which sklearn refuses to do
        return np.asarray(matrix.todense(), dtype=np.float64)
    svd = TruncatedSVD(n_components=dim, random_state=seed)
    scores = svd.fit_transform(matrix)
    if power == 1.0:
        return scores
    return scores * np.maximum(svd.singular_values_, 1e-12) ** (power - 1.0)


def _centred(vectors: Array) -> Array:
    """Subtracts the mean of the rows that are not all zero; zero rows (missing vectors) stay zero."""
    filled = np.abs(vectors).sum(axis=1) > 0
    out = vectors.copy()
    if filled.any():
        out[filled] -= vectors[filled].mean(axis=0)
    return out


def _unit_rows(matrix: Array) -> Array:
    """Rows of length 1; a row that is nothing but rounding beside the longest becomes zero."""
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, length, out=np.zeros_like(matrix), where=length > 1e-9 * length.max(initial=0.0))
