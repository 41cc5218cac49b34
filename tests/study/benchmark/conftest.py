"""Workers that live in this process, so that a test need not wait for libraries to load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recbole_reg4rec.study.benchmark.bench import Bench
from recbole_reg4rec.study.benchmark.command import benchmark


class LocalStart:
    """Stands in for `process.WorkerProcess`; ``asked`` lists who was asked for what, ``open`` who has not ended.

    ``broken``: names of workers and tasks that fail as a process would that has died.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.open: set[str] = set()
        self.broken: set[tuple[str, str]] = set()

    def __call__(self, name: str, room: Path, threads: int) -> Any:
        return _LocalWorker(self, name)


class _LocalWorker:
    def __init__(self, start: LocalStart, name: str) -> None:
        self._start, self._name, self._bench = start, name, Bench()
        start.open.add(name)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from recbole_reg4rec.errors import UserError

        self._start.asked.append((self._name, request["do"]))
        if (self._name, request["do"]) in self._start.broken:
            raise UserError(f"{self._name} ended")
        return json.loads(json.dumps(self._bench.answer(json.loads(json.dumps(request)))))

    def close(self) -> None:
        self._start.open.discard(self._name)


@pytest.fixture
def start() -> LocalStart:
    return LocalStart()


@pytest.fixture
def run(toy: Any, start: LocalStart) -> Any:
    """Runs the command on the toy data with slices of a hundredth of a second."""

    def run(models: str, datasets: str = "toy", **more: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for model in models.split(","):
            given.update(toy.settings(model.partition(":")[0]))
        settings = {name: str(value) for name, value in {**given, **more.pop("settings", {})}.items()}
        for name in ("epochs", "item_path", "memory", "repeat", "checkpoint_dir"):
            settings.pop(name, None)
        more = {"seconds": "0.01", "repeats": "2", "threads": "1", **more}
        return benchmark(datasets, models, command_line=settings, results_dir=str(toy.results), start=start, **more)

    return run
