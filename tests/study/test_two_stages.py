"""One fit, two stages: from settings to the record, interrupted anywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from recbole_reg4rec import cli
from recbole_reg4rec.alignment.sampling import Sampler
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.reg4rec import REG4Rec
from recbole_reg4rec.model.repeat import Repeat
from recbole_reg4rec.study import job
from recbole_reg4rec.trainer import trainer

BOTH = {
    "stages": ["supervised", "alignment"],
    "align_epochs": 2,
    "align_group": 4,
    "align_future": 3,
    "align_schedule": "constant",
    "reward_step_hit": 1.0,
    "reward_category_hit": 1.0,
    "reward_step_consistency": 1.0,
}
LOGGED = {
    *("reward", "reward_step_hit", "reward_global_path", "reward_category_hit", "reward_step_consistency"),
    *("kl", "entropy", "no_signal", "valid"),
}


def stop_before(monkeypatch, stage: str, epoch: int) -> None:
    """Ctrl-C where an epoch of a stage begins."""
    train_epoch = trainer.SequenceTrainer._train_epoch

    def interrupted(self, data, number, **keywords):
        if (self.stage.name, number) == (stage, epoch):
            raise KeyboardInterrupt
        return train_epoch(self, data, number, **keywords)

    monkeypatch.setattr(trainer.SequenceTrainer, "_train_epoch", interrupted)


def test_each_stage_is_validated_at_its_own_pace(toy) -> None:
    record = toy.run(**{**BOTH, "align_epochs": 3}, epochs=3, eval_step=3, align_eval_step=2)
    validated = [(entry["stage"], entry["epoch"]) for entry in record["epochs"] if "valid" in entry]
    assert validated == [("supervised", 2), ("alignment", 1), ("alignment", 2)]


def test_where_whole_paths_alone_are_rewarded_the_log_shows_that_reward_alone(toy):
    only = {**BOTH, "reward_step_hit": 0.0, "reward_category_hit": 0.0, "reward_step_consistency": 0.0}
    record = toy.run(**only, align_learning_rate=0.01)
    for entry in record["epochs"][-2:]:
        found = entry["alignment"]
        assert set(found) == {"reward", "reward_global_path", "kl", "entropy", "no_signal", "valid"}
        assert found["reward"] == pytest.approx(found["reward_global_path"]) and found["valid"] == 1.0
        assert 0 < found["reward"] < 1 and 0 < found["no_signal"] < 1


def test_both_stages_are_trained_logged_and_compared(toy):
    record = toy.run(**BOTH, align_log_every=2, align_learning_rate=0.01)
    stages = record["stages"]
    assert [(entry["stage"], entry["epoch"]) for entry in record["epochs"]] == [
        *(("supervised", epoch) for epoch in range(3)),
        *(("alignment", epoch) for epoch in range(2)),
    ]
    aligned = [entry for entry in record["epochs"] if entry["stage"] == "alignment"]
    for entry in aligned:
        assert set(entry["alignment"]) == LOGGED and entry["alignment"]["valid"] == 1.0
        assert len(entry["loss"]) == 3 and all(set(line) == LOGGED for line in entry["alignment_steps"])
        assert entry["alignment"]["reward"] == pytest.approx(
            sum(entry["alignment"][name] for name in LOGGED if name.startswith("reward_")), abs=1e-4
        )
    assert aligned[0]["alignment_steps"][0]["kl"] < aligned[-1]["alignment"]["kl"]
    best = max(entry["valid_score"] for entry in record["epochs"])
    assert max(stages[name]["best_valid_score"] for name in ("supervised", "alignment")) == best
    assert stages[stages["winner"]]["best_valid_score"] == best
    assert record["valid"] == stages[stages["winner"]]["best_valid"]
    assert all(stages[name]["targets_per_second"] > 0 for name in ("supervised", "alignment"))


def test_stage_2_never_leaves_a_worse_model(toy, monkeypatch):
    """Where stage 2 ends below stage 1, stage 1 wins and its model is what is evaluated."""
    falling = iter([9.0, 8.0, 7.0, *(9.0, 8.0, 7.0), *(6.0, 5.0)])  # alone, then both stages
    monkeypatch.setattr(trainer, "calculate_valid_score", lambda result, metric: next(falling))
    alone = toy.run()
    shutil.rmtree(toy.saved)
    wrecked = toy.run(**BOTH, align_learning_rate=0.3, align_supervised_weight=0, align_max_kl=1e9, align_min_entropy=0)
    assert wrecked["stages"]["winner"] == "supervised"
    assert (wrecked["valid"], wrecked["test"]) == (alone["valid"], alone["test"])
    assert wrecked["epochs"][:3] == [{**entry, **_seconds(mine)} for entry, mine in _pairs(alone, wrecked)]


def _pairs(one, other):
    return list(zip(one["epochs"], other["epochs"], strict=False))


def _seconds(entry):
    return {name: value for name, value in entry.items() if name.endswith("seconds")}


@pytest.mark.parametrize(
    ("stage", "epoch", "more"),
    [
        ("supervised", 1, {}),
        ("alignment", 0, {}),
        ("alignment", 1, {}),
        ("alignment", 1, {"align_updates": 2, "align_schedule": "cosine", "align_dropout": True}),
        ("alignment", 1, {"decoding_order": "random", "align_encoder": False}),
    ],
)
def test_interrupted_in_either_stage_and_resumed_equals_uninterrupted(toy, comparable, monkeypatch, stage, epoch, more):
    settings = {**BOTH, **more}
    whole = toy.run(**settings)
    shutil.rmtree(toy.saved)
    with monkeypatch.context() as patched:
        stop_before(patched, stage, epoch)
        with pytest.raises(KeyboardInterrupt):
            toy.run(**settings)
    resumed = toy.run(resume=True, **settings)
    assert comparable(resumed) == comparable(whole)


def test_killed_between_the_best_model_of_stage_2_and_its_state(toy, comparable, monkeypatch):
    """The best file is of stage 2 already, the state still of its beginning: what stage 2 starts from is in there."""
    settings = {**BOTH, "epochs": 1}
    # Every epoch is better than the one before: of the whole run, of the one that is killed, of its continuation.
    rising = iter([1.0, 2.0, 3.0, *(1.0, 2.0), *(2.0, 3.0)])
    monkeypatch.setattr(trainer, "calculate_valid_score", lambda result, metric: next(rising))
    whole = toy.run(**settings)
    assert whole["stages"]["winner"] == "alignment", "otherwise this shows nothing"
    shutil.rmtree(toy.saved)
    save = trainer.SequenceTrainer._save

    def killed(self, path, epoch):
        if self.stage.name == "alignment" and epoch == 0 and path == self.last_file:
            raise KeyboardInterrupt
        save(self, path, epoch)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.SequenceTrainer, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            toy.run(**settings)
    assert toy.checkpoint("best")["stage"] == 1 and toy.checkpoint()["epoch"] == -1
    resumed = toy.run(resume=True, **settings)
    assert comparable(resumed) == comparable(whole)


# In stage 1 the test of the command itself does it (tests/test_commands.py).
@pytest.mark.parametrize("when", ["alignment"])
def test_kill_9_at_any_moment(toy, comparable, when):
    """A process of the real command, killed hard in the middle of a stage."""
    settings = toy.settings(**BOTH, epochs=4) | {"align_epochs": 4}
    file = toy.folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    root = Path(job.__file__).parents[2]
    arguments = ["--dataset=toy", f"--config_files={file}", "--resume", f"--results_dir={toy.results}"]
    command = [sys.executable, "-m", "recbole_reg4rec", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(toy.saved.glob("*/best.last.pth")):
            state = toy.checkpoint()
            if (state["stage"], when) in ((0, "supervised"), (1, "alignment")) and state["epoch"] >= 0:
                break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cli.main(arguments) == 0
    (resumed,) = toy.records()
    shutil.rmtree(toy.saved)
    assert cli.main(arguments) == 0
    records = [comparable(json.loads(path.read_text())) for path in toy.records()]
    assert len(records) == 2 and records[0] == records[1]


@pytest.mark.parametrize("best", ["wherever it is", "first"])
def test_stage_2_from_a_checkpoint_equals_both_stages_at_once(toy, comparable, monkeypatch, best):
    if best == "first":
        # A best model from before the last epoch has fewer epochs behind it than the run that goes on from it.
        falling = iter(range(100, 0, -1))
        monkeypatch.setattr(trainer, "calculate_valid_score", lambda result, metric: float(next(falling)))
    whole = toy.run(**BOTH)
    shutil.rmtree(toy.saved)
    toy.run()
    (start,) = toy.saved.glob("*/best.pth")
    before = start.read_bytes()
    later = toy.run(**BOTH, align_from=str(start))
    assert start.read_bytes() == before, "what it starts from stays as it was"
    assert (later["valid"], later["test"]) == (whole["valid"], whole["test"])
    assert [entry["stage"] for entry in later["epochs"]].count("alignment") == 2
    ours, theirs = (comparable(record)["epochs"][-2:] for record in (later, whole))
    assert [entry["alignment"] for entry in ours] == [entry["alignment"] for entry in theirs]


def test_stage_2_starts_only_from_a_fitting_best_model_of_stage_1(toy):
    toy.run(**BOTH, checkpoint=toy.folder / "both.pth", align_learning_rate=0.003)
    toy.run(checkpoint=toy.folder / "one.pth")
    fresh = {**BOTH, "checkpoint": toy.folder / "new.pth"}
    with pytest.raises(UserError, match="align_from names .*last state"):
        toy.run(**fresh, align_from=str(toy.folder / "one.last.pth"))
    with pytest.raises(UserError, match="missing.pth does not exist"):
        toy.run(**fresh, align_from=str(toy.folder / "missing.pth"))
    with pytest.raises(UserError, match="hidden_size=16.*hidden_size=8"):
        toy.run(**fresh, align_from=str(toy.folder / "one.pth"), hidden_size=8)
    with pytest.raises(UserError, match="its own best model"):
        toy.run(**{**fresh, "checkpoint": toy.folder / "one.pth"}, align_from=str(toy.folder / "one.pth"))
    with pytest.raises(UserError, match="nothing starts from it"):
        toy.run(checkpoint=toy.folder / "new.pth", align_from=str(toy.folder / "one.pth"))
    assert torch.load(toy.folder / "both.pth", weights_only=True)["stage"] == 1
    with pytest.raises(UserError, match="a model of stage 2"):
        toy.run(**fresh, align_from=str(toy.folder / "both.pth"))


@pytest.mark.parametrize(
    ("bound", "said"),
    [({"align_max_kl": 1e-9}, "beyond align_max_kl"), ({"align_min_entropy": 50.0}, "below align_min_entropy")],
)
def test_collapse_stops_the_stage_and_keeps_the_best(toy, comparable, caplog, bound, said):
    record = toy.run(**BOTH, **bound, train_batch_size=16)
    assert said in caplog.text
    assert said in record["stages"]["alignment"]["collapsed"] and record["stages"]["winner"] == "supervised"
    assert [entry["stage"] for entry in record["epochs"]].count("alignment") == 1
    assert "valid" not in record["epochs"][-1]
    assert record["valid"] == record["stages"]["supervised"]["best_valid"]
    again = toy.run(**BOTH, **bound, train_batch_size=16, resume=True)
    assert comparable(again) == comparable(record)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({name: 0 for name in LOGGED if name.startswith("reward_")}, "all 0"),
        ({"align_future": 500}, "align_future is 500"),
        ({"align_group": 1}, "align_group.*>= 2"),
        ({"stages": ["alignment"]}, r"stages is \['alignment'\]"),
        ({"stages": ["alignment", "supervised"]}, "stages is"),
        ({"stages": ["pretraining"]}, "stages"),
        ({"align_temperature": 0}, "align_temperature"),
        ({"align_gamma": 1.5}, "align_gamma"),
    ],
)
def test_mistakes_are_told_in_one_sentence(toy, settings, said):
    with pytest.raises(UserError, match=said) as caught:
        toy.run(**{**BOTH, **settings})
    assert "\n" not in str(caught.value)
    assert not toy.records()


def test_an_empty_category_column_is_told(toy):
    toy.item.write_text("item_id:token\tclass:token\n" + "".join(f"i{i}\t\n" for i in range(40)))
    with pytest.raises(UserError, match="column 'class'.*empty"):
        toy.run(**BOTH, item_category_field="class")


@pytest.mark.parametrize(
    "more", [{"item_path": True, "memory": True, "repeat": True}, {"history_form": "flat"}, {"codebooks": 1}]
)
def test_stage_2_works_with_every_form_of_the_model(toy, more):
    record = toy.run(**{**BOTH, "align_epochs": 1}, epochs=1, **more)
    assert record["stages"]["alignment"]["epochs"] == 1 and record["test"]["recall@10"] >= 0


def test_stage_2_draws_no_path_to_what_repeat_rules_out(toy, monkeypatch):
    asked, drawn = [], []
    odds_at, sample = REG4Rec.odds_at, Sampler.sample

    def watched_odds(self, items, places):
        asked.append((items, places))
        return odds_at(self, items, places)

    def watched_sample(self, *rest):
        groups = sample(self, *rest)
        drawn.append(groups.items[:, : BOTH["align_group"]])
        return groups

    monkeypatch.setattr(REG4Rec, "odds_at", watched_odds)
    monkeypatch.setattr(Sampler, "sample", watched_sample)
    monkeypatch.setattr(Repeat, "forward", lambda self, ages: 0.0 * self.log_odds[0] - 50.0 * torch.ones(len(ages)))
    for known in (True, False):
        asked.clear()
        drawn.clear()
        toy.run(**{**BOTH, "align_epochs": 1}, epochs=1, repeat=True, reason_repeats=known)
        seen = [items[row, : place + 1] for items, places in asked for row, place in places.nonzero().tolist()]
        groups = torch.cat(drawn)
        assert len(seen) == len(groups) > 50
        again = [bool(torch.isin(group, history).any()) for group, history in zip(groups, seen, strict=True)]
        assert any(again) != known


def test_settings_of_stage_2_bind_nothing_without_it(toy):
    toy.run()
    again = toy.run(align_group=4, reward_step_hit=2.0, resume=True)
    assert len(again["epochs"]) == 3 and len(list(toy.saved.glob("*/best.pth"))) == 1
