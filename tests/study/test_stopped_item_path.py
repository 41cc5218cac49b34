"""The item path stops where it is best: in the record, in the best model, and over an interruption."""

from __future__ import annotations

import shutil

import pytest
import torch

from recbole_reg4rec.trainer import item_stop, trainer

ALL = {"item_path": True, "memory": True, "repeat": True, "item_stopping_step": 1, "epochs": 5, "gate": False}


@pytest.fixture
def falling(monkeypatch):
    """Rankings without paths are worth less from the third validation on, whatever the toy says."""
    monkeypatch.setattr(item_stop, "rank_metric", lambda name: Falling())


class Falling:
    """Worth of ranks: 1, 2, 1, ... by call, one call a validation of the toy."""

    def __init__(self):
        self.calls = 0

    def __call__(self, ranks):
        self.calls += 1
        return torch.full((len(ranks),), [1.0, 2.0, 1.0, 1.0, 1.0][self.calls - 1]).numpy()


def of_item_path(state):
    return {name: value for name, value in state.items() if name.startswith(("item_path.", "repeat."))}


def test_it_goes_back_and_stays(toy, falling, monkeypatch):
    kept = []
    save = trainer.SequenceTrainer._save

    def watched(self, path, epoch):
        if path == self.last_file:
            kept.append({name: value.clone() for name, value in of_item_path(self.model.state_dict()).items()})
        save(self, path, epoch)

    monkeypatch.setattr(trainer.SequenceTrainer, "_save", watched)
    record = toy.run(**ALL, eval_batch_size=64)
    entries = record["epochs"]
    assert [entry.get("valid_score_without_paths") for entry in entries] == [1.0, 2.0, 1.0, None, None]
    # The last two epochs train reasoning alone: token and category loss, without that of the item path.
    assert [len(entry["loss"]) for entry in entries] == [3, 3, 3, 2, 2]
    equal = [all(torch.equal(value, kept[1][name]) for name, value in state.items()) for state in kept]
    assert equal == [False, True, True, True, True] and len(kept[0]) > 5


def test_what_it_is_judged_by_is_the_ranking_without_paths(toy):
    record = toy.run(**ALL, fit_weights=False, valid_metric="NDCG@10")
    alone = toy.run(**{**ALL, "epochs": 1}, reason_weight=0.0, checkpoint=toy.folder / "alone.pth")
    first, other = record["epochs"][0], alone["epochs"][0]
    assert first["loss"] == other["loss"]
    assert first["valid_score_without_paths"] == pytest.approx(other["valid_score"], abs=1e-4)
    assert first["valid_score_without_paths"] != first["valid_score"]


def test_a_run_without_it_is_what_it_was(toy, comparable):
    watched, plain = toy.run(**{**ALL, "item_stopping_step": 9}), toy.run(**{**ALL, "item_stopping_step": 0})
    for entry in watched["epochs"]:
        del entry["valid_score_without_paths"]
    assert comparable(watched)["epochs"] == comparable(plain)["epochs"]
    assert (watched["valid"], watched["test"]) == (plain["valid"], plain["test"])


def test_stage_2_leaves_the_item_path_as_the_best_model_has_it(toy, falling):
    aligned = {"stages": ["supervised", "alignment"], "align_epochs": 2, "align_future": 2, "align_group": 2}
    # One validation without a better ranking in stage 1, so that one more would stop the item path.
    more = {**ALL, "epochs": 3, "item_stopping_step": 2, "learning_rate": 0.01, "fit_weights": False}
    record = toy.run(**more, **aligned, eval_batch_size=64)
    assert [entry.get("valid_score_without_paths") for entry in record["epochs"]] == [1.0, 2.0, 1.0, None, None]
    last = toy.checkpoint()
    assert last["stage"] == 1 and "item_stop" not in last
    for name, value in of_item_path(last["entry_weights"]).items():
        assert torch.equal(value, last["state_dict"][name])


@pytest.mark.parametrize("epoch", [2, 3])
def test_interrupted_and_resumed_equals_uninterrupted(toy, comparable, monkeypatch, epoch):
    settings = {**ALL, "learning_rate": 0.05}
    whole = toy.run(**settings)
    stopped = [len(entry["loss"]) for entry in whole["epochs"]]
    assert 2 in stopped, "otherwise this shows little"
    shutil.rmtree(toy.saved)
    train_epoch = trainer.SequenceTrainer._train_epoch

    def interrupted(self, data, number, **keywords):
        if number == epoch:
            raise KeyboardInterrupt
        return train_epoch(self, data, number, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.SequenceTrainer, "_train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            toy.run(**settings)
    assert comparable(toy.run(**settings, resume=True)) == comparable(whole)
