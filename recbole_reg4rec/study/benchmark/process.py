"""Workers as seen from the command: asked one at a time, ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import recbole_reg4rec
from recbole_reg4rec.errors import UserError

_WORKER = "recbole_reg4rec.study.benchmark.worker"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker(Protocol):
    """What answers requests, see `bench.Bench.answer`."""

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer.

        Raises:
            UserError: the worker's own sentence, or that it has ended.
        """

    def close(self) -> None:
        """Ends it; nothing happens the second time."""


# Makes a worker: its name, the folder to work in, and its number of threads.
Start = Callable[[str, Path, int], Worker]


class WorkerProcess:
    """A process of its own; what it prints goes to ``<room>/<name>.log``."""

    def __init__(self, name: str, room: Path, threads: int) -> None:
        room.mkdir(parents=True, exist_ok=True)
        self._name, self._log = name, room / f"{name.replace(':', '-')}.log"
        root = str(Path(recbole_reg4rec.__file__).resolve().parent.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=room,  # RecBole writes its own logs where it stands
                env={**os.environ, **dict.fromkeys(_THREADS, str(threads)), "PYTHONPATH": path},
                text=True,
                encoding="utf-8",
            )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See `Worker`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise UserError(f"{self._name} ended while it was to {request['do']}: {self._reason()}")
        return answer_or_raise(json.loads(line))

    def close(self) -> None:
        """See `Worker`."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _reason(self) -> str:
        code = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        if code < 0:
            return f"signal {-code}" + (", which is also what running out of memory looks like" if code == -9 else "")
        return f"{last} (exit code {code})"


def answer_or_raise(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer, unless it is a mistake of the user's.

    Raises:
        UserError: it is.
    """
    if "error" in answer:
        raise UserError(answer["error"])
    return answer
