"""The three files of a data set's table: written together, compared with what the records give."""

from __future__ import annotations

import csv
import io
from itertools import zip_longest
from pathlib import Path
from time import sleep

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import whole_file
from recbole_reg4rec.study.leaderboard.locks import CellLock
from recbole_reg4rec.study.leaderboard.markdown import markdown
from recbole_reg4rec.study.leaderboard.page import page
from recbole_reg4rec.study.leaderboard.records import RecordBook
from recbole_reg4rec.study.leaderboard.rows import (
    Board,
    Shown,
    build_board,
    check_same_data,
    csv_lines,
    read_shown,
    read_table,
    table_fingerprint,
)
from recbole_reg4rec.study.record import unwritable


def texts(board: Board) -> dict[str, str]:
    """Contents by ending: ``csv``, ``md``, ``html``."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(csv_lines(board))
    return {"csv": stream.getvalue(), "md": markdown(board), "html": page(board)}


def update_tables(results_dir: Path, dataset: str, grid: Shown, book: RecordBook, fingerprint: str) -> Board | None:
    """Writes the tables of a data set: rows that stood there before, with those of ``grid`` over them.

    Returns:
        what was written, or None where no cell has finished yet.

    Raises:
        UserError: what stands there is no table, or one of other data; the folder cannot be written.
    """
    path = results_dir / f"{dataset}.csv"
    lock = CellLock(results_dir / "locks" / f"tables-{dataset}.lock")
    while not lock.acquire():
        sleep(0.2)
    with lock:
        book.refresh()
        check_same_data(path, book, fingerprint)
        board = build_board(dataset, {**read_shown(path, book), **grid}, book, fingerprint)
        if not board.rows:
            return None
        for ending, text in texts(board).items():
            try:
                with whole_file(path.with_suffix(f".{ending}"), "w", encoding="utf-8", newline="\n") as file:
                    file.write(text)
            except OSError as error:
                raise unwritable(results_dir, error) from error
    return board


def check_tables(results_dir: Path, datasets: list[str] | None = None) -> list[str]:
    """Recomputes tables from their records; one sentence for each that differs, none where all agree.

    Args:
        results_dir: folder with the tables and ``runs/``.
        datasets: whose tables; all that are there when not given.

    Raises:
        UserError: there is no table to check.
    """
    tables = [results_dir / f"{name}.csv" for name in datasets] if datasets else _tables(results_dir)
    if not tables:
        raise UserError(f"there is no table in {results_dir}; run leaderboard with --models and --datasets first")
    book = RecordBook(results_dir / "runs")
    found: list[str] = []
    for path in tables:
        if not path.is_file():
            raise UserError(f"there is no table {path}; run leaderboard with --datasets={path.stem} first")
        try:
            found += _differences(path, book)
        except UserError as error:
            found.append(f"{path}: {error}")
    return found


def _tables(results_dir: Path) -> list[Path]:
    """CSV files of this command; other people's lie beside them."""
    found = []
    for path in sorted(results_dir.glob("*.csv")):
        try:
            read_table(path)
        except UserError:
            continue
        found.append(path)
    return found


def _differences(path: Path, book: RecordBook) -> list[str]:
    fingerprint = table_fingerprint(path, book)
    if fingerprint is None:
        return [f"{path} has no rows"]
    board = build_board(path.stem, read_shown(path, book), book, fingerprint)
    found = []
    for ending, text in texts(board).items():
        file = path.with_suffix(f".{ending}")
        try:
            written = file.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            found.append(f"{file} cannot be read ({error})")
            continue
        if written != text:
            found.append(f"{file} differs from its records: {_first_difference(written, text)}")
    return found


def _first_difference(written: str, computed: str) -> str:
    pairs = zip_longest(written.splitlines(), computed.splitlines(), fillvalue="(nothing)")
    for number, (there, here) in enumerate(pairs, start=1):
        if there != here:
            at = next(
                (i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), min(len(there), len(here))
            )
            begin = max(0, at - 20)
            return f"line {number} has `{there[begin : at + 40]}`, the records give `{here[begin : at + 40]}`"
    return "line ends differ"
