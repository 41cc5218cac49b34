"""Loading a trained model by the settings of its checkpoint, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_reg4rec.config import config as config_module
from recbole_reg4rec.config import resolved_settings
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.grid import cell_keys
from recbole_reg4rec.study.pipeline import configure
from recbole_reg4rec.study.trained import DECODING_SETTINGS, load_trained

LIGHT = {"use_gpu": False, "show_progress": False}


def checkpoint(toy: Any) -> str:
    (path,) = toy.saved.glob("*/best.pth")
    return str(path)


def test_settings_come_from_the_checkpoint(toy: Any) -> None:
    toy.run(hidden_size=24, item_path=True, seed=5)
    trained = load_trained("toy", checkpoint(toy), config_dict=LIGHT)
    state = torch.load(checkpoint(toy), weights_only=True)
    assert (trained.config["hidden_size"], trained.config["seed"]) == (24, 5)
    assert trained.model.item_path is not None and not trained.model.training
    assert Path(trained.config["data_path"]) == toy.folder / "data" / "toy"
    assert Path(trained.config["checkpoint_dir"]) == toy.saved
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, state["state_dict"][name])


def test_without_a_file_the_settings_lead_to_the_checkpoint(shared_toy: Any) -> None:
    asked = load_trained("toy", config_dict=shared_toy.settings(grounded=False, corp=True, beam_width=7))
    assert asked.checkpoint == Path(checkpoint(shared_toy))
    assert asked.model.beam_width == 7 and asked.model.corp is not None
    with pytest.raises(UserError, match="does not exist; train first"):
        load_trained("toy", config_dict=shared_toy.settings(grounded=False, hidden_size=32))


def test_what_a_data_set_asks_of_the_papers_model_is_not_taken_for_what_was_trained(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "dataset" / "toy.REG4Rec.yaml"
    file.parent.mkdir()
    file.write_text("n_heads: 2  # (int) Heads.\nreason_only: {n_heads: 1}  # (dict) Of the paper's model.\n")
    files = config_module.own_property_files
    monkeypatch.setattr(config_module, "own_property_files", lambda *asked: [*files(*asked), file])
    toy.run(n_heads=2)
    assert load_trained("toy", checkpoint(toy), config_dict=LIGHT).config["n_heads"] == 2


def test_what_a_leaderboard_has_trained_is_found(shared_toy: Any, tmp_path: Path) -> None:
    given = shared_toy.settings(grounded=False, checkpoint_dir=str(tmp_path))
    key, _ = cell_keys(resolved_settings(configure("REG4Rec", "toy", config_dict=given)))

    def leave(name: str, age: int) -> Path:
        file = tmp_path / "leaderboard" / name / "best.pth"
        file.parent.mkdir(parents=True)
        shutil.copy(checkpoint(shared_toy), file)
        os.utime(file, (2e9 - age, 2e9 - age))
        return file

    leave("REG4Rec-toy-seed2020-0000000000-11111111", age=0)
    with pytest.raises(UserError, match="does not exist; train first"):
        load_trained("toy", config_dict=given)
    leave(f"REG4Rec-toy-seed2020-{key}-22222222", age=2)
    newest = leave(f"REG4Rec-toy-seed2020-{key}-33333333", age=1)
    assert load_trained("toy", config_dict={**given, "beam_width": 7}).checkpoint == newest


def test_how_it_is_asked_may_differ_from_training(shared_toy: Any, tmp_path: Path) -> None:
    new = {"decoding_order": "fixed", "beam_width": 9, "beam_branch": 2, "corp": True, "corp_threshold": 0.7}
    new |= {"corp_steps": [3], "corp_min_beams": 4, "mask_history": True, "reason_weight": 2.0}
    assert new.keys() <= DECODING_SETTINGS
    (tmp_path / "asked.yaml").write_text("corp_threshold: 0.2\nbeam_width: 9\n")
    given = {name: value for name, value in new.items() if name != "beam_width"}
    files = [str(tmp_path / "asked.yaml")]
    trained = load_trained("toy", checkpoint(shared_toy), "REG4Rec", files, {**LIGHT, **given})
    assert {name: trained.settings[name] for name in new} == new
    assert trained.model.corp.steps == (3,) and trained.model.corp.threshold == 0.7


def test_a_kind_of_evidence_may_lose_its_weight_behind_a_gate(toy: Any) -> None:
    toy.run(item_path=True, memory=True, repeat=True, epochs=1)
    asked = load_trained("toy", checkpoint(toy), config_dict={**LIGHT, "reason_weight": 0.0, "remember_weight": 0.5})
    assert asked.model.gate.kinds == ("reason", "recognise", "remember", "repeat"), "as it was fitted"
    assert (asked.model.weights.reason, asked.model.weights.remember) == (0.0, 0.5)
    assert (asked.config["reason_weight"], asked.settings["remember_weight"]) == (0.0, 0.5)


def test_a_checkpoint_from_before_a_decoding_setting_still_loads(shared_toy: Any, tmp_path: Path) -> None:
    state = torch.load(checkpoint(shared_toy), weights_only=True)
    for name in [name for name in state["settings"] if name.startswith("corp")]:
        del state["settings"][name]
    torch.save(state, str(tmp_path / "old.pth"))
    assert load_trained("toy", str(tmp_path / "old.pth"), config_dict=shared_toy.settings()).model.corp is None


def test_what_does_not_fit_is_refused(toy: Any) -> None:
    toy.run()
    with pytest.raises(UserError, match="was trained with learning_rate=0.001, but this run has learning_rate=0.5"):
        load_trained("toy", checkpoint(toy), config_dict={**LIGHT, "learning_rate": 0.5})
    with pytest.raises(UserError, match="no.pth does not exist"):
        load_trained("toy", "no.pth", config_dict=toy.settings())
    Path("foreign.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot be read as one of this package"):
        load_trained("toy", "foreign.pth", config_dict=toy.settings())
    with pytest.raises(UserError, match="was trained on toy, but --dataset is other"):
        load_trained("other", checkpoint(toy), config_dict=LIGHT)
    with pytest.raises(UserError, match="holds a REG4Rec, but this run is a SASRec"):
        load_trained("toy", checkpoint(toy), "SASRec", config_dict=LIGHT)
    toy.write([*toy.noisy_rows(), ("u1", "i3", 99)])
    with pytest.raises(UserError, match="was trained on other data"):
        load_trained("toy", checkpoint(toy), config_dict=LIGHT)


def test_runs_record_what_corp_dropped(toy: Any, shared_toy: Any) -> None:
    assert shared_toy.record["corp"] == {}
    record = toy.run(corp=True, corp_threshold=0.95, corp_min_beams=2, grounded=False)
    for part in ("valid", "test"):
        found = record["corp"][part]
        assert found["users"] == 60 and list(found["steps"]) == ["2", "3"]
        first, second = found["steps"]["2"], found["steps"]["3"]
        assert 0 < first["pruned"] < 1 and first["target_lost"] <= first["target_in_reach"] <= 1
        assert found["target_lost"] == pytest.approx(first["target_lost"] + second["target_lost"])
        assert second["target_in_reach"] <= first["target_in_reach"] - first["target_lost"] + 1e-9
    assert 0 < record["seconds"]["decode"] < record["seconds"]["evaluate"]
