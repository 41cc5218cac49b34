"""The trainer by itself; whole runs, resumed and interrupted ones are in tests/study/test_quick_start.py."""

import copy

import pytest
import torch

from recbole_reg4rec.config import resolved_settings
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.trainer.trainer import SequenceTrainer


@pytest.fixture
def trainer_of(toy_data, tmp_path):
    """A factory of (trainer, toy) on twelve users in a circle of twelve items."""

    made = []

    def make(folder="c", fingerprint="same", **settings):
        rows = [(f"u{u}", f"i{(u + t) % 12}", t) for u in range(12) for t in range(4 + u % 4)]
        fixed = {"learning_rate": 0.001, "learning_rate_schedule": "constant", "warmup_steps": 0, "epochs": 3}
        toy = toy_data(rows, topk=[1, 5], valid_metric="NDCG@5", **{**fixed, **settings})
        best, last = tmp_path / folder / "best.pth", tmp_path / folder / "best.last.pth"
        plain = resolved_settings(toy.config)
        made.append(SequenceTrainer(toy.config, toy.model, plain, best, last, fingerprint))
        return made[-1], toy

    yield make
    for trainer in made:
        trainer.tensorboard.close()


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_fit_logs_saves_and_reports(trainer_of):
    trainer, toy = trainer_of()
    before, called = weights(trainer), []
    score, result = trainer.fit(toy.data.train, toy.data.valid, callback_fn=lambda *given: called.append(given))
    assert [entry["epoch"] for entry in trainer.epochs_log] == [0, 1, 2]
    assert called == [(entry["epoch"], entry["valid_score"]) for entry in trainer.epochs_log]
    assert score == max(entry["valid_score"] for entry in trainer.epochs_log) == result["ndcg@5"]
    assert trainer.trained_targets == 3 * toy.data.train.targets and trainer.train_seconds > 0
    assert trainer.steps == 3 * len(toy.data.train)
    assert not same(before, weights(trainer))
    # Every part of the loss is logged: tokens and categories.
    assert all(len(entry["loss"]) == 2 for entry in trainer.epochs_log)


@pytest.mark.parametrize("first", [0.2, 0.3])  # of equal ones the later is kept
def test_the_log_names_the_best_epoch_when_the_last_one_is_validated_out_of_turn(trainer_of, monkeypatch, first):
    trainer, toy = trainer_of(epochs=5, eval_step=2, stopping_step=1)
    scores, told = iter([{"ndcg@5": first}, {"ndcg@5": 0.3}, {"ndcg@5": 0.1}]), []
    monkeypatch.setattr(trainer, "evaluate", lambda *args, **named: next(scores))
    monkeypatch.setattr(trainer.logger, "info", told.append)
    monkeypatch.setattr(trainer, "stopping_step", 0)  # any validation without a gain ends training
    trainer.fit(toy.data.train, toy.data.valid, verbose=True)
    assert [entry["epoch"] for entry in trainer.epochs_log if "valid" in entry] == [1, 3, 4]
    assert "Finished training, best eval result in epoch 3" in told


def test_unsaved_training_leaves_no_file(trainer_of):
    trainer, toy = trainer_of()
    trainer.fit(toy.data.train, toy.data.valid, saved=False)
    assert not trainer.best_file.exists() and not trainer.last_file.exists()


def test_evaluate_loads_the_best_model_and_keeps_ranks_that_explain_the_metrics(trainer_of):
    trainer, toy = trainer_of()
    trainer.fit(toy.data.train, toy.data.valid)
    best = torch.load(trainer.best_file, weights_only=True)["state_dict"]
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1.0)
    result = trainer.evaluate(toy.data.test)
    assert same(best, weights(trainer))
    ranks = trainer.ranks
    assert len(ranks) == len(toy.data.test._dataset) == 12
    for depth in (1, 5):
        assert result[f"hit@{depth}"] == pytest.approx((ranks < depth).double().mean().item(), abs=1e-6)
    assert trainer.evaluate(None) == {}
    assert all(type(value) is float for value in result.values())


def test_the_schedule_reaches_the_optimiser(trainer_of):
    trainer, toy = trainer_of(learning_rate=0.5, warmup_steps=2, learning_rate_schedule="linear", train_batch_size=16)
    steps, seen = 3 * len(toy.data.train), []
    step = trainer.optimizer.step

    def watched(*given, **more):
        seen.append(trainer.optimizer.param_groups[0]["lr"])
        return step(*given, **more)

    trainer.optimizer.step = watched
    trainer.fit(toy.data.train, saved=False)
    left = [1 - done / (steps - 2) for done in range(steps - 2)]
    assert len(seen) == steps > 6
    assert seen == pytest.approx([0.25, 0.5, *(0.5 * (0.01 + 0.99 * part) for part in left)])


def test_gradients_are_clipped(trainer_of):
    trainer, toy = trainer_of(clip_grad_norm={"max_norm": 1e-3})
    norms, step = [], trainer.optimizer.step

    def watched(*given, **more):
        gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        return step(*given, **more)

    trainer.optimizer.step = watched
    trainer.fit(toy.data.train, saved=False)
    assert norms and max(norms) <= 1.001e-3


def test_resuming_restores_optimiser_and_history(trainer_of):
    trainer, toy = trainer_of()
    trainer.fit(toy.data.train, toy.data.valid)
    other, _ = trainer_of()
    other.resume_checkpoint(trainer.last_file)
    assert other.start_epoch == 3 and other.finished and other.steps == trainer.steps
    assert other.epochs_log == trainer.epochs_log and other.best_valid_score == trainer.best_valid_score
    assert same(weights(trainer), weights(other))
    mine, theirs = trainer.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys() and mine
    assert all(torch.equal(mine[key]["exp_avg_sq"], theirs[key]["exp_avg_sq"]) for key in mine)


def test_an_epoch_depends_on_nothing_but_the_state_before_it(trainer_of):
    """Whatever was drawn from the generators in between."""
    results = []
    for disturb in (0, 5):
        trainer, toy = trainer_of()
        trainer.fit(toy.data.train, saved=False, callback_fn=None)
        start = copy.deepcopy(trainer.model.state_dict())
        torch.rand(disturb)
        trainer.start_epoch, trainer.epochs, trainer.finished = 3, 4, False
        trainer.fit(toy.data.train, saved=False)
        results.append((start, trainer.epochs_log[-1]["loss"], weights(trainer)))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1] and same(results[0][2], results[1][2])


def test_checkpoints_of_other_data_and_other_sizes_are_refused(trainer_of):
    trainer, toy = trainer_of()
    trainer.fit(toy.data.train, toy.data.valid)
    other, _ = trainer_of(fingerprint="other")
    with pytest.raises(UserError, match="other data"):
        other.resume_checkpoint(trainer.last_file)
    with pytest.raises(UserError, match="other data"):
        other.evaluate(toy.data.test, model_file=str(trainer.best_file))
    smaller, _ = trainer_of()
    smaller.model.reasoner.begin = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(UserError, match="does not fit") as caught:
        smaller.resume_checkpoint(trainer.last_file)
    assert "\n" not in str(caught.value)


def test_unwritable_checkpoint_is_told_before_training(trainer_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        trainer_of(folder="file")


def test_a_loss_that_is_not_finite_stops(trainer_of):
    trainer, toy = trainer_of()
    with torch.no_grad():
        trainer.model.reasoner.project.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="learning_rate"):
        trainer.fit(toy.data.train, toy.data.valid)
