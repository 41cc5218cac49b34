"""A trained toy ranks once more: as its run said, and by other settings of decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_reg4rec import cli
from recbole_reg4rec.study.evaluation import evaluate
from recbole_reg4rec.study.trained import load_trained

LIGHT = {"use_gpu": "False", "show_progress": "False", "topk": "[1,5,10]"}


def checkpoint(toy: Any) -> str:
    (path,) = toy.saved.glob("*/best.pth")
    return str(path)


def asked(toy: Any, **more: Any) -> dict[str, Any]:
    settings = {**LIGHT, **more.pop("settings", {})}
    return evaluate("toy", command_line=settings, checkpoint=checkpoint(toy), results_dir="out", **more)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_unchanged_it_ranks_as_the_run_did_and_leaves_the_checkpoint_alone(
    toy: Any, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = toy.run(item_path=True, memory=True, repeat=True)
    before = Path(checkpoint(toy)).read_bytes()
    record = asked(toy, part=part)
    (row,) = record["rows"]
    assert row["metrics"] == ran[part] and row["targets"] == 60
    assert record["vary"] is None and "value" not in row and "against_first" not in row
    assert Path(checkpoint(toy)).read_bytes() == before
    (path,) = Path("out/evaluations").glob("*.json")
    assert json.loads(path.read_text(encoding="utf-8")) == record
    printed = capsys.readouterr().out
    assert f"{part} part, 60 users; history not masked" in printed and str(path) in printed


def test_each_value_ranks_as_a_model_loaded_with_it_and_is_compared_with_the_first(shared_toy: Any) -> None:
    record = asked(shared_toy, vary="beam_width", values="[20, 2, 1]")
    first, narrow, narrower = record["rows"]
    assert [row["value"] for row in record["rows"]] == [20, 2, 1]
    assert "beam_width" not in record["settings"] and "against_first" not in first
    assert first["metrics"] == asked(shared_toy, settings={"beam_width": "20"})["rows"][0]["metrics"]
    metric = narrower["against_first"]["metric"].lower()
    assert metric == record["settings"]["valid_metric"].lower()
    for row in (narrow, narrower):
        difference = row["metrics"][metric] - first["metrics"][metric]
        assert row["against_first"]["difference"] == pytest.approx(difference, abs=2e-6)
        assert 0 <= row["against_first"]["p"] <= 1


def test_what_corp_drops_is_told_and_threshold_zero_drops_nothing(
    shared_toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"corp": "True", "corp_min_beams": "2"}
    record = asked(shared_toy, vary="corp_threshold", values="[0, 0.95]", settings=more)
    none, some = record["rows"]
    assert none["metrics"] == asked(shared_toy)["rows"][0]["metrics"] and none["corp"] == {}
    assert max(step["pruned"] for step in some["corp"]["steps"].values()) > 0
    assert "paths pruned" in capsys.readouterr().out


def test_masked_and_not_are_two_values(shared_toy: Any) -> None:
    record = asked(shared_toy, vary="mask_history", values="[False, True]")
    bare, masked = record["rows"]
    assert record["protocol"]["masked"] == "varied" and bare["value"] is False
    assert masked["metrics"]["recall@10"] > bare["metrics"]["recall@10"], "who has seen it does not take it again"


def test_another_model_is_ranked_as_well(toy: Any) -> None:
    ran = toy.run("SASRecWhole")
    assert asked(toy, model="SASRecWhole")["rows"][0]["metrics"] == ran["valid"]


def test_data_are_read_once(shared_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = load_trained("toy", checkpoint(shared_toy), command_line=LIGHT)
    monkeypatch.setattr("recbole_reg4rec.study.trained.prepare_data", None)
    again = load_trained("toy", checkpoint(shared_toy), command_line={**LIGHT, "beam_width": "3"}, like=trained)
    assert again.model.beam_width == 3 and trained.model.beam_width != 3
    assert again.data is trained.data


def test_mistakes_are_told_before_anything_is_ranked(
    shared_toy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_reg4rec.study.evaluation._rank", None)
    argv = ["evaluate", "--dataset=toy", *(f"--{name}={value}" for name, value in LIGHT.items())]
    argv += [f"--data_path={shared_toy.folder}/data", f"--checkpoint={checkpoint(shared_toy)}"]
    for wrong, sentence in (
        (["--part=train"], "--part is 'train', but must be one of valid, test"),
        (["--values=[1]"], "no --vary says which setting"),
        (["--vary=hidden_size", "--values=[8,16]"], "which is no setting of decoding"),
        (["--vary=beam_width"], "must list what beam_width is set to"),
        (["--vary=beam_width", "--values=5"], "must list what beam_width is set to"),
        (["--vary=beam_width", "--values=[5,5]"], "names a value twice"),
        (["--vary=beam_width", "--values=[5,0]"], "setting `beam_width` is 0"),
        (["--vary=beam_width", "--values=[5]", "--beam_width=3"], "--vary says that it varies"),
        (["--hidden_size=32"], "was trained with hidden_size=16"),
        (["--model=SASRecWhole"], "SASRecWhole"),
    ):
        assert cli.main([*argv, *wrong]) == cli.EXIT_USER_ERROR, wrong
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    assert not list(Path("results/evaluations").glob("*.json"))
