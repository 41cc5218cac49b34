"""The `tune` command: what it refuses, what it leaves, how it survives."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from recbole_reg4rec import cli
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.tuning import command
from recbole_reg4rec.study.tuning.slots import DEFAULT, LOST, SLOT, slots
from recbole_reg4rec.study.tuning.workers import work
from recbole_reg4rec.trainer.trainer import SequenceTrainer

ROOT = Path(__file__).resolve().parents[3]
SMALL = "search:\n  memory_window: {int: [2, 30]}\n  memory_recency: {float: [0.1, 1.0]}\n"


class Here:
    """Runs the workers' trials in this process, one worker after another."""

    def __init__(self, plan, workers, deadline, show):
        self.plan, self.deadline, self.show = plan, deadline, show

    def run(self):
        storage = command.open_storage(self.plan.storage)
        study = command.begin_or_join(self.plan, storage)[0]
        self.show(slots(study.get_trials(), self.plan.trials))
        while work(self.plan, 0, 1, self.deadline):
            pass
        self.show(slots(study.get_trials(), self.plan.trials))


@pytest.fixture
def tune(tuner, monkeypatch):
    """Runs the command in this process; returns its record and its output folder."""
    monkeypatch.setattr(command, "Crew", Here)

    def make(space=SMALL, model="ItemMemory", settings=None, files=None, **arguments):
        given = {**tuner.command_line(model, {"epochs": 0} if model == "ItemMemory" else {}), **(settings or {})}
        if space == "nowhere.yaml":
            arguments["space"] = space
        elif space is not None:
            arguments["space"] = tuner.file(space)
            given = {name: value for name, value in given.items() if f"{name}:" not in space}
        output = arguments.setdefault("output", str(tuner.folder / "out"))
        record = command.tune(model, "toy", files, given, str(tuner.folder / "results"), **arguments)
        return record, Path(output)

    return make


def test_everything_is_left_behind_and_the_best_settings_reproduce(tune, toy, capsys):
    record, output = tune(trials="5")
    assert {path.name for path in output.iterdir()} == {
        *("study.db", "study.db.lock", "best.yaml", "trials.csv", "study.html", "study.json", "checkpoints")
    }
    assert json.loads((output / "study.json").read_text())["best"] == json.loads(json.dumps(record["best"]))
    assert (record["complete"], record["pruned"], record["failed"], record["waiting"]) == (5, 0, 0, 0)
    rows = list(csv.DictReader((output / "trials.csv").open()))
    assert [row["trial"] for row in rows] == list("01234") and rows[0]["default"] == "True"
    assert rows[0]["setting memory_window"] == "20", "the default settings are the first trial"
    best = max(rows, key=lambda row: float(row["NDCG@10"]))
    assert float(best["NDCG@10"]) == record["best"]["NDCG@10"] >= record["default"]["NDCG@10"]
    assert record["gain_on_validation"] == record["best"]["NDCG@10"] - record["default"]["NDCG@10"]
    settings = yaml.safe_load((output / "best.yaml").read_text())
    assert settings["memory_recency"] == record["best"]["settings"]["memory_recency"]
    assert "data_path" not in settings and settings["epochs"] == 0 and settings["topk"] == [1, 5, 10]
    assert str(output) not in (output / "study.json").read_text(), "records name no places"
    # What the user runs with that file is the best trial, and what the record says of the test set.
    arguments = ["--model=ItemMemory", "--dataset=toy", f"--config_files={output / 'best.yaml'}", "--use_gpu=False"]
    folder = toy.folder
    arguments += [f"--data_path={folder / 'data'}", f"--checkpoint_dir={folder / 's2'}", "--show_progress=False"]
    assert cli.main([*arguments, f"--results_dir={folder / 'r2'}", "--state=WARNING"]) == 0
    (path,) = (folder / "r2" / "runs").glob("*.json")
    again = json.loads(path.read_text())
    assert again["valid"] == record["best"]["valid"] == record["test"]["valid"]
    assert again["test"] == record["test"]["test"]
    page = (output / "study.html").read_text(encoding="utf-8")
    for title in ("History", "Importance", "Slices", "Parallel coordinates", "Timeline"):
        assert f"<h2>{title}" in page
    assert page.count("plotly-graph-div") >= 4 and "<script src=" not in page
    printed = capsys.readouterr().out
    assert "trial 0 (default settings): NDCG@10" in printed and "left" in printed and "opened once" in printed


def test_the_test_set_is_opened_once_however_often_the_command_is_given(tune, toy):
    first, _ = tune(trials="2")
    assert len(toy.records()) == 1
    second, _ = tune(trials="2")
    assert second["test"] == first["test"] and len(toy.records()) == 1


def test_more_trials_later_go_on_with_the_study(tune):
    tune(trials="2")
    record, output = tune(trials="4")
    assert record["complete"] == 4 and len(list(csv.DictReader((output / "trials.csv").open()))) == 4


def test_two_objectives_leave_a_front(tune, capsys):
    record, output = tune(
        trials="4", objective="NDCG@10,AveragePopularity@1", settings={"metrics": "[NDCG, AveragePopularity]"}
    )
    front = record["pareto"]
    assert front and all((output / f"pareto-{entry['trial']}.yaml").is_file() for entry in front)
    for one in front:
        for row in record["trials"]:
            better = row["NDCG@10"] > one["NDCG@10"] and row["AveragePopularity@1"] < one["AveragePopularity@1"]
            assert not better
    assert front[0]["trial"] == record["best"]["trial"]
    assert "<h2>Pareto front" in (output / "study.html").read_text(encoding="utf-8")
    assert "no trial is pruned" in capsys.readouterr().out


def test_a_curve_of_one_setting(tune, toy, capsys):
    record, output = tune(study="memory_window", values="[1, 2, 8]")
    rows = list(csv.DictReader((output / "curve.csv").open()))
    assert [row["memory_window"] for row in rows] == ["1", "2", "8"]
    assert all(float(row["ndcg@10"]) > 0 for row in rows)
    assert record["test"] is None and not toy.records(), "a curve keeps the test set closed"
    assert not (output / "best.yaml").exists()
    assert "memory_window" in capsys.readouterr().out
    assert "against memory_window" in (output / "study.html").read_text(encoding="utf-8")
    from_space, _ = tune("search:\n  memory_window: {int: [2, 4]}\n", study="memory_window", output="other")
    assert [row["memory_window"] for row in from_space["curve"]] == [2, 3, 4]


def test_a_grid_tries_everything_once(tune):
    record, _ = tune(
        "search:\n  memory_window: {choice: [2, 5]}\n  memory_decay: {float: [0, 1], step: 1}\n", sampler="grid"
    )
    tried = {tuple(row["settings"].values()) for row in record["trials"]}
    assert tried == {(2, 0.0), (2, 1.0), (5, 0.0), (5, 1.0)} and record["complete"] == 4


def test_what_the_user_gives_wins(tuner, plan):
    file = tuner.file("memory_decay: 0.25\neval_batch_size: 7\n", "user.yaml")
    space = (
        "search:\n  memory_window: {int: [2, 12]}\n  memory_decay: {float: [0, 2]}\n"
        "fixed:\n  eval_batch_size: 64\n  memory_backward: 0.5\n  memory_recency: 0.9\n"
    )
    made = plan(space, files=[file], settings={"memory_window": 4, "memory_recency": 0.7})
    assert [parameter.name for parameter in made.space.parameters] == ["memory_decay"]
    assert made.base["memory_window"] == 4 and made.base["memory_recency"] == 0.7, "the command line is not searched"
    assert made.base["eval_batch_size"] == 7 and made.base["memory_backward"] == 0.5, "files win over `fixed`"
    assert made.space.default(made.base) == {"memory_decay": 0.25}, "files give the defaults"
    assert made.configure({"memory_decay": 1.5})["memory_decay"] == 1.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"trials": "0"}, "--trials is `0`"),
        ({"trials": "many"}, "--trials"),
        ({"workers": "-1"}, "--workers"),
        ({"timeout": "1.5"}, "--timeout"),
        ({"sampler": "bayes"}, "--sampler is `bayes`.*tpe"),
        ({"pruner": "hard"}, "--pruner is `hard`.*median"),
        ({"objective": "NDCG@7"}, "NDCG@7"),
        ({"objective": "NDCG@10,NDCG@11"}, "NDCG@11"),
        ({"objective": "NDCG@10,ndcg@10"}, "--objective"),
        ({"objective": "seconds"}, "--objective"),
        ({"objective": "a,b,c"}, "--objective"),
        ({"values": "[1,2]"}, "--study"),
        ({"study": "memory_window", "values": "3"}, "--values"),
        ({"study": "memory_windw", "values": "[3]"}, "memory_window"),
        ({"storage": "somewhere"}, "--storage"),
        ({"name": "a/b"}, "--name"),
        ({"space": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_mistakes_are_told_before_the_first_trial(tune, tuner, arguments, said):
    with pytest.raises(UserError, match=said):
        tune(**{"space": SMALL, **arguments})
    assert not (tuner.folder / "out" / "study.db").exists() or arguments.keys() & {"workers", "timeout"}


def test_a_space_that_the_command_line_uses_up_is_told(plan):
    with pytest.raises(UserError, match="searches; leave one out"):
        plan(
            "search:\n  memory_window: {int: [2, 9]}\n  memory_decay: {float: [0, 1]}\n",
            settings={"memory_window": 3, "memory_decay": 0},
        )
    with pytest.raises(UserError, match="--valid_metric"):
        plan(objective="NDCG@10", settings={"valid_metric": "NDCG@5"})


# ---- the real thing


def arguments(tuner, space, *more, model="SASRecWhole", **settings):
    given = tuner.command_line(model, settings)
    given = {name: value for name, value in given.items() if f"{name}:" not in space}
    words = [f"--{name}={value}" for name, value in given.items()]
    return [
        *words,
        f"--model={model}",
        "--dataset=toy",
        f"--space={tuner.file(space)}",
        f"--results_dir={tuner.folder / 'results'}",
        "--output=out",
        *more,
    ]


def start(words, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "recbole_reg4rec", "tune", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def running(url):
    """The trials of the study that are being trained, read from outside."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = optuna.load_study(study_name="SASRecWhole-toy", storage=url).get_trials()
    return [trial for trial in trials if trial.state == TrialState.RUNNING and trial.intermediate_values]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_command_with_two_workers_goes_on_where_it_was(tuner):
    """Killed with all its workers while both train; the same command then ends the study."""
    rates = "search:\n  learning_rate: {float: [0.0001, 0.02], log: True}\n"
    words = arguments(tuner, rates, "--trials=2", "--workers=2", "--pruner=none", epochs=40, stopping_step=40)
    first = start(words, start_new_session=True)
    url = f"sqlite:///{tuner.folder / 'out' / 'study.db'}"
    deadline, busy = time.monotonic() + 400, []
    while len(busy) < 2 and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.1)
        begun = list(Path("out/checkpoints").glob("trial-*/best.last.pth"))  # of trials that have ended too
        busy = running(url) if len(begun) >= 2 else []
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert len(running(url)) == 2, optuna.load_study(study_name="SASRecWhole-toy", storage=url).get_trials()

    second = start(words)
    try:
        printed, _ = second.communicate(timeout=900)
    finally:
        second.kill()
    assert second.returncode == 0, printed
    found = optuna.load_study(study_name="SASRecWhole-toy", storage=url).get_trials()
    lost = [trial for trial in found if trial.user_attrs.get(LOST)]
    done = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert sorted(trial.user_attrs[SLOT] for trial in done) == [0, 1] and len(found) == len(done) + len(lost)
    assert len(lost) == 2 and sum(trial.user_attrs.get(DEFAULT, False) for trial in done) == 1
    for trial in lost:
        again = next(other for other in done if other.user_attrs[SLOT] == trial.user_attrs[SLOT])
        assert again.params == trial.params
        assert set(trial.intermediate_values.items()) <= set(again.intermediate_values.items())
    assert "going on with the study" in printed and "best trial" in printed
    assert Path("out/best.yaml").is_file() and len(list(Path("out/checkpoints").iterdir())) == 1


def test_weights_and_gate_are_fitted_for_the_best_trial_alone(tune, toy, capsys, monkeypatch):
    fitted = []
    plain = SequenceTrainer.fit_weights

    def counted(self, valid_data):
        fitted.append(self)
        plain(self, valid_data)

    monkeypatch.setattr(SequenceTrainer, "fit_weights", counted)
    space = "search:\n  remember_weight: {float: [0.5, 4.0]}\n"
    record, _ = tune(space, "REG4Rec", {"memory": "True", "item_path": "True", "repeat": "True"}, trials="2")
    assert len(fitted) == 1 and record["complete"] == 2
    (path,) = toy.records()
    content = json.loads(path.read_text())
    judged = content["stages"]["supervised"]["best_valid"]
    assert judged["ndcg@10"] == record["best"]["NDCG@10"]
    assert content["weights"]["fitted"]
    assert "trained again" not in capsys.readouterr().out
