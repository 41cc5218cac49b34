"""Signs of life: who runs a trial, and whose process is gone."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import psutil
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

WORKER, BEAT = "worker", "beat"
# Seconds between two signs of life, and without one until a process on another machine counts as gone (our choice).
BEAT_SECONDS, GRACE_SECONDS = 20.0, 180.0


def identity() -> dict[str, Any]:
    """This process: machine, number, and when it began, since numbers are used again."""
    return {"host": host(), "pid": os.getpid(), "began": psutil.Process().create_time()}


def host() -> str:
    """This machine, or this container, which counts processes of its own."""
    name = platform.node()
    with suppress(OSError):
        return f"{name}/{os.readlink('/proc/self/ns/pid')}"
    return name


def gone(worker: Any) -> bool | None:
    """Whether the process behind a trial has ended; None where this machine cannot know."""
    if not isinstance(worker, dict) or worker.get("host") != host():
        return None
    try:
        process = psutil.Process(int(worker["pid"]))
        return abs(process.create_time() - float(worker["began"])) > 1.0 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return None


class Watch:
    """Finds running trials whose process is gone.

    On this machine the process itself is looked for. Elsewhere its sign of life has to change; how long it has not is
    measured by this process's own clock, so that clocks need not agree.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._seen: dict[int, tuple[Any, float]] = {}

    def lost(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the trials that nobody runs any more."""
        found, now = [], time.monotonic()
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                self._seen.pop(trial.number, None)
                continue
            ended = gone(trial.user_attrs.get(WORKER))
            sign = trial.user_attrs.get(BEAT)
            if trial.number not in self._seen or self._seen[trial.number][0] != sign:
                self._seen[trial.number] = (sign, now)
            silent = now - self._seen[trial.number][1] > self._grace
            if ended or (ended is None and silent):
                found.append(trial)
        return found


class Heartbeat:
    """While a trial runs, writes a sign of life into the storage, and ends this process when its parent has died."""

    def __init__(self, storage: BaseStorage, trial_id: int, parent: int | None, every: float = BEAT_SECONDS) -> None:
        self._storage, self._trial_id, self._parent, self._every = storage, trial_id, parent, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._storage.set_trial_user_attr(self._trial_id, WORKER, identity())
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        beat, due = 0, 0.0
        while not self._stop.wait(min(1.0, self._every)):
            if self._parent is not None and os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if time.monotonic() >= due:
                beat, due = beat + 1, time.monotonic() + self._every
                # A storage that does not answer now is no reason to lose the trial.
                with suppress(Exception):
                    self._storage.set_trial_user_attr(self._trial_id, BEAT, beat)
