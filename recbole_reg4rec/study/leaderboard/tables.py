"""What a board says, as tables of marked text that Markdown and HTML are written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_reg4rec.config import load_yaml, properties_dir
from recbole_reg4rec.study.leaderboard.rows import Board, Row
from recbole_reg4rec.study.leaderboard.statistics import Comparison, compare_with_best
from recbole_reg4rec.trainer.measures import MEASURES

TESTED = ("ndcg@10", "recall@10")
SHORT = {name: name.replace("recall", "R").replace("ndcg", "N").replace("mrr", "MRR") for name in MEASURES}
KINDS = {"transition": "newest item -> target", "popularity": "target's popularity", "history": "history's length"}


@dataclass(frozen=True)
class Entry:
    """A cell: text, whether it is the best of its column or level with it, and links as (text, address)."""

    text: str
    best: bool = False
    level: bool = False
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """``title`` is a heading of the third level, or empty; ``note`` stands below."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[Entry, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading of the second level with text and tables."""

    title: str
    text: str
    tables: tuple[Table, ...]


def sections(board: Board) -> list[Section]:
    """Everything that the page and the Markdown file show, in order."""
    found = [Section("Data", "", (_data(board),))]
    for masked in (False, True):
        if board.of(masked):
            found.append(_protocol(board, masked))
    return [*found, Section("Cost", "", (_cost(board),)), *_published(board), _runs(board)]


def headline(board: Board) -> str:
    """The protocol that every row shares."""
    record = board.record
    split = record["protocol"]["eval_args"]["split"]
    data, way = record["data"], ", ".join(f"{name} {value}" for name, value in split.items())
    way = "leave-one-out (last item test, the one before validation)" if way == "LS valid_and_test" else f"split {way}"
    return (
        f"{way[0].upper()}{way[1:]}, interactions ordered by `{record['protocol']['order']}`. Every target is ranked "
        f"among all {data['items']} items; items with the same score stand before it. The epoch was chosen by "
        f"{record['settings']['valid_metric']} on validation. Means over seeds, ± the standard deviation over seeds. "
        "Recomputed from the runs named at the end by `python -m recbole_reg4rec leaderboard --check`."
    )


def _data(board: Board) -> Table:
    data = board.record["data"]
    lines = [(Entry(name.replace("_", " ")), Entry(str(value))) for name, value in data.items()]
    lines.append((Entry("fingerprint of data and split"), Entry(str(board.record["fingerprint"]))))
    note = (
        "tied interactions: as old as the one before them; tied targets: users whose last interaction is tied, so that "
        "the order in the file decides what is tested."
    )
    return Table("", ("", "number"), tuple(lines), note)


def _protocol(board: Board, masked: bool) -> Section:
    rows = board.of(masked)
    compared = {name: _against_best(rows, name) for name in TESTED}
    title = "History masked" if masked else "History not masked"
    text = (
        "Items of the user's history, however long, are taken out of the ranking."
        if masked
        else "Items of the user's history stay in the ranking, as in RecBole."
    )
    tables = (_accuracy(rows, compared), _comparisons(rows, compared), _beyond(rows), *_groups(rows))
    return Section(title, text, tables)


def _against_best(rows: Sequence[Row], name: str) -> dict[str, Comparison | None]:
    """Comparison with the best row by name of the row; None for the best itself."""
    best = max(rows, key=lambda row: row.mean(name))
    others = [row for row in rows if row is not best]
    found = compare_with_best(best.of_target[name], [row.of_target[name] for row in others])
    return {best.name: None, **{row.name: value for row, value in zip(others, found, strict=True)}}


def _accuracy(rows: Sequence[Row], compared: dict[str, dict[str, Comparison | None]]) -> Table:
    tops = {name: max(row.mean(name) for row in rows) for name in MEASURES}
    lines = []
    for row in rows:
        star = "*" if row.other_validation else ""
        line = [Entry(row.name + star), Entry(str(len(row.records)))]
        for name in MEASURES:
            deviation = row.deviation(name)
            spread = "" if deviation is None else f" ± {deviation:.4f}"
            comparison = compared[name][row.name] if name in compared else None
            level = comparison is not None and comparison.level and len(rows) > 1
            line.append(Entry(f"{row.mean(name):.4f}{spread}", best=row.mean(name) == tops[name], level=level))
        lines.append(tuple(line))
    note = "Bold: the highest. ≈ (N@10 and R@10): cannot be told apart from the best, see below."
    if any(row.other_validation for row in rows):
        note += " *: the epoch was chosen under the other protocol; the same runs are shown there."
    if any(len(row.records) < 2 for row in rows):
        note += " Rows of one seed say nothing about how training varies."
    return Table("Accuracy", ("model", "seeds", *(SHORT[name] for name in MEASURES)), tuple(lines), note)


def _comparisons(rows: Sequence[Row], compared: dict[str, dict[str, Comparison | None]]) -> Table:
    header = ["model"]
    for name in TESTED:
        header += [f"{SHORT[name]} minus best [95%]", f"{SHORT[name]} effect", f"{SHORT[name]} p"]
    lines = []
    for row in rows:
        line = [Entry(row.name)]
        for name in TESTED:
            found = compared[name][row.name]
            if found is None:
                line += [Entry("best", best=True), Entry("-"), Entry("-")]
            else:
                line += [
                    Entry(f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]", level=found.level),
                    Entry(f"{found.effect:+.3f}"),
                    Entry("< 0.0001" if found.p < 0.0001 else f"{found.p:.4f}"),
                ]
        lines.append(tuple(line))
    note = (
        "Paired t-test over test targets, each averaged over seeds; p by Holm's correction over the rows; effect: mean "
        "difference in standard deviations of the differences. It speaks of other users with these trained models, not "
        "of other seeds: for those see ±."
    )
    return Table("Against the best", tuple(header), tuple(lines), note)


def _beyond(rows: Sequence[Row]) -> Table:
    header = ("model", "coverage@10", "popularity@10", "popularity of targets", "bias")
    lines = []
    for row in rows:
        listed, wanted = row.listed("popularity@10"), row.listed("target_popularity")
        values = (row.listed("coverage@10"), listed, wanted)
        lines.append((Entry(row.name), *(Entry(f"{value:.3f}") for value in values), Entry(f"{listed - wanted:+.3f}")))
    note = (
        "coverage: share of the catalogue in somebody's first ten; popularity: mean percentile of training popularity, "
        "0 to 1; bias: how much more popular the lists are than what users took."
    )
    return Table("What is recommended", header, tuple(lines), note)


def _groups(rows: Sequence[Row]) -> list[Table]:
    tables = []
    for kind, title in KINDS.items():
        header = ["model"]
        for entry in rows[0].groups(kind):
            header += [f"{group_label(entry)} N@10", "R@10"]
        lines = []
        for row in rows:
            parts = [(entry["ndcg@10"], entry["recall@10"]) for entry in row.groups(kind)]
            lines.append((Entry(row.name), *(Entry(f"{value:.4f}") for part in parts for value in part)))
        tables.append(Table(f"By {title}", tuple(header), tuple(lines)))
    return tables


def _cost(board: Board) -> Table:
    header = ("model", "train s", "evaluate s", "parameters", "peak MB", "history", "device", "platform", "torch")
    lines, told = [], set()
    for row in board.rows:
        files = tuple(record.file for record in row.records)
        if files in told:
            continue
        told.add(files)
        costs = [f"{row.cost(name):.1f}" for name in ("train", "evaluate")]
        costs += [f"{row.cost('parameters'):.0f}", f"{row.cost('peak_memory_mb'):.0f}"]
        settings = [record.content["settings"] for record in row.records]
        versions = [record.content["versions"] for record in row.records]
        where = [
            _distinct([part.get("MAX_ITEM_LIST_LENGTH") for part in settings]),
            _distinct([part.get("device") for part in settings]),
            _distinct([part.get("platform") for part in versions]),
            _distinct([part.get("torch") for part in versions]),
        ]
        mark = " (validated masked)" if row.records[0].validated_masked else ""
        lines.append(tuple(Entry(text) for text in (row.name + mark, *costs, *where)))
    note = (
        "train: all epochs without validation; evaluate: validation and test once, after training; means over seeds. "
        "peak: the largest resident memory of the whole process."
    )
    return Table("", header, tuple(lines), note)


def group_label(entry: Mapping[str, Any]) -> str:
    """``rare 0-5 (n=120)``, of a group as records describe it."""
    span = "" if entry["from"] is None else f" {entry['from']}-{entry['to']}"
    return f"{entry['name']}{span} (n={entry['n']})"


def _distinct(values: Sequence[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def published(dataset: str, path: Path | None = None) -> list[dict[str, Any]]:
    """Published numbers for a data set, from ``properties/published.yaml``."""
    return list(load_yaml(path or properties_dir() / "published.yaml").get(dataset) or [])


def _published(board: Board) -> list[Section]:
    lines = []
    for entry in published(board.dataset):
        ours = [row for row in board.rows if row.name == entry["row"] and row.masked == bool(entry["masked"])]
        protocol = {True: "masked", False: "not masked", None: "not stated"}[entry["masked"]]
        cells = [str(entry["name"]), f"{entry['recall@10']:.4f}", f"{entry['ndcg@10']:.4f}", protocol]
        if ours:
            share = ours[0].mean("ndcg@10") / entry["ndcg@10"] - 1
            cells += [
                ours[0].name,
                f"{ours[0].mean('recall@10'):.4f}",
                f"{ours[0].mean('ndcg@10'):.4f}",
                f"{share:+.0%}",
            ]
        else:
            cells += ["-"] * 4
        lines.append(tuple(Entry(text) for text in (*cells, str(entry["source"]))))
    if not lines:
        return []
    header = ("published", "R@10", "N@10", "history", "row here", "R@10 here", "N@10 here", "N@10", "source")
    text = "Others' data preparation, settings and hardware; what ours are is told above and in the records."
    return [Section("Published numbers beside ours", text, (Table("", header, tuple(lines)),))]


def _runs(board: Board) -> Section:
    lines = []
    for row in board.rows:
        links = tuple((f"seed {record.seed}", f"runs/{record.file}") for record in row.records)
        lines.append(
            (
                Entry(row.name),
                Entry("masked" if row.masked else "not masked"),
                Entry(row.given or "-"),
                Entry("", links=links),
            )
        )
    header = ("model", "history", "settings given over the property files", "records")
    return Section("Runs", "", (Table("", header, tuple(lines)),))
