"""Weights of the evidence from validation to checkpoint, record and explanation."""

from __future__ import annotations

import shutil

import pytest

from recbole_reg4rec.model.evidence import EvidenceWeights
from recbole_reg4rec.study.trained import load_trained
from recbole_reg4rec.trainer import trainer as trainer_module
from recbole_reg4rec.trainer.weights import JUDGING, WeightFit

ALL = {"item_path": True, "memory": True, "repeat": True, "epochs": 2, "gate": False}
CHOSEN = {"reason": 0.1, "recognise": 1.0, "remember": 1.0, "repeat": 2.0}


@pytest.fixture
def chosen(monkeypatch):
    """A search that finds others better, whatever the toy says."""

    def fit(model, batches, given, metric, **limits):
        assert not model.training and limits in ({}, JUDGING)
        assert metric == "ndcg@10" and sum(len(targets) for _, targets, _ in batches) == 60
        return WeightFit(dict(CHOSEN), dict(given), 0.5, 0.4, 60)

    monkeypatch.setattr(trainer_module, "fit_weights", fit)


def test_they_are_in_checkpoint_and_record_and_are_what_is_evaluated(toy, chosen):
    record = toy.run(**ALL)
    assert record["weights"]["fitted"] == CHOSEN and record["weights"]["given"]["remember"] == 4.0
    state = toy.checkpoint("best")
    assert state["state_dict"]["fitted_weights"].tolist() == pytest.approx([*CHOSEN.values(), 0.25])
    given = toy.run(**ALL, fit_weights=False, checkpoint=toy.folder / "given.pth")
    assert given["weights"] == {}
    by_hand = {f"{kind}_weight": weight for kind, weight in CHOSEN.items()}
    same = toy.run(**ALL, **by_hand, fit_weights=False, checkpoint=toy.folder / "hand.pth")
    assert [entry["loss"] for entry in same["epochs"]] == [entry["loss"] for entry in record["epochs"]]
    # Epochs were judged by them too.
    assert [entry["valid"] for entry in same["epochs"]] == [entry["valid"] for entry in record["epochs"]]
    assert (same["valid"], same["test"]) == (record["valid"], record["test"])
    assert record["test"] != given["test"]


def test_resuming_what_is_done_changes_nothing(toy, chosen, comparable):
    record = toy.run(**ALL)
    assert comparable(toy.run(**ALL, resume=True)) == comparable(record)


def test_training_is_judged_by_them_or_by_the_settings_weights(toy, chosen):
    plain = toy.run(**ALL, fit_weights=False, checkpoint=toy.folder / "plain.pth")
    given = toy.run(**ALL, judge_by_fitted=False)
    assert [entry["valid"] for entry in given["epochs"]] == [entry["valid"] for entry in plain["epochs"]]
    assert not any("weights" in entry for entry in (*given["epochs"], *plain["epochs"]))
    fitted = toy.run(**ALL, checkpoint=toy.folder / "fitted.pth")
    assert [entry["loss"] for entry in fitted["epochs"]] == [entry["loss"] for entry in plain["epochs"]]
    assert [entry["weights"] for entry in fitted["epochs"]] == [CHOSEN] * 2
    assert [entry["valid"] for entry in fitted["epochs"]] != [entry["valid"] for entry in plain["epochs"]]


def test_interrupted_and_resumed_it_is_judged_alike(toy, chosen, comparable, monkeypatch):
    more = {**ALL, "epochs": 3}
    whole = toy.run(**more)
    shutil.rmtree(toy.saved)
    train_epoch = trainer_module.SequenceTrainer._train_epoch
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train_epoch(self, *args, **kwargs)

    monkeypatch.setattr(trainer_module.SequenceTrainer, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.run(**more)
    monkeypatch.setattr(trainer_module.SequenceTrainer, "_train_epoch", train_epoch)
    assert comparable(toy.run(**more, resume=True)) == comparable(whole)


def test_stage_2_starts_with_the_settings_weights(toy, chosen, comparable):
    both = {**ALL, "stages": ["supervised", "alignment"], "align_epochs": 1, "align_group": 4, "align_future": 3}
    whole = toy.run(**both)
    shutil.rmtree(toy.saved)
    toy.run(**ALL)
    (start,) = toy.saved.glob("*/best.pth")
    later = toy.run(**both, align_from=str(start))
    ours, theirs = (comparable(record)["epochs"][-1] for record in (later, whole))
    assert ours == theirs and later["weights"] == whole["weights"]


def test_a_weight_given_when_the_model_is_asked_goes_before_the_chosen(toy, chosen):
    toy.run(**ALL)
    settings = toy.settings(**ALL)
    loaded = load_trained("toy", config_dict=settings)
    assert loaded.model.weights.remember == CHOSEN["remember"] and loaded.model.weights.reason == CHOSEN["reason"]
    asked = load_trained("toy", config_dict={**settings, "remember_weight": 5.0})
    assert asked.model.weights.remember == 5.0
    assert asked.model.weights == EvidenceWeights.from_settings(asked.config)


def test_models_of_one_kind_of_evidence_have_nothing_to_weigh(toy):
    assert toy.run(epochs=1)["weights"] == {}
    assert toy.run("SASRecWhole", epochs=1)["weights"] == {}


def test_the_real_search_runs_on_validation(toy):
    record = toy.run(**{**ALL, "gate": True})
    fit = record["weights"]
    assert fit["users"] == 60 and fit["valid_score"] >= fit["given_valid_score"]
    assert record["gate"]["users"] == 60
    assert record["gate"]["given_valid_score"] == pytest.approx(fit["valid_score"], abs=1e-6)
    if not record["gate"]["kept"]:
        assert record["valid"]["ndcg@10"] == pytest.approx(fit["valid_score"], abs=1e-6)
