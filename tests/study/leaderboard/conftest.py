"""Records made by hand, whose tables can be counted by hand, and grids that run in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.records import RecordBook
from recbole_reg4rec.study.record import write_record
from recbole_reg4rec.trainer.measures import measure
from recbole_reg4rec.trainer.protocols import PROTOCOLS, TestReport


class Records:
    """Writes records with ranks of one's choice into ``results/runs``."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self.runs = self.results / "runs"
        self.runs.mkdir(parents=True)
        self.number = 0

    def write(
        self,
        model: str = "A",
        seed: int = 1,
        ranks: Sequence[Any] = (1, 2, 11, 0),
        masked: bool = False,
        dataset: str = "toy",
        fingerprint: str = "f" * 16,
        time: str | None = None,
        **settings: Any,
    ) -> str:
        """``ranks``: one a target (both protocols alike), or pairs. Returns the record's name."""
        pairs = np.array([(rank, rank) if np.ndim(rank) == 0 else rank for rank in ranks], dtype=np.int64)
        beyond = {"coverage@10": 0.5, "popularity@10": 0.75, "target_popularity": 0.5}
        metrics = {
            name: {key: round(value, 6) for key, value in {**measure(pairs[:, column]), **beyond}.items()}
            for column, name in enumerate(PROTOCOLS)
        }
        whole = {"name": "all", "n": len(pairs), "from": None, "to": None, "recall@10": 0.25, "ndcg@10": 0.125}
        groups = {name: {kind: [whole] for kind in ("transition", "popularity", "history")} for name in PROTOCOLS}
        report = TestReport(fingerprint, pairs, metrics, groups)
        record = {
            "model": model,
            "dataset": dataset,
            "seed": seed,
            "settings": {
                "seed": seed,
                "mask_history": masked,
                "valid_metric": "NDCG@10",
                "epochs": 3,
                "device": "cpu",
                "model": model,
                **settings,
            },
            "given": sorted(settings),
            "protocol": {
                "masked": masked,
                "order": "timestamp",
                "history": 50,
                "eval_args": {"split": {"LS": "valid_and_test"}, "mode": {"valid": "full", "test": "full"}},
            },
            "data": {"users": len(pairs), "items": 30, "interactions": 99},
            "test": metrics["masked" if masked else "unmasked"],
            "seconds": {"train": 10.0 * seed, "evaluate": 1.0, "total": 20.0},
            "parameters": 7,
            "epochs": [{"epoch": 0}],
            "peak_memory_mb": 100.0 + seed,
            "versions": {"platform": "here", "torch": "2"},
        }
        path = write_record(self.runs, f"{model}-{dataset}-seed{seed}-abcd", record, report)
        self.number += 1
        stem = f"{model}-{dataset}-seed{seed}-abcd-20260101-{time or f'{self.number:06d}'}"
        record["ranks"]["file"] = f"{stem}.ranks.csv"
        path.with_suffix(".ranks.csv").rename(self.runs / f"{stem}.ranks.csv")
        path.unlink()
        (self.runs / f"{stem}.json").write_text(json.dumps(record))
        return f"{stem}.json"

    def change(self, file: str, **parts: Any) -> None:
        content = json.loads((self.runs / file).read_text())
        (self.runs / file).write_text(json.dumps({**content, **parts}))

    def book(self) -> RecordBook:
        return RecordBook(self.runs)

    def shown(self, *files: str) -> dict[Any, str]:
        """A grid of the settings of these records, as variant ``default``."""
        book = self.book()
        found = [book.records[file] for file in files]
        return {(str(r.content["model"]), "default", r.validated_masked): r.row_key for r in found}


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.chdir(tmp_path)
    return Records(tmp_path)


@pytest.fixture
def in_process() -> Any:
    """Does jobs here instead of in processes of their own; ``done`` lists what was asked."""
    from recbole_reg4rec.study.leaderboard.worker import do

    def launch(job: Any, log: Path, tick: Any) -> str | None:
        launch.done.append(
            (job["kind"], job["model"], job["command_line"]["seed"], job["command_line"]["mask_history"])
        )
        try:
            do(json.loads(json.dumps(job)))
        except UserError as error:
            return str(error)
        return None

    launch.done = []
    return launch
