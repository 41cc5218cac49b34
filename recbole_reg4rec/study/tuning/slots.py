"""The trials of a study as numbered slots, so that any number of processes share them without a coordinator.

The study's trials are put into the storage as waiting ones beforehand, each with its slot. A process takes one by
turning it from waiting to running, which the storage lets only one process do. So no trial is run twice and there are
never more than asked for. What a process that died has left behind is marked lost and put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from recbole_reg4rec.study.tuning.plan import Plan
from recbole_reg4rec.study.tuning.storage import READY, alone, load

# How often a trial is begun whose processes die, before it counts as failed.
MOST_ATTEMPTS = 3
# What trials carry: their slot, how often they were begun, why they ended, and whether they are the default settings.
SLOT, ATTEMPT, LOST, FAILURE, DEFAULT = "slot", "attempt", "lost", "failure", "default"


@dataclass
class Slot:
    """What has become of one trial of the study: at most one of the trials is the finished one."""

    number: int
    finished: FrozenTrial | None = None
    running: list[FrozenTrial] = field(default_factory=list)
    waiting: list[FrozenTrial] = field(default_factory=list)
    lost: list[FrozenTrial] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether somebody could take it now."""
        return self.finished is None and not self.running and bool(self.waiting)

    @property
    def dropped(self) -> bool:
        """Whether its last process was lost and nobody has put it back."""
        return self.finished is None and not self.running and not self.waiting


def slots(trials: Iterable[FrozenTrial], number: int) -> list[Slot]:
    """The study's first ``number`` slots; trials that were added by another program belong to none."""
    table = [Slot(index) for index in range(number)]
    for trial in sorted(trials, key=lambda trial: trial.number):
        index = trial.user_attrs.get(SLOT)
        if not isinstance(index, int) or not 0 <= index < number:
            continue
        slot = table[index]
        if trial.state == TrialState.RUNNING:
            slot.running.append(trial)
        elif trial.state == TrialState.WAITING:
            slot.waiting.append(trial)
        elif trial.state == TrialState.FAIL and trial.user_attrs.get(LOST):
            slot.lost.append(trial)
        else:
            slot.finished = slot.finished or trial
    return table


def fill(plan: Plan, study: optuna.Study) -> None:
    """Adds the slots that are missing, the default settings first, and puts dropped ones back.

    Of two commands that do this at the same moment both may add a slot; only its first trial is ever taken.
    """
    table = slots(study.get_trials(deepcopy=False), plan.trials)
    for slot in table:
        if not slot.dropped:
            continue
        if slot.lost:
            put_back(study, slot.lost[-1], died=False)
            continue
        marks: dict[str, Any] = {SLOT: slot.number, ATTEMPT: 1}
        if plan.queue:
            study.enqueue_trial(plan.queue[slot.number], user_attrs=marks)
        elif slot.number == 0:
            study.enqueue_trial(plan.space.default(plan.base), user_attrs={**marks, DEFAULT: True})
        else:
            study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=marks))
    study.set_user_attr(READY, True)


def put_back(study: optuna.Study, trial: FrozenTrial, died: bool) -> None:
    """Adds a lost trial once more, with the settings that it had."""
    attempt = int(trial.user_attrs.get(ATTEMPT, 1)) + (1 if died else 0)
    kept = {name: value for name, value in trial.user_attrs.items() if name in (SLOT, DEFAULT)}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**kept, ATTEMPT: attempt},
            system_attrs=trial.system_attrs,
        )
    )


def take(plan: Plan, storage: BaseStorage) -> tuple[optuna.trial.Trial, int] | None:
    """A trial for this process alone and the storage's number of it; those that were begun before come first.

    Returns:
        None where none waits.
    """
    study = load(plan, storage)
    table = [slot for slot in slots(study.get_trials(deepcopy=False), plan.trials) if slot.open]
    for slot in sorted(table, key=lambda slot: (not slot.lost, slot.number)):
        identity = trial_id(plan, storage, slot.waiting[0])
        with suppress(RuntimeError), alone(plan.storage):  # an error: it is finished already
            if storage.set_trial_state_values(identity, TrialState.RUNNING):
                own = load(plan, storage, slot.number)
                own.get_trials(deepcopy=False)  # Optuna's cache knows no trial before it has read them
                return optuna.trial.Trial(own, identity), identity
    return None


def trial_id(plan: Plan, storage: BaseStorage, trial: FrozenTrial) -> int:
    """The storage's own number of a trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(plan.name), trial.number)


def give_up(plan: Plan, storage: BaseStorage, trial: FrozenTrial, died: bool) -> bool:
    """Ends a running trial whose process is gone, or is about to go, and puts it back.

    Args:
        plan, storage: of the study.
        trial: the running trial.
        died: its process died; a trial that this happens to too often counts as failed instead.

    Returns:
        whether this process ended it; another may have been quicker.
    """
    identity = trial_id(plan, storage, trial)
    attempt = int(trial.user_attrs.get(ATTEMPT, 1))
    again = not died or attempt < MOST_ATTEMPTS
    try:
        if again:
            storage.set_trial_user_attr(identity, LOST, True)
        else:
            storage.set_trial_user_attr(
                identity, FAILURE, f"its process died {attempt} times, perhaps for want of memory"
            )
        if not storage.set_trial_state_values(identity, TrialState.FAIL):
            return False
    except RuntimeError:  # finished in the meantime
        return False
    if again:
        put_back(load(plan, storage), trial, died)
    return True


def counts(table: Iterable[Slot]) -> Mapping[str, int]:
    """How many slots are complete, pruned, failed, running and waiting."""
    found = dict.fromkeys(("complete", "pruned", "failed", "running", "waiting"), 0)
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    for slot in table:
        if slot.finished is not None:
            found[names[slot.finished.state]] += 1
        else:
            found["running" if slot.running else "waiting"] += 1
    return found
