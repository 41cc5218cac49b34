"""The whole command on toy data: in this process, and once as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_reg4rec import cli
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.benchmark.process import WorkerProcess

ROOT = Path(__file__).resolve().parents[3]


def slices(content, part, dataset="toy"):
    return [entry for entry in content["datasets"][dataset]["slices"] if entry["part"] == part]


def test_everything_is_measured_in_turns_and_reported(run, start, toy):
    models = "SASRec,SASRecWhole,REG4Rec,REG4Rec:paper-aligned,REG4Rec:paper-corp,TIGER"
    content = run(models)
    assert content == json.loads((toy.results / "benchmark.json").read_text())
    assert [path.name for path in sorted(toy.results.iterdir())] == ["benchmark.json", "benchmark.md"]
    assert [(entry["repeat"], entry["contender"]) for entry in slices(content, "train")] == [
        (repeat, name)
        for repeat in (1, 2)
        for name in ("SASRec", "SASRecWhole", "REG4Rec", "REG4Rec:paper-aligned", "TIGER")
    ]
    assert {entry["contender"] for entry in slices(content, "evaluate")} == {*models.split(",")} - {
        "REG4Rec:paper-aligned"
    }
    assert all(entry["count"] > 0 and entry["seconds"] > 0 for entry in content["datasets"]["toy"]["slices"])
    aligned = [task for name, task in start.asked if name == "toy-REG4Rec:paper-aligned"]
    assert aligned == ["load", "train", "evaluate", "align", "train", "train", "train"], "stage 1 first, then stage 2"
    assert not start.open
    found = content["datasets"]["toy"]
    assert set(found["tokenizer_seconds"]) == {"REG4Rec", "TIGER"} and len(found["data_seconds"]) == 2
    assert found["failed"] == {} and found["accuracy"] == {}
    assert found["contenders"]["REG4Rec:paper-corp"]["settings"]["corp"] is True
    assert found["contenders"]["SASRec"]["settings"]["MAX_ITEM_LIST_LENGTH"] == 8
    assert content["machine"]["best_gflops"] > 0 and content["versions"]["torch"]
    text = (toy.results / "benchmark.md").read_text()
    places = [text.index(part) for part in ("## Ratios", "## toy", "### Training", "## Reading", "## How")]
    assert places == sorted(places)
    assert len(content["goals"]) == 6 and all(goal["what"] in text for goal in content["goals"])
    assert "targets/s of SASRecWhole against those of SASRec on prefixes, history 8" in text
    assert f"--models={models}" in text and str(toy.folder) not in text, "no place of this machine"
    assert "| SASRecWhole | the same network on whole sequences | **1x** |" in text, "against itself"
    assert f"Load of the machine before the start: {content['load_before']:.1f}" in text
    assert "Accuracy" not in text and "Growth" not in text


def test_accuracy_and_growth_when_asked_for(run, toy):
    content = run("SASRecWhole", epochs="1", scale="100,200")
    (entry,) = content["datasets"]["toy"]["accuracy"].values()
    assert entry["epochs"] == 1 and 0 <= entry["ndcg@10"] <= entry["recall@10"] <= 1
    assert list(content["scale"]) == ["100", "200"]
    assert content["scale"]["200"]["statistics"]["items"] == 200 and content["scale"]["100"]["accuracy"] == {}
    assert isinstance(content["exponents"]["SASRecWhole"]["seconds a target"], float)
    text = (toy.results / "benchmark.md").read_text()
    assert "### Accuracy" in text and "| SASRecWhole | exponent | **" in text and "--scale=100,200" in text


def test_one_that_fails_is_told_and_left_out(run, start, toy):
    start.broken.add(("toy-SASRec", "train"))
    content = run("SASRec,SASRecWhole")
    assert content["datasets"]["toy"]["failed"] == {"SASRec": "toy-SASRec ended"}
    assert {entry["contender"] for entry in content["datasets"]["toy"]["slices"]} == {"SASRecWhole"}
    assert "Failed on toy: SASRec: toy-SASRec ended" in (toy.results / "benchmark.md").read_text()
    assert start.asked.count(("toy-SASRec", "train")) == 1 and not start.open
    before = (toy.results / "benchmark.json").read_bytes()
    with pytest.raises(UserError, match="no model could be timed on toy; SASRec: toy-SASRec ended"):
        run("SASRec")
    assert (toy.results / "benchmark.json").read_bytes() == before and not start.open


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--models=SASRek", "did you mean SASRec"),
        ("--models=,", "--models names nothing"),
        ("--models=RPG,RPG", "RPG twice"),
        ("--seconds=0", "--seconds is `0`"),
        ("--seconds=nan", "--seconds is `nan`"),
        ("--repeats=1.5", "--repeats is `1.5`"),
        ("--threads=0", "--threads is `0`"),
        ("--epochs=-1", "--epochs is `-1`"),
        ("--scale=many", "--scale is `many`"),
        ("--scale=1e3,5", "numbers of items from 100"),
        ("--scale --models=RPG", "--scale is for SASRecWhole, REG4Rec"),
        ("--corp=True", "REG4Rec:corp says corp=True"),
        ("--hiden_size=8", "did you mean `hidden_size`"),
        ("--models=SASRec --topk=[0]", "SASRec on ml-100k: setting `topk`"),
        ("--dataset=toy", "takes no --dataset"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["benchmark", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_scale_alone_means_two_sizes():
    for arguments in (["--scale"], ["--scale", "--seconds=1"]):
        assert cli.parse(["benchmark", *arguments]).named["scale"] == "1e4,1e5"
    assert cli.parse(["benchmark", "--scale", "1e3"]).named == {"scale": "1e3"}
    assert cli.main(["benchmark", "--scale="]) == 2


def test_an_unknown_data_set(run, start, toy):
    with pytest.raises(UserError, match="data set nowhere cannot be used: .*nowhere.inter"):
        run("SASRecWhole", datasets="nowhere")
    assert list(toy.results.iterdir()) == [] and not start.open


def test_settings_go_to_those_who_know_them(run):
    content = run("SASRec,REG4Rec", settings={"beam_width": 7})
    found = content["datasets"]["toy"]["contenders"]
    assert found["REG4Rec"]["settings"]["beam_width"] == 7 and "beam_width" not in found["SASRec"]["settings"]


@pytest.mark.slow
def test_as_users_run_it(toy):
    arguments = ["--datasets=toy", "--data_path=data", "--models=SASRecWhole", "--seconds=0.05", "--repeats=1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_recbole_reg4rec.py"), "benchmark", *arguments, "--threads=1"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "SASRecWhole train 1" in done.stderr
    assert "benchmark: results/benchmark.md" in done.stdout
    assert sorted(path.name for path in Path().iterdir()) == ["data", "results"], "nothing else is left"
    (found,) = json.loads(Path("results/benchmark.json").read_text())["datasets"]["toy"]["contenders"].values()
    assert 50 < found["libraries_mb"] <= found["loaded_mb"]


@pytest.mark.slow
def test_a_worker_that_dies_says_why(tmp_path):
    worker = WorkerProcess("worker", tmp_path / "room", 1)
    try:
        assert worker.ask({"do": "machine", "seconds": 0.01, "gpu": None})["best_gflops"] > 0
        with pytest.raises(UserError, match="worker ended while it was to dance: KeyError: 'dance'"):
            worker.ask({"do": "dance"})
        with pytest.raises(UserError, match="KeyError: 'dance'"):
            worker.ask({"do": "machine", "seconds": 0.01, "gpu": None})
    finally:
        worker.close()
        worker.close()
