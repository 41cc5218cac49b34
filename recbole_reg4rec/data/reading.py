"""Reader of RecBole's atomic files: a ``name:type`` header, one separator, no quoting (our choice throughout).

The file is checked and split on its bytes, then parsed by the C engine of pandas. Quotes are ordinary characters, the
ids ``NA`` and ``null`` are ids, and only the empty field is a missing value. Line numbers in messages are 1-based and
count the header. Empty lines are passed over.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.utils.enum_type import FeatureType

from recbole_reg4rec.data.rows import (
    PANDAS_OPTIONS,
    Column,
    Rows,
    check_separator,
    read_rows,
    undecodable,
    unreadable,
)
from recbole_reg4rec.errors import UserError

_TYPES = tuple(kind.value for kind in FeatureType)
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_CHUNK_ROWS = 20_000
_NEEDED_TYPE = {
    "USER_ID_FIELD": FeatureType.TOKEN,
    "ITEM_ID_FIELD": FeatureType.TOKEN,
    "TIME_FIELD": FeatureType.FLOAT,
    "RATING_FIELD": FeatureType.FLOAT,
}


@dataclass(frozen=True)
class AtomicTable:
    """The columns read from one atomic file, in the file's order of rows and columns.

    Attributes:
        frame: ``[rows, columns]``, default index. ``token``: object column of str, missing = NaN. ``float``: float64,
            missing = NaN, everything else finite. ``token_seq``: object column of 1-d numpy str arrays.
            ``float_seq``: object column of 1-d finite float64 arrays. A missing sequence is an array of length 0.
        types: type of each column of ``frame``.
        sequence_lengths: for each sequence column the length of its longest row (0 when there are no rows).
    """

    frame: pd.DataFrame
    types: dict[str, FeatureType]
    sequence_lengths: dict[str, int]


def read_header(path: Path, separator: str, encoding: str) -> list[Column]:
    """The columns that the first line of an atomic file declares, in the file's order.

    Raises:
        UserError: the file is missing, unreadable, empty or not text of that encoding, or a column has no type, an
            unknown type or a name that stands there twice.
    """
    path = Path(path)
    check_separator(separator)
    try:
        with open(path, encoding=encoding) as file:
            head = file.readline()
    except UnicodeError as error:
        raise undecodable(path, encoding) from error
    except LookupError as error:
        raise UserError(
            f"The setting encoding is {encoding!r}, which Python does not know; use for example 'utf-8'."
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    head = head.removeprefix("\ufeff").rstrip("\r\n")
    if not head.strip():
        raise UserError(
            f"{path} is empty or starts with an empty line; its first line must name the columns as name:type, "
            "for example user_id:token."
        )
    if "\0" in head:
        raise undecodable(path, encoding)

    columns: list[Column] = []
    for index, cell in enumerate(head.split(separator)):
        name, colon, kind = (part.strip() for part in cell.partition(":"))
        if not name or not colon or not kind or ":" in kind:
            raise UserError(
                f"Column {index + 1} in the first line of {path} is {cell.strip()!r}, but must be name:type, for "
                f"example user_id:token; if the columns are not separated by {separator!r}, set field_separator."
            )
        if kind not in _TYPES:
            raise UserError(
                f"Column {name!r} of {path} has the unknown type {kind!r}; write one of {', '.join(_TYPES)}."
            )
        if any(name == column.name for column in columns):
            raise UserError(f"The first line of {path} names the column {name!r} twice; rename or remove one of them.")
        columns.append(Column(name, FeatureType(kind), index))
    return columns


def read_atomic(
    path: Path,
    *,
    separator: str,
    seq_separator: str,
    encoding: str,
    columns: set[str] | None = None,
    skip: set[str] | None = None,
) -> AtomicTable:
    """Read an atomic file.

    Args:
        path: the file.
        separator: one ASCII character between columns (setting ``field_separator``).
        seq_separator: text between the pieces of a sequence (setting ``seq_separator``); empty pieces are dropped.
        encoding: of the file (setting ``encoding``).
        columns: names to read; None reads all. Names that the file lacks are passed over (see :func:`check_columns`).
        skip: names not to read.

    Raises:
        UserError: as :func:`read_header`; a row with too few or too many fields; a value of a ``float`` or
            ``float_seq`` column that is no finite number. The message names file, line, column and value.
    """
    path = Path(path)
    if not seq_separator:
        raise UserError("The setting seq_separator is empty; it must be the text between the pieces of a sequence.")
    header = read_header(path, separator, encoding)
    chosen = [
        column for column in header if (columns is None or column.name in columns) and column.name not in (skip or ())
    ]
    types = {column.name: column.type for column in chosen}
    rows = read_rows(path, separator, encoding, header)
    if not chosen:
        return AtomicTable(pd.DataFrame(index=range(rows.count)), {}, {})
    dtypes = {column.name: np.float64 if column.type is FeatureType.FLOAT else object for column in chosen}
    try:
        frame = rows.parse(chosen, dtypes)
    except (ValueError, OverflowError) as error:
        raise (_bad_number(rows, chosen) or UserError(f"{path} could not be read: {error}.")) from error
    doubtful = [c for c in chosen if c.type is FeatureType.FLOAT and _is_doubtful(frame[c.name].to_numpy())]
    bad = _bad_number(rows, doubtful) if doubtful else None
    if bad is not None:
        raise bad

    lengths: dict[str, int] = {}
    for name, kind in types.items():
        if kind in (FeatureType.TOKEN, FeatureType.FLOAT):
            continue
        texts = frame[name].fillna("").tolist()
        if kind is FeatureType.TOKEN_SEQ:
            arrays = _token_sequences(texts, seq_separator)
        else:
            arrays = _float_sequences(texts, seq_separator, name, rows)
        cells = np.empty(len(arrays), dtype=object)
        for row, array in enumerate(arrays):  # assigning the list at once would make a matrix of equally long rows
            cells[row] = array
        frame[name] = pd.Series(cells, index=frame.index, dtype=object)
        lengths[name] = max(map(len, arrays), default=0)
    return AtomicTable(frame, types, lengths)


def read_exact_times(path: Path, column: str, separator: str, encoding: str) -> np.ndarray | None:
    """One column as int64 ``[rows]``, in the rows of :func:`read_atomic`; None unless every value is an integer.

    float64 keeps integers exact only up to 2**53, which nanosecond stamps exceed. None (a fraction, a missing value,
    a number beyond int64) means that the float64 column of :func:`read_atomic` is to be used.

    Raises:
        UserError: as :func:`read_header`, a malformed row, or no such column.
    """
    path = Path(path)
    header = read_header(path, separator, encoding)
    check_columns(path, header, {"TIME_FIELD": column})
    chosen = [entry for entry in header if entry.name == column]
    rows = read_rows(path, separator, encoding, header)
    # From the text, because inside pandas a single "1.0" sends all through float64, and a number above 2**63 wraps.
    texts = rows.parse(chosen, {column: object})[column].tolist()
    if not all(isinstance(text, str) and _INTEGER.fullmatch(text) for text in texts):
        return None
    try:
        return np.fromiter(map(int, texts), dtype=np.int64, count=len(texts))
    except OverflowError:
        return None


def check_columns(path: Path, header: Iterable[Column], required: Mapping[str, str]) -> None:
    """Check that a file has the columns that the settings name.

    Args:
        path: the file, for the message.
        header: its columns.
        required: from setting name (``USER_ID_FIELD``, ``ITEM_ID_FIELD``, ``TIME_FIELD``, ...) to column name.

    Raises:
        UserError: a column is missing, an id is not of type ``token``, or a time or rating not of type ``float``.
    """
    found = {column.name: column.type for column in header}
    for setting, name in required.items():
        if name not in found:
            raise UserError(
                f"{path} has no column {name!r}, only {', '.join(found)}; "
                f"add the column or name another one by the setting {setting}."
            )
        needed = _NEEDED_TYPE.get(setting)
        if needed is not None and found[name] is not needed:
            raise UserError(
                f"Column {name!r} of {path} has the type {found[name].value}, but what the setting {setting} names "
                f"must be of type {needed.value}; write {name}:{needed.value} in the first line or name another "
                f"column by {setting}."
            )


def check_vectors(frame_column: pd.Series, name: str, path: Path) -> None:
    """Check that a ``float_seq`` column holds item vectors: one width, all finite; an empty row is a missing vector.

    Raises:
        UserError: naming the file, the column and the first bad row (1-based, not counting the header).
    """
    rows = frame_column.tolist()
    if not rows:
        raise UserError(f"{path} has no rows, so its column {name!r} holds no item vectors; give one row per item.")
    widths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    values, counts = np.unique(widths[widths > 0], return_counts=True)
    if not len(values):
        raise UserError(f"Column {name!r} of {path} is empty in every row; give one vector of numbers per item.")
    width = int(values[counts.argmax()])
    odd = np.flatnonzero((widths != width) & (widths > 0))
    if len(odd):
        raise UserError(
            f"Column {name!r} of {path} must hold vectors of one width, but data row {odd[0] + 1} has {widths[odd[0]]} "
            f"values while most rows have {width} (widths found: {_some(sorted(set(widths.tolist())))}); mend that row."
        )
    finite = np.array([bool(np.isfinite(row).all()) for row in rows])
    if not finite.all():
        raise UserError(
            f"Column {name!r} of {path} has NaN or an infinite value in data row {int(finite.argmin()) + 1}; "
            "item vectors must be finite numbers."
        )


def _token_sequences(texts: list[str], separator: str) -> list[np.ndarray]:
    return [np.array([piece for piece in text.split(separator) if piece], dtype=np.str_) for text in texts]


def _float_sequences(texts: list[str], separator: str, name: str, rows: Rows) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for start in range(0, len(texts), _CHUNK_ROWS):  # parts keep the copies of the text small
        arrays.extend(_float_part(texts[start : start + _CHUNK_ROWS], separator, name, rows, start))
    return arrays


def _float_part(texts: list[str], separator: str, name: str, rows: Rows, first: int) -> list[np.ndarray]:
    """One float64 array per text. All numbers are parsed in one go; only a bad one is looked for piece by piece."""
    lengths = [sum(map(bool, text.split(separator))) for text in texts]
    total = sum(lengths)
    flat: np.ndarray = np.empty(0)
    if total:
        joined = io.BytesIO("\n".join(texts).replace(separator, "\n").encode())
        # The faster conversion, at most a unit in the last place off: vectors need no more.
        options = PANDAS_OPTIONS | {"skip_blank_lines": True, "na_filter": False, "float_precision": "high"}
        try:
            flat = pd.read_csv(joined, header=None, dtype=np.float64, **options)[0].to_numpy()
        except (ValueError, OverflowError):  # an unparsable piece, found below
            flat = np.empty(0)
    if len(flat) != total or not np.isfinite(flat).all():
        pieces = [[piece for piece in text.split(separator) if piece] for text in texts]
        for row, line in enumerate(pieces, start=first):
            for piece in line:
                if not _is_number(piece):
                    raise _not_a_number(rows, row, name, FeatureType.FLOAT_SEQ, piece)
        flat = np.array([float(piece) for line in pieces for piece in line], dtype=np.float64)
    ends = np.cumsum(lengths).tolist()
    return [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _is_doubtful(values: np.ndarray) -> bool:
    """Whether pandas may have taken words for numbers: it reads ``inf``, and columns of ``True`` and ``False``."""
    known = values[~np.isnan(values)]
    return bool(len(known)) and bool(np.isinf(known).any() or ((known == 0) | (known == 1)).all())


def _bad_number(rows: Rows, columns: Sequence[Column]) -> UserError | None:
    """What to say about the first value of a float column that is no finite number, if there is one."""
    floats = [column for column in columns if column.type is FeatureType.FLOAT]
    frame = rows.parse(floats, {column.name: object for column in floats})
    first: tuple[int, str, str] | None = None
    for column in floats:
        for row, text in enumerate(frame[column.name]):
            if isinstance(text, str) and not _is_number(text):
                if first is None or row < first[0]:
                    first = (row, column.name, text)
                break
    return first and _not_a_number(rows, first[0], first[1], FeatureType.FLOAT, first[2])


def _not_a_number(rows: Rows, row: int, name: str, kind: FeatureType, text: str) -> UserError:
    remedy = "leave the field empty where the value is missing" if kind is FeatureType.FLOAT else "mend that line"
    return UserError(
        f"Line {rows.line(row)} of {rows.path}: column {name!r} is of type {kind.value}, but holds {text[:80]!r}, "
        f"which is not a finite number; {remedy}, or change the column's type in the first line."
    )


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and bool(np.isfinite(float(text)))


def _some(values: Sequence[int], limit: int = 8) -> str:
    return ", ".join(map(str, values[:limit])) + (", ..." if len(values) > limit else "")
