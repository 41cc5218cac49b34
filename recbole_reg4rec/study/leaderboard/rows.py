"""The rows of a table, recomputed from records and their ranks; which records a table shows is in its CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.records import RecordBook, RunRecord
from recbole_reg4rec.trainer.checkpoint import deciding_settings
from recbole_reg4rec.trainer.measures import GROUP_DEPTH, MEASURES, gains, hits, measure

CURVE_DEPTHS = (1, 2, 3, 5, 10, 20, 50, 100)
COLUMNS = (
    *("model", "variant", "masked", "seeds"),
    *MEASURES,
    *(f"{name}_std" for name in MEASURES),
    *("train_seconds", "evaluate_seconds", "parameters", "peak_memory_mb", "runs"),
)
# model, variant, validated with the mask -> row_key of the records
Shown = dict[tuple[str, str, bool], str]
# What a user gives that says where and how, not what is computed.
_NOT_TOLD = frozenset({"seed", "mask_history"})


@dataclass(frozen=True)
class Row:
    """One model, variant and protocol: its records, one a seed."""

    model: str
    variant: str
    masked: bool
    records: tuple[RunRecord, ...]

    @property
    def name(self) -> str:
        return self.model if self.variant == "default" else f"{self.model}:{self.variant}"

    @property
    def other_validation(self) -> bool:
        """Whether an epoch was chosen, and under the other protocol than the one of this row."""
        chosen = any(record.content["epochs"] for record in self.records)
        return chosen and self.records[0].validated_masked != self.masked

    @cached_property
    def ranks(self) -> np.ndarray:
        """int64 ``[seeds, targets]`` under this row's protocol."""
        return np.stack([record.ranks()[:, int(self.masked)] for record in self.records])

    @cached_property
    def of_target(self) -> dict[str, np.ndarray]:
        """Recall and NDCG at 10 of each target, averaged over seeds, float64 ``[targets]``."""
        return {
            f"recall@{GROUP_DEPTH}": hits(self.ranks, GROUP_DEPTH).mean(0),
            f"ndcg@{GROUP_DEPTH}": gains(self.ranks, GROUP_DEPTH).mean(0),
        }

    @cached_property
    def _by_seed(self) -> list[dict[str, float]]:
        return [measure(ranks) for ranks in self.ranks]

    def mean(self, name: str) -> float:
        """Mean over seeds of one of `MEASURES`."""
        return float(np.mean([found[name] for found in self._by_seed]))

    def deviation(self, name: str) -> float | None:
        """Standard deviation over seeds (of a sample); None with one seed."""
        values = [found[name] for found in self._by_seed]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def curve(self, metric: str) -> list[float]:
        """Recall or NDCG at `CURVE_DEPTHS`."""
        function = {"recall": hits, "ndcg": gains}[metric]
        return [float(function(self.ranks, depth).mean()) for depth in CURVE_DEPTHS]

    def listed(self, name: str) -> float:
        """Mean over seeds of a figure about the lists: coverage or popularity."""
        protocol = "masked" if self.masked else "unmasked"
        return float(np.mean([float(r.content["test_protocols"][protocol][name]) for r in self.records]))

    def groups(self, kind: str) -> list[dict[str, Any]]:
        """The groups of a kind with metrics averaged over seeds."""
        protocol = "masked" if self.masked else "unmasked"
        seeds = [record.content["test_groups"][protocol][kind] for record in self.records]
        found = []
        for parts in zip(*seeds, strict=True):
            entry = dict(parts[0])
            for name in (f"recall@{GROUP_DEPTH}", f"ndcg@{GROUP_DEPTH}"):
                entry[name] = float(np.mean([part[name] for part in parts]))
            found.append(entry)
        return found

    def cost(self, name: str) -> float:
        """``train`` and ``evaluate`` seconds: means over seeds; ``parameters``, ``peak_memory_mb``: the largest."""
        if name in ("train", "evaluate"):
            return float(np.mean([float(r.content["seconds"][name]) for r in self.records]))
        return float(max(float(r.content[name]) for r in self.records))

    @property
    def given(self) -> str:
        """The settings that users gave over the property files, as text; the same for every seed."""
        names = {name for r in self.records for name in r.content["given"]} - _NOT_TOLD
        settings = self.records[0].content["settings"]
        return ", ".join(f"{name}={settings.get(name)}" for name in sorted(names & deciding_settings(settings).keys()))


@dataclass(frozen=True)
class Board:
    """All rows of a data set, both protocols, best first."""

    dataset: str
    rows: tuple[Row, ...]

    def of(self, masked: bool) -> list[Row]:
        return [row for row in self.rows if row.masked == masked]

    @property
    def record(self) -> Mapping[str, Any]:
        """Any record: what all have in common, data and protocol, is the same in each."""
        return self.rows[0].records[0].content


def read_shown(path: Path, book: RecordBook) -> Shown:
    """Which settings a written table shows, from the ``runs`` of its CSV; empty where there is no table yet.

    Raises:
        UserError: the file is no table of this command, names missing records, or mixes runs in one row.
    """
    shown: Shown = {}
    for line in read_table(path) or []:
        where = f"table {path}, row {line['model']} {line['variant']},"
        records = [book.named(file, where) for file in line["runs"].split()]
        if not records:
            raise UserError(f"{where} names no runs; delete that line")
        seeds = [record.seed for record in records]
        if len(set(seeds)) < len(seeds):
            raise UserError(
                f"{where} names two runs of one seed ({', '.join(map(str, sorted(seeds)))}); keep one a seed"
            )
        for record in records:
            key = (line["model"], line["variant"], record.validated_masked)
            if record.content["model"] != line["model"] or record.content["dataset"] != path.stem:
                raise UserError(
                    f"{where} names record {record.file}, which is of {record.content['model']} on "
                    f"{record.content['dataset']}; write the table again"
                )
            if shown.setdefault(key, record.row_key) != record.row_key:
                raise UserError(
                    f"{where} names {record.file}, whose settings are not those of the row's other runs; "
                    "keep runs of one configuration"
                )
    return shown


def read_table(path: Path) -> list[dict[str, str]] | None:
    """The lines of a table's CSV, or None where there is none.

    Raises:
        UserError: the file cannot be read or has other columns.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UserError(
                    f"file {path} is in the place of a table, but has other columns than this command writes; move it "
                    "away or set --results_dir"
                )
            lines = list(reader)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path} cannot be read ({error}); move it away or set --results_dir") from error
    if any(None in line or None in line.values() for line in lines):
        raise UserError(f"table {path} has a line with more or fewer columns than its header; write the table again")
    return lines


def table_fingerprint(path: Path, book: RecordBook) -> str | None:
    """The data that a written table is about, or None where there is no table yet.

    Raises:
        UserError: its records were made on different data or splits.
    """
    first: RunRecord | None = None
    for line in read_table(path) or []:
        for file in line["runs"].split():
            record = book.named(file, f"table {path}")
            first = first or record
            if record.fingerprint != first.fingerprint:
                raise UserError(
                    f"table {path} names {first.file} and {record.file}, which were made on different data or splits "
                    f"({_data(first)}; {_data(record)}); delete the lines of one of them"
                )
    return first.fingerprint if first else None


def _data(record: RunRecord) -> str:
    content = record.content
    return (
        f"{content['data']['users']} users, {content['data']['interactions']} interactions ordered by "
        f"{content['protocol']['order']}, {record.fingerprint}"
    )


def check_same_data(path: Path, book: RecordBook, fingerprint: str) -> None:
    """Refuses to extend a table with runs on other data.

    Raises:
        UserError: the table shows records of another fingerprint.
    """
    written = table_fingerprint(path, book)
    if written is not None and written != fingerprint:
        raise UserError(
            f"table {path} shows runs on other data or another split or order ({written}) than {path.stem} has now "
            f"({fingerprint}); move {path.name} away to begin a new table, or set --results_dir"
        )


def build_board(dataset: str, shown: Shown, book: RecordBook, fingerprint: str) -> Board:
    """Every row under both protocols, by NDCG@10.

    A row takes the runs whose epoch was chosen under its own protocol, where there are any, otherwise those of the
    other; it never mixes them. All seeds that there are of these settings count.

    Raises:
        UserError: a record's ranks are missing or changed.
    """
    rows = []
    for model, variant in dict.fromkeys((model, variant) for model, variant, _ in shown):
        for masked in (False, True):
            keys = [shown.get((model, variant, validated)) for validated in (masked, not masked)]
            found: Sequence[RunRecord] = ()
            for key in keys:
                if key is not None and not found:
                    found = book.row(key, fingerprint)
            if found:
                rows.append(Row(model, variant, masked, tuple(found)))
    sizes = {row.records[0].file: row.ranks.shape[1] for row in rows}
    if len(set(sizes.values())) > 1:
        raise UserError(f"records of {dataset} hold different numbers of ranks ({sizes}); they cannot be compared")
    order = sorted(rows, key=lambda row: (row.masked, -row.mean("ndcg@10"), row.name))
    return Board(dataset, tuple(order))


def csv_lines(board: Board) -> list[list[str]]:
    """The table as text cells, header first; columns are `COLUMNS`."""
    lines = [list(COLUMNS)]
    for row in board.rows:
        deviations = [row.deviation(name) for name in MEASURES]
        lines.append(
            [
                *(row.model, row.variant, str(row.masked).lower(), str(len(row.records))),
                *(f"{row.mean(name):.6f}" for name in MEASURES),
                *("" if value is None else f"{value:.6f}" for value in deviations),
                *(f"{row.cost('train'):.1f}", f"{row.cost('evaluate'):.1f}"),
                *(f"{row.cost('parameters'):.0f}", f"{row.cost('peak_memory_mb'):.1f}"),
                " ".join(record.file for record in row.records),
            ]
        )
    return lines
