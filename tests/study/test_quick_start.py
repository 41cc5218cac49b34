"""The main job, from files to the record."""

import json
import shutil
import threading

import pytest
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import exclusive
from recbole_reg4rec.model import size
from recbole_reg4rec.study import job
from recbole_reg4rec.trainer.checkpoint import FORMAT

# What tools that read records may rely on.
KEYS = {
    *("model", "dataset", "seed", "settings", "protocol", "data", "tokenizer", "valid", "test"),
    *("seconds", "targets_per_second", "peak_memory_mb", "versions"),
}


def test_the_record_has_its_keys_and_is_json(toy, capsys):
    record = toy.run()
    (path,) = toy.records()
    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == json.loads(
        json.dumps(record)
    )
    assert set(record) >= KEYS
    assert (record["model"], record["dataset"], record["seed"]) == ("REG4Rec", "toy", 2020)
    assert {"masked", "order", "history"} <= set(record["protocol"])
    assert (record["protocol"]["masked"], record["protocol"]["order"], record["protocol"]["history"]) == (
        False,
        "timestamp",
        8,
    )
    assert {"tokenizer", "train", "evaluate", "total"} <= set(record["seconds"])
    expected = {f"{name}@{k}" for name in ("recall", "ndcg", "mrr", "hit", "precision") for k in (1, 5, 10)}
    assert set(record["valid"]) == expected == set(record["test"])
    assert record["data"]["users"] == 60 and record["data"]["test_targets"] == 60
    assert record["settings"]["hidden_size"] == 16 and record["settings"]["learning_rate"] == 0.001
    assert record["tokenizer"]["codebooks"] == 3
    assert record["targets_per_second"] > 0 and record["peak_memory_mb"] > 10
    assert record["versions"]["torch"] == torch.__version__ or record["versions"]["torch"] in torch.__version__
    assert len(record["epochs"]) == 3
    # RecBole's averages of one target a user: hit is recall, precision is recall over depth.
    assert record["test"]["hit@5"] == record["test"]["recall@5"]
    assert record["test"]["precision@5"] == pytest.approx(record["test"]["recall@5"] / 5, abs=1e-6)
    printed = capsys.readouterr().out
    assert str(path.relative_to(toy.folder)) in printed and "@10" in printed and "test ndcg" in printed


def test_the_best_epoch_is_evaluated(toy):
    record = toy.run(epochs=6, learning_rate=0.02)
    best = max(record["epochs"], key=lambda entry: entry["valid_score"])
    assert record["valid"] == best["valid"]
    assert toy.checkpoint("best")["epoch"] == best["epoch"]
    assert toy.checkpoint()["epoch"] == 5


def test_same_seed_same_record_other_seed_other_record(toy, comparable):
    first = toy.run(seed=5)
    shutil.rmtree(toy.saved)
    second = toy.run(seed=5)
    assert comparable(first) == comparable(second)
    assert len(toy.records()) == 2, "no record overwrites another"
    other = toy.run(seed=6)
    assert other["epochs"][0]["loss"] != first["epochs"][0]["loss"]
    assert other["tokenizer"]["fingerprint"] != first["tokenizer"]["fingerprint"]


def test_cached_codes_change_nothing(toy, comparable):
    first, second = toy.run(), toy.run()
    assert (first["tokenizer"]["cached"], second["tokenizer"]["cached"]) == (False, True)
    assert comparable(first) == comparable(second)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("REG4Rec", {}),
        ("REG4Rec", {"learning_rate_schedule": "cosine", "warmup_steps": 3}),
        ("SASRecWhole", {}),
        ("SASRec", {}),
        ("FPMC", {}),
        ("BERT4Rec", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_a_run_stopped_behind_an_epoch_and_resumed_equals_an_uninterrupted_one(
    toy, comparable, monkeypatch, model, more
):
    """Stopped by a KeyboardInterrupt where epoch 2 begins, as Ctrl-C does."""
    whole = toy.run(model, epochs=4, **more)
    shutil.rmtree(toy.saved)
    trainer = job.SequenceTrainer
    train_epoch = trainer._train_epoch

    def interrupted(self, data, epoch, **keywords):
        if epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(self, data, epoch, **keywords)

    monkeypatch.setattr(trainer, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.run(model, epochs=4, **more)
    monkeypatch.setattr(trainer, "_train_epoch", train_epoch)
    assert toy.checkpoint()["epoch"] == 1
    resumed = toy.run(model, resume=True, epochs=4, **more)
    assert comparable(resumed) == comparable(whole)
    assert len(resumed["epochs"]) == 4


def test_resume_with_more_epochs_continues(toy, comparable):
    toy.run(epochs=2)
    longer = toy.run(epochs=4, resume=True)
    shutil.rmtree(toy.saved)
    whole = toy.run(epochs=4)
    assert comparable(longer) == comparable(whole)


def test_resume_with_other_epochs_under_a_schedule_is_said(toy, caplog):
    schedule = {"learning_rate_schedule": "cosine"}
    toy.run(epochs=2, **schedule)
    toy.run(epochs=2, resume=True, **schedule)
    assert "uninterrupted" not in caplog.text
    toy.run(epochs=3, resume=True, **schedule)
    assert "epochs was 2 and is 3 now" in caplog.text


def test_epochs_by_the_data_are_those_that_they_come_to(toy, comparable, caplog, monkeypatch):
    for kind in ("_DENSE_TARGETS", "_SPARSE_TARGETS"):
        monkeypatch.setattr(size, kind, 1)
    monkeypatch.setattr(size, "_FEWEST_EPOCHS", 2)
    schedule = {"learning_rate_schedule": "cosine"}
    by_data = toy.run(epochs="auto", **schedule)
    assert by_data["settings"]["epochs"] == "auto" and len(by_data["epochs"]) == 2
    given = toy.run(epochs=2, resume=True, **schedule)
    assert comparable({**given, "settings": by_data["settings"]}) == comparable(by_data)
    assert "uninterrupted" not in caplog.text
    toy.run(epochs=3, resume=True, **schedule)
    assert "epochs was 2 and is 3 now" in caplog.text


def test_resume_of_a_finished_run_only_evaluates(toy, comparable, monkeypatch):
    whole = toy.run()
    before = {path: path.read_bytes() for path in toy.saved.glob("*/*.pth")}
    monkeypatch.setattr(job.SequenceTrainer, "_train_epoch", lambda *_, **__: pytest.fail("trains again"))
    again = toy.run(resume=True)
    assert comparable(again) == comparable(whole)
    assert {path: path.read_bytes() for path in toy.saved.glob("*/*.pth")} == before


def test_resume_with_nothing_there_starts(toy, comparable):
    resumed = toy.run(resume=True)
    shutil.rmtree(toy.saved)
    assert comparable(resumed) == comparable(toy.run())


def test_resume_of_a_run_that_stopped_early_stays_stopped(toy, comparable):
    stopped = toy.run(epochs=30, stopping_step=0, learning_rate=0.0001)
    assert len(stopped["epochs"]) < 30
    assert comparable(toy.run(epochs=30, stopping_step=0, learning_rate=0.0001, resume=True)) == comparable(stopped)


def test_early_stopping_counts_validations_without_gain(toy):
    record = toy.run(epochs=60, stopping_step=2, learning_rate=0.00001)
    scores = [entry["valid_score"] for entry in record["epochs"]]
    last_best = max(range(len(scores)), key=lambda epoch: (scores[epoch], epoch))  # RecBole counts a tie as a gain
    assert len(scores) == last_best + 1 + 3 < 60


def test_a_checkpoint_of_other_settings_or_data_is_refused(toy):
    checkpoint = toy.folder / "mine.pth"
    toy.run(checkpoint=checkpoint)
    assert checkpoint.is_file() and (toy.folder / "mine.last.pth").is_file()
    with pytest.raises(UserError, match="learning_rate=0.001.*learning_rate=0.5"):
        toy.run(checkpoint=checkpoint, resume=True, learning_rate=0.5)
    with pytest.raises(UserError, match="REG4Rec.*SASRecWhole"):
        toy.run("SASRecWhole", checkpoint=checkpoint, resume=True)
    toy.write(toy.noisy_rows()[:-9])
    with pytest.raises(UserError, match="other data"):
        toy.run(checkpoint=checkpoint, resume=True)
    assert len(toy.records()) == 1


def test_the_best_file_alone_cannot_be_resumed(toy):
    checkpoint = toy.folder / "mine.pth"
    toy.run(checkpoint=checkpoint)
    shutil.copy(checkpoint, toy.folder / "mine.last.pth")
    with pytest.raises(UserError, match="best model only"):
        toy.run(checkpoint=checkpoint, resume=True)


def test_a_run_leaves_no_thread_behind(toy):
    before = threading.active_count()
    toy.run(epochs=1)
    assert threading.active_count() == before


@pytest.mark.parametrize("model", ["REG4Rec", "SASRecWhole", "SASRec", "GRU4Rec", "BERT4Rec", "FPMC"])
def test_every_model_takes_the_same_way(toy, model):
    record = toy.run(model, epochs=1)
    assert record["model"] == model and record["epochs"][0]["loss"] is not None
    assert set(record["test"]) == set(record["valid"]) and 0 <= record["test"]["recall@10"] <= 1
    assert (record["tokenizer"] != {}) == (model == "REG4Rec")
    for kind in ("best", "best.last"):
        assert toy.checkpoint(kind)["format"] == FORMAT and toy.checkpoint(kind)["model"] == model


def test_no_validation_part(toy):
    record = toy.run(eval_args={"split": {"LS": "test_only"}, "order": "TO", "mode": "full"})
    assert record["valid"] == {} and record["data"]["valid_targets"] == 0
    assert record["test"]["recall@10"] >= 0 and record["data"]["test_targets"] == 60
    assert toy.checkpoint("best")["epoch"] == 2, "the last epoch counts where nothing chooses"


def test_rare_validation(toy):
    record = toy.run(epochs=4, eval_step=2)
    assert ["valid" in entry for entry in record["epochs"]] == [False, True, False, True]
    assert toy.checkpoint("best")["epoch"] in (1, 3)


def test_no_epochs_evaluates_the_initial_model_not_an_older_one(toy):
    trained = toy.run(epochs=6, learning_rate=0.02)
    untrained = toy.run(epochs=0, learning_rate=0.02)
    assert untrained["epochs"] == [] and untrained["test"] != trained["test"]
    assert untrained["test"]["recall@10"] < trained["test"]["recall@10"]


def test_masking_changes_protocol_and_never_shows_seen_items(toy, monkeypatch):
    collector = job.SequenceTrainer._full_sort_batch_eval
    batches = []

    def watched(self, batch):
        result = collector(self, batch)
        rows, items = self._eval_dataset.seen_items(result[0])
        batches.append(bool(result[1][rows, items].isneginf().all()))
        return result

    monkeypatch.setattr(job.SequenceTrainer, "_full_sort_batch_eval", watched)
    # Everybody takes three items again and again: unmasked, these are the whole top of the list.
    toy.write([(f"u{u}", f"i{(u + t % 3) % 40}", t) for u in range(60) for t in range(9)])
    unmasked = toy.run(epochs=12, learning_rate=0.02)
    assert not any(batches) and unmasked["protocol"]["masked"] is False
    batches.clear()
    masked = toy.run(epochs=12, learning_rate=0.02, mask_history=True)
    assert all(batches) and masked["protocol"]["masked"] is True
    assert unmasked["test"]["recall@10"] > 0.5
    assert set(masked["test"].values()) == {0.0}, "every target was seen before, so none may be recommended"


def test_sampled_evaluation_runs(toy):
    arguments = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}
    for model, more in (("SASRec", {}), ("REG4Rec", {"item_path": True, "repeat": True})):
        record = toy.run(model, epochs=1, eval_args=arguments, **more)
        assert record["test"]["recall@10"] > 0.5, "eleven candidates"


def test_whole_list_metrics_run(toy):
    names = ["Recall", "NDCG", "ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
    record = toy.run(epochs=1, metrics=names)
    assert record["test"]["itemcoverage@10"] > 0 and record["test"]["averagepopularity@10"] > 0


def test_diverged_training_is_told(toy):
    with pytest.raises(UserError, match="learning_rate"):
        toy.run("GRU4Rec", learning_rate=1e36, epochs=9)


def test_the_last_epoch_is_always_validated(toy):
    record = toy.run(eval_step=2)
    assert ["valid" in entry for entry in record["epochs"]] == [False, True, True]
    alone = toy.run(epochs=1, eval_step=5)
    assert alone["valid"] == alone["epochs"][0]["valid"]


def test_two_runs_on_one_checkpoint_are_refused(toy):
    """The folder does not tell ``epochs`` apart: one run would report what the other has trained."""
    first = toy.run(model="SASRecWhole", epochs=1)
    best = toy.saved / first["checkpoint"]
    with (
        exclusive(best.with_name(f".{best.name}.lock"), keep=True),
        pytest.raises(UserError, match="another run is writing"),
    ):
        toy.run(model="SASRecWhole", epochs=2)
    assert len(toy.records()) == 1
    assert toy.run(model="SASRecWhole", epochs=2)["stages"] != first["stages"]
