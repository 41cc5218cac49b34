"""The rows of an atomic file as bytes: read, decoded, checked for their number of fields, ready for pandas to parse."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils.enum_type import FeatureType

from recbole_reg4rec.errors import UserError

_NEWLINE = 10
_CHUNK_BYTES = 1 << 23
PANDAS_OPTIONS: dict[str, Any] = {
    "engine": "c",
    "quoting": csv.QUOTE_NONE,
    "keep_default_na": False,
    "na_values": [""],
    "lineterminator": "\n",
    "encoding": "utf-8",
    "index_col": False,
    "skip_blank_lines": False,
    "low_memory": False,
    "float_precision": "round_trip",
}


@dataclass(frozen=True)
class Column:
    """One column of an atomic file: its name without the type, its type, its 0-based place in the file."""

    name: str
    type: FeatureType
    index: int


@dataclass(frozen=True)
class Rows:
    """Everything after the header as UTF-8 with ``\\n`` line ends and without empty lines."""

    path: Path
    separator: str
    width: int
    data: bytes
    count: int
    empty_lines: tuple[int, ...]

    def line(self, row: int) -> int:
        """Line number in the file of a 0-based data row."""
        line = row + 2
        for empty in self.empty_lines:
            line += empty <= line
        return line

    def parse(self, columns: Sequence[Column], dtypes: Mapping[str, Any]) -> pd.DataFrame:
        """The named columns by pandas; ValueError or OverflowError where a value does not suit its dtype."""
        if not self.count:
            return pd.DataFrame({column.name: pd.Series([], dtype=dtypes[column.name]) for column in columns})
        frame = pd.read_csv(
            io.BytesIO(self.data),
            sep=self.separator,
            header=None,
            names=range(self.width),
            usecols=[column.index for column in columns],
            dtype={column.index: dtypes[column.name] for column in columns},
            **PANDAS_OPTIONS,
        )
        return frame.rename(columns={column.index: column.name for column in columns})


def read_rows(path: Path, separator: str, encoding: str, header: Sequence[Column]) -> Rows:
    """Read, decode and check the rows; UserError where a row has too few or too many fields."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if not data.isascii() or codecs.lookup(encoding).name not in ("ascii", "utf-8", "utf-8-sig"):
        try:
            data = data.decode(encoding).removeprefix("\ufeff").encode("utf-8")
        except UnicodeError as error:
            line = data.count(b"\n", 0, error.start) + 1 if isinstance(error, UnicodeDecodeError) else None
            raise undecodable(path, encoding, line) from error
    if b"\0" in data:
        raise undecodable(path, encoding, data.count(b"\n", 0, data.index(b"\0")) + 1)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n") if b"\n" in data else data.replace(b"\r", b"\n")
    data = data.partition(b"\n")[2]
    rows, empty_lines = _check_rows(path, data, ord(separator), header)
    if empty_lines:
        data = re.sub(rb"\n{2,}", b"\n", data).lstrip(b"\n")
    return Rows(path, separator, len(header), data, rows, tuple(empty_lines))


def _check_rows(path: Path, data: bytes, separator: int, header: Sequence[Column]) -> tuple[int, list[int]]:
    """Number of rows and line numbers of empty lines; pandas alone would fill short rows and number lines otherwise."""
    inner = len(header) - 1
    rows, line, start = 0, 2, 0
    empty_lines: list[int] = []
    while start < len(data):
        stop = data.find(b"\n", start + _CHUNK_BYTES) + 1 or len(data)
        part = np.frombuffer(data, dtype=np.uint8, count=stop - start, offset=start)
        ends = np.flatnonzero(part == _NEWLINE)
        if part[-1] != _NEWLINE:
            ends = np.append(ends, len(part))
        counts = np.diff(np.searchsorted(np.flatnonzero(part == separator), ends), prepend=0)
        empty = np.diff(ends, prepend=-1) == 1
        bad = np.flatnonzero((counts != inner) & ~empty)
        if len(bad):
            found = int(counts[bad[0]]) + 1
            raise UserError(
                f"Line {line + int(bad[0])} of {path} has {found} field{'s' * (found != 1)}, but the first line names "
                f"{len(header)} columns ({', '.join(column.name for column in header)}) separated by {chr(separator)!r}"
                "; mend that line."
            )
        empty_lines.extend((np.flatnonzero(empty) + line).tolist())
        rows += len(ends) - int(empty.sum())
        line += len(ends)
        start = stop
    return rows, empty_lines


def check_separator(separator: str) -> None:
    """UserError unless the separator is one ASCII character that can stand between fields."""
    if len(separator) != 1 or not separator.isascii() or separator in "\r\n\0":
        raise UserError(
            f"The setting field_separator is {separator!r}, but must be one ASCII character, usually a tab ('\\t')."
        )


def unreadable(path: Path, error: OSError) -> UserError:
    """What to tell the user about a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        name = path.name.split(".")[0]
        return UserError(
            f"The file {path} does not exist; the data set {name!r} needs {name}.inter (who took which item when) and "
            f"may have {name}.item and {name}.user (features), all in the folder {path.parent}."
        )
    return UserError(f"The file {path} cannot be read ({error.strerror or error}); check the path and its permissions.")


def undecodable(path: Path, encoding: str, line: int | None = None) -> UserError:
    """What to tell the user about a file that is not text of the given encoding."""
    where = f"Line {line} of {path}" if line else str(path)
    return UserError(
        f"{where} is not text in {encoding!r}; give the file's own encoding by the setting encoding, for example "
        "latin-1 or utf-16, or convert the file to utf-8."
    )
