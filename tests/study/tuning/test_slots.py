"""Sharing a study's trials: storage, slots, signs of life. No model is trained here."""

import os
import subprocess
import sys
import threading
import time

import optuna
import pytest
from optuna.trial import TrialState

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.tuning import life
from recbole_reg4rec.study.tuning.slots import (
    ATTEMPT,
    DEFAULT,
    FAILURE,
    LOST,
    MOST_ATTEMPTS,
    SLOT,
    counts,
    fill,
    give_up,
    put_back,
    slots,
    take,
)
from recbole_reg4rec.study.tuning.storage import begin_or_join, load, open_storage, shown, storage_url


@pytest.fixture
def begun(request, plan, tmp_path):
    """A plan, its storage, and its study with all slots filled; SQLite where a test asks for it, else a journal."""
    more = {"storage": str(tmp_path / "shared.journal")} if getattr(request, "param", "") != "sqlite" else {}
    made = plan(trials=5, **more)
    storage = open_storage(made.storage)
    study, began = begin_or_join(made, storage)
    assert began
    fill(made, study)
    return made, storage, study


def table(made, study):
    return slots(study.get_trials(deepcopy=False), made.trials)


both = pytest.mark.parametrize("begun", ["sqlite", "journal"], indirect=True)


@both
def test_slots_are_filled_once_the_default_first(begun):
    made, storage, study = begun
    again, began = begin_or_join(made, storage)
    assert not began
    fill(made, again)
    trials = study.get_trials()
    assert [trial.user_attrs[SLOT] for trial in trials] == [0, 1, 2, 3, 4]
    assert [trial.user_attrs.get(DEFAULT, False) for trial in trials] == [True] + [False] * 4
    trial, _ = take(made, storage)
    assert made.space.suggest(trial, made.base, defaults=True) == {
        "memory_window": made.base["memory_window"],
        "memory_decay": made.base["memory_decay"],
    }


def test_more_trials_are_added_and_fewer_asked_for_are_enough(begun, plan):
    made, storage, study = begun
    storage_text = made.storage
    longer = plan(trials=7, storage=storage_text)
    fill(longer, begin_or_join(longer, storage)[0])
    assert len(study.get_trials()) == 7
    shorter = plan(trials=2, storage=storage_text)
    assert take(shorter, storage) and take(shorter, storage) and take(shorter, storage) is None


@both
def test_workers_at_the_same_moment_take_every_trial_once(begun):
    made, _, study = begun
    taken, start = [], threading.Barrier(4)

    def worker():
        storage = open_storage(made.storage)
        start.wait()
        while (found := take(made, storage)) is not None:
            taken.append(found[0].number)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [0, 1, 2, 3, 4]
    assert {trial.state for trial in study.get_trials()} == {TrialState.RUNNING}


def test_a_slot_that_two_commands_added_is_run_once(begun):
    made, storage, study = begun
    for slot in range(made.trials):
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, user_attrs={SLOT: slot, ATTEMPT: 1}))
    seen = []
    while (found := take(made, storage)) is not None:
        seen.append(found[0].user_attrs[SLOT])
        study.tell(found[0].number, state=TrialState.FAIL)
    assert seen == [0, 1, 2, 3, 4]


@both
def test_an_interrupted_trial_comes_first_again_with_its_settings(begun):
    made, storage, study = begun
    take(made, storage)
    trial, identity = take(made, storage)
    values = made.space.suggest(trial, made.base)
    assert give_up(made, storage, storage.get_trial(identity), died=False)
    found = table(made, study)[1]
    assert found.lost and found.finished is None and found.open
    again, _ = take(made, storage)
    assert again.user_attrs[SLOT] == 1 and again.user_attrs[ATTEMPT] == 1 and LOST not in again.user_attrs
    assert made.space.suggest(again, made.base) == values
    assert not give_up(made, storage, storage.get_trial(identity), died=False), "once only"
    assert counts(table(made, study)) == {"complete": 0, "pruned": 0, "failed": 0, "running": 2, "waiting": 3}


def test_a_default_trial_that_is_put_back_stays_the_default(begun):
    made, storage, study = begun
    _, identity = take(made, storage)  # killed before it proposed anything
    give_up(made, storage, storage.get_trial(identity), died=True)
    again, _ = take(made, storage)
    assert again.user_attrs[DEFAULT] is True
    assert made.space.suggest(again, made.base, defaults=True) == made.space.default(made.base)


def test_a_trial_whose_processes_die_again_and_again_fails(begun):
    made, storage, study = begun
    for attempt in range(1, MOST_ATTEMPTS + 1):
        trial, identity = take(made, storage)
        assert (trial.user_attrs[SLOT], trial.user_attrs[ATTEMPT]) == (0, attempt)
        give_up(made, storage, storage.get_trial(identity), died=True)
    found = table(made, study)[0]
    assert found.finished.state == TrialState.FAIL and "memory" in found.finished.user_attrs[FAILURE]
    assert take(made, storage)[0].user_attrs[SLOT] == 1


def test_what_was_lost_between_two_steps_is_repaired(begun):
    made, storage, study = begun
    _, identity = take(made, storage)
    storage.set_trial_user_attr(identity, LOST, True)
    storage.set_trial_state_values(identity, TrialState.FAIL)  # and killed before it was put back
    assert table(made, study)[0].dropped
    fill(made, study)
    assert take(made, storage)[0].user_attrs[SLOT] == 0


def test_trials_of_other_programs_belong_to_no_slot(begun):
    made, _, study = begun
    study.add_trial(optuna.trial.create_trial(value=0.5))
    assert all(slot.finished is None for slot in table(made, study))


def test_put_back_keeps_what_was_proposed(begun):
    made, storage, study = begun
    take(made, storage)
    trial, identity = take(made, storage)
    made.space.suggest(trial, made.base)
    put_back(study, storage.get_trial(identity), died=True)
    copy = study.get_trials()[-1]
    assert copy.params == trial.params and copy.user_attrs == {SLOT: 1, ATTEMPT: 2}


# ---- joining


def test_a_study_about_something_else_is_refused_naming_what(begun, plan, tuner):
    made, storage, _ = begun
    for other, said in (
        (plan(storage=made.storage, objective="Recall@5"), "objectives"),
        (plan("search:\n  memory_window: {int: [1, 9]}\n", storage=made.storage), "memory"),
        (plan(storage=made.storage, settings={"MAX_ITEM_LIST_LENGTH": 5}), "MAX_ITEM_LIST_LENGTH = 8.*= 5"),
        (plan(storage=made.storage, settings={"seed": 3}), "seed = 2020.*= 3"),
    ):
        with pytest.raises(UserError, match=said):
            begin_or_join(other, storage)
    rates = "search:\n  learning_rate: {choice: [0.01, 0.02]}\n"
    short, long = (plan(rates, "SASRecWhole", settings={"epochs": epochs}).contract() for epochs in (1, 2))
    assert (short["settings"].pop("epochs"), long["settings"].pop("epochs")) == (1, 2) and short == long
    same = plan(trials=50, storage=made.storage, sampler="random", pruner="none", settings={"show_progress": True})
    begin_or_join(same, storage)


def test_of_many_that_start_together_one_begins(plan):
    made = plan(trials=3)
    storage = open_storage(made.storage)
    began, start = [], threading.Barrier(4)

    def command():
        start.wait()
        study, first = begin_or_join(made, storage)
        began.append(first)
        fill(made, study)

    threads = [threading.Thread(target=command) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(began) == [False, False, False, True]
    assert len(load(made, storage).get_trials()) == 3


def test_storages_by_name(tmp_path):
    assert storage_url(None, tmp_path) == f"sqlite:///{tmp_path}/study.db"
    assert storage_url(str(tmp_path / "a.db"), tmp_path) == f"sqlite:///{tmp_path}/a.db"
    assert storage_url("journal:/a/b", tmp_path) == "journal:/a/b"
    assert storage_url("/a/b.journal", tmp_path) == "journal:/a/b.journal"
    url = "postgresql+psycopg://me:secret@host:5432/db"
    assert storage_url(url, tmp_path) == url
    assert "secret" not in shown(url) and shown(url).startswith("postgresql+psycopg://me:***@host:5432/db")
    with pytest.raises(UserError, match="--storage is `study`"):
        storage_url("study", tmp_path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://me:secret@host/db", "no database URL"),
        ("postgresql+nodriver://me:secret@host/db", "no database URL"),
        ("oracle+oracledb://me:secret@host/db", "needs the package oracledb"),
    ],
)
def test_storages_that_cannot_be_opened_are_told_without_the_password(url, said):
    with pytest.raises(UserError, match=said) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


# ---- signs of life


def running(study):
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]


def test_a_process_of_this_machine_that_ended_is_noticed_at_once(begun):
    made, storage, study = begun
    _, mine = take(made, storage)
    _, other = take(made, storage)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    storage.set_trial_user_attr(mine, life.WORKER, life.identity())
    storage.set_trial_user_attr(other, life.WORKER, {**life.identity(), "pid": ended.pid})
    assert [trial.user_attrs[SLOT] for trial in life.Watch().lost(running(study))] == [1]
    # The number is in use again, by a process that began later.
    storage.set_trial_user_attr(mine, life.WORKER, {**life.identity(), "began": 1.0})
    assert len(life.Watch().lost(running(study))) == 2


def test_a_process_elsewhere_is_gone_when_its_sign_stops(begun):
    made, storage, study = begun
    _, identity = take(made, storage)
    storage.set_trial_user_attr(identity, life.WORKER, {"host": "elsewhere", "pid": 1, "began": 1.0})
    watch = life.Watch(grace=0.3)
    for beat in range(3):
        storage.set_trial_user_attr(identity, life.BEAT, beat)
        assert watch.lost(running(study)) == []
        time.sleep(0.2)
    time.sleep(0.2)
    assert [trial.user_attrs[SLOT] for trial in watch.lost(running(study))] == [0]


def test_the_heart_beats_and_stops(begun):
    made, storage, study = begun
    _, identity = take(made, storage)
    with life.Heartbeat(storage, identity, None, every=0.05):
        deadline = time.monotonic() + 20
        while storage.get_trial(identity).user_attrs.get(life.BEAT, 0) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    marks = storage.get_trial(identity).user_attrs
    assert marks[life.BEAT] >= 2 and marks[life.WORKER]["pid"] == os.getpid()
    time.sleep(0.2)
    assert storage.get_trial(identity).user_attrs[life.BEAT] == marks[life.BEAT]


def test_commands_that_find_an_empty_database_together_all_open_it(tmp_path):
    opened, start = [], threading.Barrier(3)

    def command():
        start.wait()
        opened.append(open_storage(f"sqlite:///{tmp_path / 'new.db'}"))

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 3
    assert optuna.create_study(storage=opened[0], study_name="a").study_name == "a"
