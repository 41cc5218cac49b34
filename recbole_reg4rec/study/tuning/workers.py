"""Worker processes: each runs trials one after another until none waits; the command's own process only watches."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.tuning.life import WORKER, Watch
from recbole_reg4rec.study.tuning.plan import Plan
from recbole_reg4rec.study.tuning.slots import FAILURE, Slot, counts, fill, give_up, slots, take
from recbole_reg4rec.study.tuning.storage import load, open_storage
from recbole_reg4rec.study.tuning.trials import run_trial

# A process is replaced after so many trials, so that nothing that libraries leave behind adds up.
_TRIALS_A_PROCESS = 20
# So many failures before the first success, or processes that die before they begin, end the study.
_HOPELESS = 5
_LOOK_SECONDS = 1.0
# How long a worker may take to put its trial back, or to end.
_LEAVE_SECONDS = 60


def work(plan: Plan, number: int, workers: int, deadline: float | None, parent: int | None = None) -> int:
    """Runs trials until none waits, the deadline is past, or it is time for a fresh process.

    Args:
        plan: of the study.
        number: of this worker among ``workers`` on this machine, from 0.
        workers: how many share the machine's cores and GPUs.
        deadline: `time.time` after which no trial begins.
        parent: process without which this one must not go on.

    Returns:
        trials run.
    """
    storage = open_storage(plan.storage)
    if "OMP_NUM_THREADS" not in os.environ and workers > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    machine = {"show_progress": "False", **_gpu(plan, number)}
    for done in range(_TRIALS_A_PROCESS):
        taken = take(plan, storage) if deadline is None or time.time() < deadline else None
        if taken is None:
            return done
        run_trial(plan, storage, *taken, machine, parent)
    return _TRIALS_A_PROCESS


def _gpu(plan: Plan, number: int) -> dict[str, str]:
    """Workers take the GPUs of ``gpu_id`` in turn."""
    ids = [part.strip() for part in str(plan.base["gpu_id"]).strip("[]() ").split(",") if part.strip()]
    return {"gpu_id": ids[number % len(ids)]} if len(ids) > 1 else {}


def _main(plan: Plan, number: int, workers: int, deadline: float | None, parent: int) -> None:
    """A worker process from start to end."""

    def stop(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    _log_to(Path(plan.output) / f"worker-{number}.log")
    try:
        work(plan, number, workers, deadline, parent)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        logging.getLogger().exception("worker %d ends", number)
        raise SystemExit(1) from None


def _log_to(path: Path) -> None:
    """Everything that is logged goes to a file: the terminal belongs to the progress display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    quiet_optuna(optuna.logging.WARNING)


def quiet_optuna(level: int = optuna.logging.ERROR) -> None:
    """Leaves what Optuna reports of every trial to this package's own display and log."""
    optuna.logging.disable_default_handler()
    optuna.logging.set_verbosity(level)
    optuna.logging.enable_propagation()


class Crew:
    """The worker processes of one command.

    Args:
        plan: of the study.
        workers: how many at a time.
        deadline: `time.time` after which no trial begins.
        show: called about once a second with the study's slots.
    """

    def __init__(self, plan: Plan, workers: int, deadline: float | None, show: Callable[[list[Slot]], None]) -> None:
        self._plan, self._workers, self._deadline, self._show = plan, workers, deadline, show
        self._storage = open_storage(plan.storage)
        self._study = load(plan, self._storage)
        self._watch = Watch()
        self._processes: dict[int, Any] = {}
        self._pids: set[int] = set()
        self._fruitless = 0

    def run(self) -> None:
        """Watches until every trial of the study has ended, on whatever machine, or the deadline is past.

        Raises:
            UserError: the first trials all failed, or the workers cannot start.
            KeyboardInterrupt: all workers have put their trials back.
        """
        try:
            begin = time.monotonic()
            while self._look():
                # A study of a thousand trials takes a while to read; watching must not cost what training needs.
                time.sleep(max(_LOOK_SECONDS, 10 * (time.monotonic() - begin)))
                begin = time.monotonic()
            for process in self._processes.values():
                process.join(_LEAVE_SECONDS)  # nothing waits any more, so they end by themselves
        finally:
            self._dismiss()

    def _look(self) -> bool:
        trials = self._study.get_trials(deepcopy=False)
        lost = self._watch.lost(trials)
        for trial in lost:
            # That a whole command was killed, or a machine, is not the trial's fault; that a worker alone was may be.
            give_up(self._plan, self._storage, trial, died=trial.user_attrs.get(WORKER, {}).get("pid") in self._pids)
        table = slots(self._study.get_trials(deepcopy=False) if lost else trials, self._plan.trials)
        self._show(table)
        _refuse_hopeless(self._plan, table)
        ended = [number for number, process in self._processes.items() if not process.is_alive()]
        for number in ended:
            process = self._processes.pop(number)
            self._fruitless = self._fruitless + 1 if process.exitcode not in (0, None) else 0
            process.close()
        if self._fruitless >= _HOPELESS:
            raise UserError(f"the workers end before their trials do; {self._plan.output}/worker-0.log says why")
        if all(slot.finished for slot in table):
            return False
        if self._deadline is not None and time.time() >= self._deadline:
            return bool(self._processes)
        if any(slot.dropped for slot in table) and not self._processes:
            fill(self._plan, self._study)
        missing = sum(slot.open for slot in table) - self._starting(table)
        for number in range(self._workers):
            if number not in self._processes and missing > 0:
                self._processes[number] = self._start(number)
                missing -= 1
        return True

    def _starting(self, table: list[Slot]) -> int:
        """Processes that have not taken a trial yet."""
        busy = {trial.user_attrs.get(WORKER, {}).get("pid") for slot in table for trial in slot.running}
        return sum(process.pid not in busy for process in self._processes.values())

    def _start(self, number: int) -> Any:
        arguments = (self._plan, number, self._workers, self._deadline, os.getpid())
        process = multiprocessing.get_context("spawn").Process(target=_main, args=arguments, daemon=False)
        # Ctrl-C reaches the whole group; the workers leave it to this process, which tells them to put trials back.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        self._pids.add(int(process.pid or 0))
        return process

    def _dismiss(self) -> None:
        for process in self._processes.values():
            if process.is_alive():
                process.terminate()
        for process in self._processes.values():
            process.join(_LEAVE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes.clear()


def _refuse_hopeless(plan: Plan, table: list[Slot]) -> None:
    found = counts(table)
    if found["failed"] < _HOPELESS or found["complete"] or found["pruned"]:
        return
    first: FrozenTrial = next(slot.finished for slot in table if slot.finished is not None)
    raise UserError(
        f"the first {found['failed']} trials all failed, the default settings among them where they were tried: "
        f"{first.user_attrs.get(FAILURE)}; mend this and give another --output or --name"
    )
