"""Works through a grid: finished cells are left alone, others are done once by whoever gets there first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from recbole_reg4rec.files import check_writable, whole_file
from recbole_reg4rec.study.leaderboard.grid import Cell, checkpoints_of
from recbole_reg4rec.study.leaderboard.launch import Launch, run_job
from recbole_reg4rec.study.leaderboard.locks import CellLock, folder_time
from recbole_reg4rec.study.leaderboard.progress import Progress, clock
from recbole_reg4rec.study.leaderboard.records import RecordBook, RunRecord

LOCKS, LOGS = "locks", "logs"


@dataclass
class Outcome:
    """What came of a grid: records by cell, and reasons by cell that failed."""

    records: dict[Cell, RunRecord] = field(default_factory=dict)
    failures: dict[Cell, str] = field(default_factory=dict)


class Runner:
    """Runs cells one after the other, sharing ``results_dir`` with other processes.

    Args:
        results_dir: holds ``runs/`` (records), ``locks/`` and ``logs/``.
        fingerprints: of the data sets as they are now.
        progress: tells what happens.
        finished: called after every cell that this process has done.
        launch: does a job, see `launch.run_job`.
        patience: seconds between looks at cells that others work on.
    """

    def __init__(
        self,
        results_dir: Path,
        fingerprints: Mapping[str, str],
        progress: Progress,
        finished: Callable[[Cell], None] = lambda cell: None,
        launch: Launch = run_job,
        patience: float = 3.0,
    ) -> None:
        self._results, self._fingerprints, self._progress = results_dir, fingerprints, progress
        self._finished, self._launch, self._patience = finished, launch, patience
        self._locks = results_dir / LOCKS
        self._locks.mkdir(parents=True, exist_ok=True)
        self._began = folder_time(self._locks)
        self.book = RecordBook(results_dir / "runs")
        self._workers = 1
        self._cells: list[Cell] = []

    def run(self, cells: Iterable[Cell]) -> Outcome:
        """Goes on until every cell is finished or has failed, here or elsewhere."""
        outcome = Outcome()
        # Those of one stage come first, since others may begin from them.
        self._cells = sorted(cells, key=lambda cell: cell.aligned)
        left = list(self._cells)
        for cell in list(left):
            if self._look(cell, outcome):
                left.remove(cell)
        waiting = False
        while left:
            others = 0
            for cell in list(left):
                if self._look(cell, outcome):
                    left.remove(cell)
                    continue
                if self._first_stage_is_to_come(cell, outcome):
                    others += 1
                elif self._try(cell, outcome):
                    left.remove(cell)
                    waiting = False
                else:
                    others += 1
            if others and left:
                if not waiting:
                    self._progress.say(f"waiting for {others} cells that other processes are working on")
                    waiting = True
                sleep(self._patience)
        return outcome

    def _look(self, cell: Cell, outcome: Outcome) -> bool:
        """Whether the cell needs no more work: it is recorded, or failed since this grid began."""
        record = self._record(cell)
        if record is not None:
            outcome.records[cell] = record
            self._progress.note(cell, float(record.content["seconds"]["total"]))
            return True
        failure = self._failure_file(cell)
        try:
            if failure.stat().st_mtime > self._began:
                outcome.failures[cell] = str(json.loads(failure.read_text(encoding="utf-8"))["reason"])
                self._progress.failed(cell)
                return True
        except (OSError, ValueError, KeyError):
            pass
        return False

    def _record(self, cell: Cell) -> RunRecord | None:
        self.book.refresh()
        return self.book.finished(cell.key, self._fingerprints[cell.dataset])

    def _try(self, cell: Cell, outcome: Outcome) -> bool:
        """Does the cell unless somebody else is at it; whether it needs no more work."""
        stem = cell.file_stem(self._fingerprints[cell.dataset])
        with CellLock(self._locks / f"{stem}.lock") as lock:
            if not lock.acquire():
                return False
            # It may have been finished just now; writing there makes a network client look at the folder afresh.
            check_writable(self._results / "runs")
            if self._look(cell, outcome):
                return True
            self._failure_file(cell).unlink(missing_ok=True)
            self._progress.start(cell, self._count_workers())
            begin = monotonic()
            reason = self._launch(
                self._job(cell, stem, outcome), self._results / LOGS / f"{stem}.log", lambda: self._tick(lock)
            )
            if lock.lost:
                return False
            record = self._record(cell) if reason is None else None
            if reason is None and record is None:
                reason = "it ended well but left no record of these settings and data; were the data changed meanwhile?"
            if record is None:
                outcome.failures[cell] = str(reason)
                with whole_file(self._failure_file(cell), "w", encoding="utf-8") as file:
                    json.dump({"reason": reason}, file)
                self._progress.failed(cell)
                self._progress.end(cell, f"FAILED: {reason}")
                return True
            outcome.records[cell] = record
            self._progress.note(cell, float(record.content["seconds"]["total"]))
            test = record.content["test"].get("ndcg@10")
            score = "" if test is None else f", test NDCG@10 {test:.4f}"
            self._progress.end(cell, f"done in {clock(monotonic() - begin)}{score}")
        self._finished(cell)
        return True

    def _job(self, cell: Cell, stem: str, outcome: Outcome) -> dict[str, Any]:
        job = {name: value for name, value in cell.job.items() if name != "settings"}
        checkpoint = _checkpoint(cell, stem)
        line = {**job["command_line"], "show_progress": "False"}
        if start := self._first_stage(cell, outcome):
            line["align_from"] = str(start)
        return {
            **job,
            "kind": "run",
            "command_line": line,
            "checkpoint": str(checkpoint),
            "results_dir": str(self._results),
        }

    def _first_stage(self, cell: Cell, outcome: Outcome) -> Path | None:
        """The best model of a finished cell that is this one's first stage; None where there is none at hand."""
        for other in self._cells:
            if other.is_first_stage_of(cell) and other in outcome.records:
                path = _checkpoint(other, other.file_stem(self._fingerprints[other.dataset]))
                if path.is_file():
                    return path
        return None

    def _first_stage_is_to_come(self, cell: Cell, outcome: Outcome) -> bool:
        """Whether another process is still at a cell that is this one's first stage, to be trained again otherwise."""
        firsts = [other for other in self._cells if other.is_first_stage_of(cell)]
        # Who was at it when this process came by may have finished since.
        done = [other in outcome.records or other in outcome.failures or self._look(other, outcome) for other in firsts]
        return not all(done) and self._first_stage(cell, outcome) is None

    def _tick(self, lock: CellLock) -> bool:
        self._progress.tick(self._workers)
        return not lock.lost

    def _count_workers(self) -> int:
        """How many processes work here now, this one included; counting costs a file or two a lock."""
        self._workers = max(1, sum(CellLock(path).is_taken() for path in self._locks.glob("*.lock")))
        return self._workers

    def _failure_file(self, cell: Cell) -> Path:
        return self._locks / f"{cell.file_stem(self._fingerprints[cell.dataset])}.failed"


def _checkpoint(cell: Cell, stem: str) -> Path:
    return checkpoints_of(cell.job["settings"]) / stem / "best.pth"
