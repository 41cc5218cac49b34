"""Starts workers and waits for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import recbole_reg4rec
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.record import unwritable

Launch = Callable[[Mapping[str, Any], Path, Callable[[], bool]], "str | None"]
_WORKER = "recbole_reg4rec.study.leaderboard.worker"


def run_job(job: Mapping[str, Any], log: Path, tick: Callable[[], bool] = lambda: True) -> str | None:
    """Does a job in a process of its own, its output in ``log``.

    Args:
        job: see `worker.do`.
        log: file for everything that the job prints, overwritten.
        tick: called about once a second; False ends the job.

    Returns:
        None when it went well, otherwise why not, in one sentence.

    Raises:
        UserError: the log cannot be written.
        KeyboardInterrupt: passed on after the worker has ended.
    """
    root = str(Path(recbole_reg4rec.__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = open(log, "wb")  # noqa: SIM115 - closed below, where the worker has its own
    except OSError as error:
        raise unwritable(log.parent, error) from error
    with output:
        worker = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert worker.stdin is not None
            worker.stdin.write((json.dumps(job) + "\n").encode())
            worker.stdin.flush()
            while worker.poll() is None:
                if not tick():
                    return "stopped, because another process has taken it over"
                _wait(worker, 1.0)
        except BrokenPipeError:
            worker.wait()
        finally:
            _end(worker)
    return None if worker.returncode == 0 else _reason(worker.returncode, log)


def inspect_data(job: Mapping[str, Any], log: Path, launch: Launch = run_job) -> dict[str, Any]:
    """Name of the data and their split, found out in a process of its own.

    Raises:
        UserError: the data set cannot be used; the worker's own sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        reason = launch({**job, "kind": "data", "answer": str(answer)}, log, lambda: True)
        if reason is not None:
            raise UserError(f"data set {job['dataset']} cannot be used: {reason}")
        return json.loads(answer.read_text(encoding="utf-8"))


def _wait(worker: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Closing its input ends the worker by itself; a stuck one is killed."""
    assert worker.stdin is not None
    with contextlib.suppress(OSError):
        worker.stdin.close()
    _wait(worker, 30.0)
    if worker.poll() is None:
        worker.kill()
        worker.wait()


def _reason(code: int, log: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in {item.value for item in signal.Signals} else str(-code)
        hint = ", which is also what running out of memory looks like" if name == "SIGKILL" else ""
        return f"ended by signal {name}{hint} (log: {log})"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "it printed nothing"
    return last.removeprefix("error: ") if last.startswith("error: ") else f"{last} (exit code {code}, log: {log})"
