"""Trials in this process, on the toy data."""

import weakref

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial

from recbole_reg4rec.study import job
from recbole_reg4rec.study.tuning import trials as module
from recbole_reg4rec.study.tuning.slots import DEFAULT, FAILURE, LOST, SLOT, fill, slots, take
from recbole_reg4rec.study.tuning.storage import begin_or_join, open_storage
from recbole_reg4rec.study.tuning.trials import COST, SAME_AS, SETTINGS, VALID, best_trial, checkpoint_file, run_trial
from recbole_reg4rec.study.tuning.workers import work

RATES = "search:\n  learning_rate: {float: [0.0001, 0.02], log: True}\n"


@pytest.fixture
def begin(plan):
    """A plan, its storage and its study, ready to take trials from."""

    def make(*arguments, **more):
        made = plan(*arguments, storage="a.journal", **more)
        storage = open_storage(made.storage)
        study, _ = begin_or_join(made, storage)
        fill(made, study)
        return made, storage, study

    return make


def finished(made, study):
    return [slot.finished for slot in slots(study.get_trials(), made.trials)]


def test_trials_end_with_their_validation_and_never_open_the_test_set(begin, monkeypatch, toy):
    made, _, study = begin(RATES, "SASRecWhole", 3, {"epochs": 2})
    evaluate, opened = job.SequenceTrainer.evaluate, []

    def watched(self, data, *arguments, **more):
        opened.append(data)
        return evaluate(self, data, *arguments, **more)

    monkeypatch.setattr(job.SequenceTrainer, "evaluate", watched)
    assembled, assemble = [], module.assemble
    monkeypatch.setattr(module, "assemble", lambda *given: assembled.append(assemble(*given)) or assembled[-1])
    assert work(made, 0, 1, None) == 3 and work(made, 0, 1, None) == 0
    for trial in finished(made, study):
        assert trial.state == TrialState.COMPLETE
        assert trial.value == max(trial.intermediate_values.values()) == trial.user_attrs[VALID]["ndcg@10"]
        assert trial.user_attrs[SETTINGS].keys() == {"learning_rate"}
        cost = trial.user_attrs[COST]
        assert cost["epochs"] == len(trial.intermediate_values) == 2 and cost["train_seconds"] > 0
    assert len(assembled) == 3 and len(opened) == 6
    valid, test = [job.data.valid for job in assembled], [job.data.test for job in assembled]
    assert all(any(data is part for part in valid) for data in opened)
    assert not any(data is part for part in test for data in opened)
    first = finished(made, study)[0]
    assert first.user_attrs[DEFAULT] and first.user_attrs[SETTINGS] == {"learning_rate": 0.001}


def test_a_trial_equals_a_run_with_its_settings(begin, toy, monkeypatch):
    made, _, study = begin(RATES, "REG4Rec", 2, {"epochs": 2})
    work(made, 0, 1, None)
    trial = finished(made, study)[1]
    record = toy.run("REG4Rec", epochs=2, **trial.user_attrs[SETTINGS])
    assert record["valid"] == trial.user_attrs[VALID]
    assert record["tokenizer"]["cached"] is True, "trials and runs share codes"
    assert [t.user_attrs[COST]["codes_cached"] for t in finished(made, study)] == [False, True]


def test_checkpoints_of_all_but_the_best_are_removed(begin):
    made, _, study = begin(RATES, "SASRecWhole", 4, {"epochs": 1})
    work(made, 0, 1, None)
    assert [path.name for path in made.checkpoints.iterdir()] == [f"trial-{best_trial(study).user_attrs[SLOT]}"]
    assert checkpoint_file(made, best_trial(study).user_attrs[SLOT]).is_file()


def test_a_trial_that_ends_as_the_best_while_another_tidies_keeps_its_checkpoint(begin, monkeypatch):
    made, _, study = begin(RATES, "SASRecWhole", 2, {"epochs": 1})
    files = [checkpoint_file(made, slot) for slot in (0, 1)]
    for file in files:
        file.parent.mkdir(parents=True)
    # What a process sees that looks at the trials, and then for the best of them.
    old = create_trial(value=0.1, user_attrs={SLOT: 0})
    running = create_trial(state=TrialState.RUNNING, user_attrs={SLOT: 1})
    looks = iter([[old, running], [old, create_trial(value=0.2, user_attrs={SLOT: 1})]])
    monkeypatch.setattr(study, "get_trials", lambda **more: next(looks))
    module.tidy(made, study)
    assert [file.parent.is_dir() for file in files] == [False, True]


def test_failures_are_recorded_and_the_study_goes_on(begin, monkeypatch):
    made, _, study = begin(
        "search:\n  n_heads: {choice: [3, 2]}\n  learning_rate: {choice: [0.001, 1.0e+36]}\n",
        "SASRecWhole",
        4,
        {"epochs": 1},
        sampler="grid",
    )
    train, seen = module.train, []

    def starved(job, **more):
        seen.append(job)
        if len(seen) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB\nand more")
        return train(job, **more)

    monkeypatch.setattr(module, "train", starved)
    assert work(made, 0, 1, None) == 4
    heads, more_heads, memory, diverged = finished(made, study)
    assert {trial.state for trial in finished(made, study)} == {TrialState.FAIL}
    assert "n_heads" in heads.user_attrs[FAILURE] and "n_heads" in more_heads.user_attrs[FAILURE]
    assert memory.user_attrs[FAILURE] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 TiB"
    assert "learning_rate" in diverged.user_attrs[FAILURE]
    assert LOST not in heads.user_attrs and not list(made.checkpoints.glob("*/*.pth"))
    assert best_trial(study) is None


def test_hopeless_trials_are_pruned(begin, monkeypatch):
    made, storage, study = begin(RATES, "SASRecWhole", 7, {"epochs": 4})
    for slot in range(6):
        study.add_trial(
            optuna.trial.create_trial(
                value=0.9, intermediate_values={step: 0.9 for step in range(4)}, user_attrs={SLOT: slot}
            )
        )
    work(made, 0, 1, None)
    trial = finished(made, study)[6]
    assert trial.state == TrialState.PRUNED and len(trial.intermediate_values) == 3
    assert trial.user_attrs[COST]["epochs"] == 3 and VALID not in trial.user_attrs
    assert not checkpoint_file(made, 6).parent.exists()


def test_an_interrupted_trial_goes_on_behind_its_last_epoch(begin, monkeypatch):
    made, storage, study = begin(RATES, "SASRecWhole", 1, {"epochs": 4})
    train_epoch, epochs = job.SequenceTrainer._train_epoch, []

    def interrupted(self, data, epoch, **more):
        epochs.append(epoch)
        if epochs == [0, 1, 2]:
            raise KeyboardInterrupt
        return train_epoch(self, data, epoch, **more)

    monkeypatch.setattr(job.SequenceTrainer, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work(made, 0, 1, None)
    assert study.get_trials()[0].user_attrs[LOST]
    work(made, 0, 1, None)
    assert epochs == [0, 1, 2, 2, 3]
    (trial,) = finished(made, study)
    assert sorted(trial.intermediate_values) == [0, 1, 2, 3] and trial.user_attrs[DEFAULT]
    whole = begin(RATES, "SASRecWhole", 1, {"epochs": 4}, name="whole", output="whole")
    work(whole[0], 0, 1, None)
    assert finished(whole[0], whole[2])[0].intermediate_values == trial.intermediate_values


def test_the_same_settings_are_trained_once(begin, monkeypatch):
    made, _, study = begin("search:\n  memory_window: {choice: [3, 20]}\n", trials=5)
    jobs, assemble = [], module.assemble
    monkeypatch.setattr(module, "assemble", lambda *given: jobs.append(given) or assemble(*given))
    work(made, 0, 1, None)
    done = finished(made, study)
    assert len(jobs) == 2 and {trial.state for trial in done} == {TrialState.COMPLETE}
    assert {trial.user_attrs[SETTINGS]["memory_window"]: trial.value for trial in done}.keys() == {3, 20}
    twins = [trial for trial in done if SAME_AS in trial.user_attrs]
    assert len(twins) == 3 and SAME_AS not in best_trial(study).user_attrs
    for twin in twins:
        original = next(trial for trial in done if trial.number == twin.user_attrs[SAME_AS])
        assert twin.value == original.value and twin.user_attrs[SETTINGS] == original.user_attrs[SETTINGS]


def test_two_objectives(begin):
    made, _, study = begin(RATES, "SASRecWhole", 3, {"epochs": 1}, objective="Recall@5,seconds", pruner="median")
    assert made.pruner == "none"
    work(made, 0, 1, None)
    for trial in finished(made, study):
        recall, seconds = trial.values
        assert recall == trial.user_attrs[VALID]["recall@5"] and seconds > 0 and not trial.intermediate_values
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]


def test_a_metric_where_less_is_better(begin):
    made, _, study = begin(trials=1, objective="AveragePopularity@5", settings={"metrics": "[AveragePopularity]"})
    assert made.directions == ["minimize"]
    work(made, 0, 1, None)
    assert finished(made, study)[0].value > 0


def test_a_trial_that_another_process_has_ended_is_let_go(begin, monkeypatch):
    made, storage, study = begin(RATES, "SASRecWhole", 1, {"epochs": 1})
    trial, identity = take(made, storage)
    train = module.train

    def ended(job, **more):
        storage.set_trial_state_values(identity, TrialState.FAIL)
        return train(job, **more)

    monkeypatch.setattr(module, "train", ended)
    run_trial(made, storage, trial, identity)
    assert study.get_trials()[0].state == TrialState.FAIL


def test_a_resumed_study_draws_what_an_uninterrupted_one_would(begin, monkeypatch):
    def instead(plan, trial, machine):
        values = plan.space.suggest(trial, plan.base, defaults=bool(trial.user_attrs.get(DEFAULT)))
        trial.set_user_attr(SETTINGS, values)
        return [-((values["memory_decay"] - 1.3) ** 2)]

    monkeypatch.setattr(module, "_train", instead)

    def settings(name, *parts):
        for count in parts:
            made, _, study = begin(trials=count, name=name, output=name)
            work(made, 0, 1, None)
        return [trial.user_attrs[SETTINGS] for trial in finished(made, study)]

    assert settings("whole", 14) == settings("parts", 5, 11, 14)


def test_memory_of_trials_is_given_back(begin, monkeypatch):
    made, _, _ = begin(RATES, "SASRecWhole", 3, {"epochs": 1})
    known, assemble = [], module.assemble

    def watched(*given):
        assert [trainer() for trainer in known] == [None] * len(known)
        job = assemble(*given)
        known.append(weakref.ref(job.trainer))
        return job

    monkeypatch.setattr(module, "assemble", watched)
    work(made, 0, 1, None)
    assert len(known) == 3
