"""How accurate the models are that were timed: from records of whole runs, since a slice of training cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.grid import cell_keys
from recbole_reg4rec.study.leaderboard.records import RecordBook
from recbole_reg4rec.study.leaderboard.rows import Row

METRICS = ("recall@10", "ndcg@10")


def whole_runs(book: RecordBook, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What runs with the very settings of those timed came to on test, on the very data; others are left out.

    Args:
        book: the records to look among.
        found: of one data set, see `rounds.take_turns`.

    Returns:
        by contender: ``masked``; `METRICS`, means over seeds, and ``<metric>_std``, None with one seed; ``epochs``,
        ``train_seconds``, means; ``runs``, files, one a seed. Or ``failed``: why records cannot be used.
    """
    result: dict[str, dict[str, Any]] = {}
    for name, entry in found["contenders"].items():
        settings = entry["settings"]
        records = book.row(cell_keys(settings)[1], found["fingerprint"])
        if not records:
            continue
        row = Row(settings["model"], name.partition(":")[2], bool(settings["mask_history"]), tuple(records))
        try:
            metrics: dict[str, Any] = {metric: row.mean(metric) for metric in METRICS}
        except UserError as error:
            result[name] = {"failed": str(error)}
            continue
        result[name] = {
            "masked": row.masked,
            **metrics,
            **{f"{metric}_std": row.deviation(metric) for metric in METRICS},
            "epochs": mean(len(record.content["epochs"]) for record in records),
            "train_seconds": row.cost("train"),
            "runs": [record.file for record in records],
        }
    return result
