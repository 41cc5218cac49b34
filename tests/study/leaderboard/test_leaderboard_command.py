"""Whole grids on toy data: in this process, and once as users run them."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recbole_reg4rec import cli
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.command import leaderboard
from recbole_reg4rec.study.leaderboard.grid import Asked, plan
from recbole_reg4rec.study.leaderboard.launch import run_job
from recbole_reg4rec.study.leaderboard.progress import Progress
from recbole_reg4rec.study.leaderboard.runner import Runner

ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    "data_path": "data",
    "checkpoint_dir": "saved",
    "use_gpu": "False",
    "state": "ERROR",
    "MAX_ITEM_LIST_LENGTH": "8",
    "epochs": "2",
}
# A REG4Rec of two stages in a second.
TINY = {
    "codebooks": "2",
    "codebook_size": "4",
    "hidden_size": "8",
    "inner_size": "8",
    "n_layers": "2",
    "text_dim": "0",
    "collaborative_dim": "4",
    "mpq_epochs": "1",
    "epochs": "1",
    "align_epochs": "1",
    "align_future": "1",
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(users=40, name="toy"):
        draw = random.Random(0)
        rows = [f"u{u}\ti{draw.randrange(30)}\t{t}" for u in range(users) for t in range(draw.randint(4, 9))]
        path = tmp_path / "data" / name / f"{name}.inter"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows, ""]))

    make()
    return make


@pytest.fixture
def run(write, in_process):
    def start(models="ItemMemory,SASRecWhole", datasets="toy", seeds="2", **more):
        settings = {**SMALL, **more.pop("settings", {})}
        return leaderboard(models, datasets, seeds, command_line=settings, launch=in_process, **more)

    start.done = in_process.done
    return start


def rows(dataset="toy"):
    with open(f"results/{dataset}.csv", newline="") as file:
        return list(csv.DictReader(file))


def trained(run):
    return [job[1:] for job in run.done if job[0] == "run"]


def test_a_grid_from_nothing_to_tables_and_again(run, capsys):
    assert run() == 0
    assert len(trained(run)) == 4
    found = rows()
    assert {(row["model"], row["masked"], row["seeds"]) for row in found} == {
        (model, masked, "2") for model in ("ItemMemory", "SASRecWhole") for masked in ("false", "true")
    }
    for row in found:
        tests = [json.loads(Path("results/runs", file).read_text()) for file in row["runs"].split()]
        if row["masked"] == "false":
            mean = sum(record["test"]["ndcg@10"] for record in tests) / 2
            assert float(row["ndcg@10"]) == pytest.approx(mean, abs=2e-6)
    printed = capsys.readouterr().out
    assert "ItemMemory is not trained" in printed and "all 4 cells are finished" in printed
    assert "[4/4 done]" in printed and "about" in printed
    before = {path: path.read_bytes() for path in Path("results").glob("toy.*")}
    assert run() == 0 and len(trained(run)) == 4, "nothing is done twice"
    assert {path: path.read_bytes() for path in Path("results").glob("toy.*")} == before
    assert cli.main(["leaderboard", "--check"]) == 0
    assert list(Path("results/locks").iterdir()) == []
    path = Path("results/toy.csv")
    path.write_text(path.read_text().replace("ItemMemory,default,false,2,0.", "ItemMemory,default,false,2,1."))
    assert cli.main(["leaderboard", "--check"]) == 1, "the shell is told that a table differs"


def test_a_second_stage_begins_from_a_finished_cell_that_is_its_first(run, in_process):
    jobs = []

    def noting(job, log, tick):
        if job["kind"] == "run":
            jobs.append(dict(job["command_line"]))
        return in_process(job, log, tick)

    def tables(folder, models):
        settings = {**SMALL, **TINY, "checkpoint_dir": f"{folder}-saved"}
        leaderboard(models, "toy", "1", command_line=settings, launch=noting, results_dir=folder)
        return {row["variant"]: row for row in csv.DictReader(Path(folder, "toy.csv").open())}

    alone = tables("alone", "REG4Rec:paper-aligned")
    # Whatever the order in which they are named.
    both = tables("both", "REG4Rec:paper-aligned,REG4Rec:paper")
    assert [bool(job.get("align_from")) for job in jobs] == [False, False, True]
    assert "both-saved" in jobs[2]["align_from"]
    for name in ("ndcg@10", "recall@20", "mrr"):
        assert both["paper-aligned"][name] == alone["paper-aligned"][name]


def test_a_second_stage_waits_for_the_process_that_is_at_its_first(write, in_process):
    """Two processes on one folder: who is done with its own cells finds what the other has finished since."""
    begun, free, lock = threading.Event(), threading.Event(), threading.Lock()
    jobs: dict[str, list[bool]] = {"slow": [], "fast": []}

    def launcher(name):
        def launch(job, log, tick):
            if job["kind"] == "run":
                line = job["command_line"]
                jobs[name].append("align_from" in line)
                if name == "slow" and len(jobs["slow"]) == 1:
                    begun.set()
                    assert free.wait(60)
            with lock:
                return in_process(job, log, tick)

        return launch

    def work(name):
        models = "REG4Rec:paper,REG4Rec:paper-aligned"
        leaderboard(models, "toy", "1", command_line={**SMALL, **TINY}, launch=launcher(name))

    slow = threading.Thread(target=work, args=("slow",))
    slow.start()
    assert begun.wait(60)
    fast = threading.Thread(target=work, args=("fast",))
    fast.start()
    time.sleep(2)
    assert jobs["fast"] == [], "the first stage is being trained already"
    free.set()
    slow.join(60)
    fast.join(60)
    assert jobs["slow"][0] is False and [*jobs["slow"][1:], *jobs["fast"]] == [True]


def test_more_seeds_and_models_add_to_the_table(run):
    run("ItemMemory", seeds="1")
    run("SASRecWhole", seeds="1")
    run("ItemMemory", seeds="3")
    assert len(trained(run)) == 4
    assert {(row["model"], row["seeds"]) for row in rows()} == {("ItemMemory", "3"), ("SASRecWhole", "1")}


def test_a_plain_run_counts_as_a_finished_cell(run, write):
    from recbole_reg4rec.study.quick_start import run as plain_run

    plain_run("SASRecWhole", "toy", command_line={**SMALL, "seed": "2021"})
    assert run("SASRecWhole") == 0
    assert trained(run) == [("SASRecWhole", "2020", "False")]


def test_other_settings_are_other_cells(run, capsys):
    run("SASRecWhole", seeds="1")
    run("SASRecWhole", seeds="1", settings={"epochs": "3"})
    assert len(trained(run)) == 2, "a longer run is another result, though a checkpoint could go on"
    assert "with other settings; this grid takes its place" in capsys.readouterr().out
    assert sorted(len(json.loads(path.read_text())["epochs"]) for path in Path("results/runs").glob("*.json")) == [2, 3]
    assert {row["seeds"] for row in rows()} == {"1"}


def test_both_ways_of_masking(run):
    assert run("SASRecWhole", seeds="1", settings={"mask_history": "both"}) == 0
    assert trained(run) == [("SASRecWhole", "2020", "False"), ("SASRecWhole", "2020", "True")]
    unmasked, masked = rows()
    for row in (unmasked, masked):
        record = json.loads(Path("results/runs", row["runs"]).read_text())
        assert str(record["protocol"]["masked"]).lower() == row["masked"]
        assert float(row["ndcg@10"]) == pytest.approx(record["test"]["ndcg@10"], abs=2e-6)


def test_a_failed_cell_stops_nothing_and_is_reported(run, in_process, capsys, write):
    fail = {"2020"}

    def launch(job, log, tick):
        if job["kind"] == "run" and job["model"] == "SASRecWhole" and job["command_line"]["seed"] in fail:
            return "out of luck"
        return in_process(job, log, tick)

    def start():
        return leaderboard("SASRecWhole,ItemMemory", "toy", "2", command_line=SMALL, launch=launch)

    assert start() == 1
    printed = capsys.readouterr().out
    assert "failed: SASRecWhole toy seed 2020: out of luck" in printed and "1 of 4 cells failed" in printed
    assert {(row["model"], row["seeds"]) for row in rows()} == {("ItemMemory", "2"), ("SASRecWhole", "1")}
    fail.clear()
    assert start() == 0 and {row["seeds"] for row in rows()} == {"2"}
    assert sum(job == ("SASRecWhole", "2021", "False") for job in trained(run)) == 1


def test_an_interrupted_cell_goes_on_where_it_stopped(run, in_process, monkeypatch, capsys):
    from recbole_reg4rec.study import job

    train_epoch = job.SequenceTrainer._train_epoch
    epochs = []

    def interrupted(self, data, epoch, **keywords):
        epochs.append(epoch)
        if epochs == [0, 1]:
            raise KeyboardInterrupt
        return train_epoch(self, data, epoch, **keywords)

    monkeypatch.setattr(job.SequenceTrainer, "_train_epoch", interrupted)
    assert run("SASRecWhole", seeds="1") == 130
    assert "goes on where it stopped" in capsys.readouterr().out
    assert not Path("results/toy.csv").exists() and list(Path("results/locks").iterdir()) == []
    assert run("SASRecWhole", seeds="1") == 0 and epochs == [0, 1, 1]


def test_changed_data_are_neither_mixed_nor_resumed(run, write, capsys):
    assert run("SASRecWhole", seeds="1") == 0
    write(users=41)
    with pytest.raises(UserError, match="other data.*move toy.csv away"):
        run("SASRecWhole", seeds="1")
    for path in Path("results").glob("toy.*"):
        path.unlink()
    assert run("SASRecWhole", seeds="1") == 0, "its own checkpoint, though the old one has the same settings"
    assert "1 records of toy are of other data" in capsys.readouterr().out
    assert len(trained(run)) == 2 and {row["seeds"] for row in rows()} == {"1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--datasets=toy", "--models is missing"),
        ("--models=ItemMemory", "--datasets is missing"),
        ("--models=ItemMemory --datasets=nothing_here", "nothing_here"),
        ("--models=ItemMemory,SASRek --datasets=toy", "SASRec"),
        ("--models=ItemMemory --datasets=toy --seeds=1,1", "seed 1 twice"),
        ("--models=ItemMemory --datasets=toy --learning_rat=1", "learning_rate"),
        ("--models=ItemMemory --datasets=toy --dataset=toy", "takes no --dataset"),
        ("--models=ItemMemory --datasets=toy --model=ItemMemory", "takes no --model"),
        ("--check", "no table"),
        ("--check --models=ItemMemory", "--check takes no --models"),
        ("--check --epochs=3", "--check takes no --epochs"),
        ("--check=perhaps", "--check"),
    ],
)
def test_mistakes_are_one_sentence(write, capsys, arguments, said, in_process, monkeypatch):
    from recbole_reg4rec.study.leaderboard import command

    inspect = command.inspect_data
    monkeypatch.setattr(command, "inspect_data", lambda job, log, launch: inspect(job, log, in_process))
    data = [] if "--check" in arguments else ["--data_path=data"]
    assert cli.main(["leaderboard", *arguments.split(), *data]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and said in printed.err
    assert not list(Path("results").glob("toy.*"))


# ---- several processes


def runner(in_process, cells, **more):
    from recbole_reg4rec.study.leaderboard.command import _inspect

    fingerprints = _inspect(cells, Path("results"), in_process)
    return Runner(Path("results"), fingerprints, Progress(cells, show=False), launch=in_process, **more), fingerprints


def test_a_cell_that_another_works_on_is_waited_for(write, in_process):
    from recbole_reg4rec.study.leaderboard.locks import CellLock

    cells = plan(Asked("ItemMemory", "toy", "2", settings=SMALL))
    ours, fingerprints = runner(in_process, cells, patience=0.05)
    other = CellLock(Path("results/locks") / f"{cells[0].file_stem(fingerprints['toy'])}.lock")
    assert other.acquire()
    done = []
    thread = threading.Thread(target=lambda: done.append(ours.run(cells)))
    thread.start()
    deadline = time.monotonic() + 30
    while len([job for job in in_process.done if job[0] == "run"]) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    assert not done, "the cell of the other is waited for, and not done"
    assert [job[2] for job in in_process.done if job[0] == "run"] == ["2021"]
    other.release()
    thread.join(30)
    assert set(done[0].records) == set(cells)


def test_a_cell_that_failed_elsewhere_meanwhile_is_not_tried_again(write, in_process):
    cells = plan(Asked("ItemMemory", "toy", "1", settings=SMALL))
    ours, fingerprints = runner(in_process, cells)
    mark = Path("results/locks") / f"{cells[0].file_stem(fingerprints['toy'])}.failed"
    mark.write_text(json.dumps({"reason": "theirs"}))
    os.utime(mark, (ours._began + 1, ours._began + 1))
    assert ours.run(cells).failures == {cells[0]: "theirs"}
    os.utime(mark, (ours._began - 1, ours._began - 1))
    assert list(ours.run(cells).records) == cells and not mark.exists()


def test_a_job_that_leaves_no_record_has_failed(write, in_process):
    cells = plan(Asked("ItemMemory", "toy", "1", settings=SMALL))
    ours, _ = runner(in_process, cells)
    ours._launch = lambda job, log, tick: None
    assert "left no record" in ours.run(cells).failures[cells[0]]


# ---- processes


def test_the_command_as_users_run_it(write, tmp_path):
    arguments = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, str(ROOT / "run_recbole_reg4rec.py"), "leaderboard", "--models=SASRecWhole"]
    done = subprocess.run(
        [*command, "--datasets=toy", "--seeds=[3]", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == "" and "all 1 cells are finished" in done.stdout
    assert {row["seeds"] for row in rows()} == {"1"}
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "results", "saved", "log", "log_tensorboard"}


def test_a_worker_ends_when_its_parent_is_gone():
    """Standard input of a job that would sleep for long is closed, as when the parent is killed."""
    code = (
        "import time; from recbole_reg4rec.study.leaderboard import worker; "
        "worker.do = lambda job: time.sleep(60); worker.main()"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=ROOT)
    worker.stdin.write(b"{}\n")
    worker.stdin.flush()
    time.sleep(0.5)
    assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(20) == 3


def fake_worker(tmp_path, monkeypatch, text):
    from recbole_reg4rec.study.leaderboard import launch

    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "fake_worker.py").write_text(text)
    monkeypatch.setattr(launch, "_WORKER", "fake_worker")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fakes"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print('fine')", None),
        ("import sys; print('error: do this', file=sys.stderr); sys.exit(2)", "do this"),
        ("raise ZeroDivisionError('by nought')", "ZeroDivisionError: by nought"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import sys; sys.exit(7)", "exit code 7"),
    ],
)
def test_why_a_job_ended(tmp_path, monkeypatch, text, reason):
    fake_worker(tmp_path, monkeypatch, text)
    found = run_job({}, tmp_path / "logs" / "job.log")
    assert found is None if reason is None else reason in found


def test_a_job_is_stopped_when_its_cell_was_taken_over(tmp_path, monkeypatch):
    text = "import pathlib, sys; sys.stdin.read(); pathlib.Path(sys.argv[0]).with_name('ended').touch()"
    fake_worker(tmp_path, monkeypatch, text)
    assert "taken it over" in run_job({}, tmp_path / "job.log", lambda: False)
    assert (tmp_path / "fakes" / "ended").exists(), "by itself, as its input closed"
