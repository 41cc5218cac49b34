"""One trial: its settings, its training with a sign of life and pruning, its values. The test part is never touched."""

from __future__ import annotations

import gc
import json
import math
import shutil
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from logging import getLogger
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import TrialPruned
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.job import Job, assemble, train
from recbole_reg4rec.study.record import peak_gpu_memory_mb, peak_memory_mb
from recbole_reg4rec.study.tuning.life import BEAT_SECONDS, Heartbeat
from recbole_reg4rec.study.tuning.plan import SECONDS, Plan
from recbole_reg4rec.study.tuning.slots import DEFAULT, FAILURE, SLOT, give_up
from recbole_reg4rec.trainer.checkpoint import load_checkpoint

# What a trial carries: its settings, metrics on validation, cost, and the trial whose result it shares.
SETTINGS, VALID, COST, SAME_AS = "settings", "valid", "cost", "same_as"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def run_trial(
    plan: Plan,
    storage: BaseStorage,
    trial: optuna.trial.Trial,
    identity: int,
    machine: dict[str, str] | None = None,
    parent: int | None = None,
    every: float = BEAT_SECONDS,
) -> None:
    """Runs one trial that this process has taken, and writes its end into the storage.

    Whatever goes wrong in it is recorded as the trial's failure. An interruption puts the trial back for another
    process, with its settings and its checkpoint, and goes on upwards.

    Args:
        plan, storage: of the study.
        trial, identity: from `slots.take`.
        machine: settings of this process alone, e.g. which GPU.
        parent: process without which this one must not go on.
        every: seconds between signs of life.
    """
    study = trial.study
    try:
        with Heartbeat(storage, identity, parent, every):
            try:
                values = _train(plan, trial, machine or {})
            except TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
            except Exception as error:
                # Including a mistake of this package's: the others trials may do without what failed here.
                getLogger().error("trial %d failed\n%s", trial.number, traceback.format_exc())
                trial.set_user_attr(FAILURE, _reason(error))
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, values)
    except KeyboardInterrupt:
        give_up(plan, storage, storage.get_trial(identity), died=False)
        raise
    except (RuntimeError, ValueError):
        # Another machine has taken this process for dead and ended the trial, which is in the queue again.
        getLogger().warning("trial %d was ended by another process", trial.number, exc_info=True)
    finally:
        _free_memory()
    tidy(plan, study)


def _train(plan: Plan, trial: optuna.trial.Trial, machine: dict[str, str]) -> list[float]:
    values = plan.space.suggest(trial, plan.base, defaults=bool(trial.user_attrs.get(DEFAULT)))
    trial.set_user_attr(SETTINGS, values)
    twin = _twin(trial, values)
    if twin is not None:
        return _take_over(trial, twin)
    config = plan.configure(values, **machine)
    job = assemble(config, checkpoint_file(plan, int(trial.user_attrs[SLOT])))
    steps = count()
    for entry in _earlier(job):
        if "valid_score" in entry:
            _report(plan, trial, next(steps), entry["valid_score"])
    # Judged as the settings weigh the evidence; what is fitted on validation behind that waits for the best trial.
    train(job, resume=True, callback_fn=_callback(plan, trial, job, steps), weigh=False)
    return _result(plan, trial, job)


def checkpoint_file(plan: Plan, slot: int) -> Path:
    """The best model of a trial; the state of its training lies beside it."""
    return plan.checkpoints / f"trial-{slot}" / "best.pth"


def _earlier(job: Job) -> list[dict[str, Any]]:
    """Epochs of the process that was lost while it ran this trial; `train` goes on behind them."""
    if not job.last.is_file():
        return []
    try:
        state = load_checkpoint(job.last, job.config["model"], job.settings)
        if state["fingerprint"] == job.trainer.fingerprint and "optimizer" in state:
            return list(state["epochs_log"])
    except UserError as error:
        getLogger().warning("%s", error)
    shutil.rmtree(job.last.parent)  # of another study in the same folder
    return []


def _callback(plan: Plan, trial: optuna.trial.Trial, job: Job, steps: Iterator[int]) -> Callable[[int, float], None]:
    """Reports every validation and prunes. Steps are counted here: stages of training form one curve."""

    def after_validation(epoch: int, score: float) -> None:
        _report(plan, trial, next(steps), score)
        if len(plan.objectives) == 1 and trial.should_prune():
            _write_cost(trial, job)
            raise TrialPruned

    return after_validation


def _report(plan: Plan, trial: optuna.trial.Trial, step: int, score: float) -> None:
    if not math.isfinite(score):
        raise UserError(f"the validation metric became {score}; lower learning_rate")
    if len(plan.objectives) == 1:  # Optuna has no curve of two objectives
        trial.report(float(score), step)


def _result(plan: Plan, trial: optuna.trial.Trial, job: Job) -> list[float]:
    trainer = job.trainer
    if job.data.valid is None:
        raise UserError("there is no validation part to judge a trial by; let eval_args keep one")
    valid = trainer.best_valid_result
    if valid is None:  # nothing to train, or no epoch was validated
        valid = trainer.evaluate(job.data.valid, load_best_model=False)
    trial.set_user_attr(VALID, {name: float(value) for name, value in valid.items()})
    _write_cost(trial, job)
    by_name = {name.lower(): value for name, value in valid.items()}
    found = [trainer.train_seconds if name == SECONDS else by_name[name.lower()] for name in plan.objectives]
    if not all(map(math.isfinite, found)):
        raise UserError(f"the trial ended with {found}; lower learning_rate")
    return found


def _write_cost(trial: optuna.trial.Trial, job: Job) -> None:
    trainer = job.trainer
    trial.set_user_attr(
        COST,
        {
            "epochs": len(trainer.epochs_log),
            "train_seconds": round(trainer.train_seconds, 3),
            "tokenizer_seconds": round(job.tokens.seconds, 3) if job.tokens else 0.0,
            "codes_cached": job.tokens.codes.cached if job.tokens else None,
            "parameters": sum(p.numel() for p in job.recommender.parameters() if p.requires_grad),
            "peak_memory_mb": peak_memory_mb(),
            "peak_gpu_memory_mb": peak_gpu_memory_mb(),
        },
    )


def _twin(trial: optuna.trial.Trial, values: dict[str, Any]) -> FrozenTrial | None:
    """An earlier trial of the same settings: training again would give the same."""
    wanted = json.dumps(values, sort_keys=True)
    for other in trial.study.get_trials(deepcopy=False, states=_FINISHED):
        known = other.user_attrs.get(SETTINGS)
        if known is not None and SAME_AS not in other.user_attrs and json.dumps(known, sort_keys=True) == wanted:
            return other
    return None


def _take_over(trial: optuna.trial.Trial, twin: FrozenTrial) -> list[float]:
    trial.set_user_attr(SAME_AS, twin.number)
    for name in (VALID, COST):
        if name in twin.user_attrs:
            trial.set_user_attr(name, twin.user_attrs[name])
    if len(trial.study.directions) == 1:
        for step, score in sorted(twin.intermediate_values.items()):
            trial.report(score, step)
    if twin.state == TrialState.PRUNED:
        raise TrialPruned
    return list(twin.values)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The trial with the best first objective, the earliest of equals; None where none is complete."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1.0 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1.0
    own = [trial for trial in done if SLOT in trial.user_attrs and SAME_AS not in trial.user_attrs]
    return min(own, key=lambda trial: (sign * trial.values[0], trial.number), default=None)


def tidy(plan: Plan, study: optuna.Study) -> None:
    """Removes the checkpoints of finished trials that are not the best one."""
    # The best one last: a trial that ends in between, and is the best, was still to come when the others were read.
    trials = [trial for trial in study.get_trials(deepcopy=False) if SLOT in trial.user_attrs]
    best = best_trial(study)
    # A trial that is still to come may go on from its checkpoint.
    keep = {trial.user_attrs[SLOT] for trial in trials if not trial.state.is_finished()}
    keep |= {best.user_attrs[SLOT]} if best else set()
    for slot in {trial.user_attrs[SLOT] for trial in trials} - keep:
        shutil.rmtree(checkpoint_file(plan, slot).parent, ignore_errors=True)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}"


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
