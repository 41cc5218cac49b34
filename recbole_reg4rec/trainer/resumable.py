"""A Trainer whose state can be written down, found again, and handed on from one run to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from torch import Tensor

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.trainer.checkpoint import (
    fill_model,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from recbole_reg4rec.trainer.item_stop import ItemStop
from recbole_reg4rec.trainer.stages import Stage


class ResumableTrainer(Trainer):
    """Writes and reads the state of training in stages; `SequenceTrainer` trains.

    The last state of a later stage also holds the model that the stage began from, in one file, so that nothing can
    come between the two.
    """

    # RecBole gives the first ones no type.
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    cur_step: int
    settings: dict[str, Any]
    best_file: Path
    last_file: Path
    fingerprint: str
    tokens: Mapping[str, Any] | None
    epochs_log: list[dict[str, Any]]
    train_seconds: float
    trained_targets: int
    steps: int
    finished: bool
    winner: str | None
    stages: Sequence[Stage]
    stage: Stage
    stage_number: int
    item_stop: ItemStop | None
    _stage_steps: int
    _stage_score: float | None
    _entry_weights: dict[str, Tensor] | None
    _scaler: torch.amp.GradScaler

    def _set_stage(self, number: int) -> None:
        """Takes the settings of a stage; from the second on with an optimiser of its own."""
        self.stage_number, self.stage = number, self.stages[number]
        self.epochs, self.stopping_step = self.stage.epochs, self.stage.stopping_step
        self.eval_step = self.stage.eval_step
        self.learning_rate = self.stage.learning_rate
        self.start_epoch, self.cur_step, self.finished = 0, 0, False
        self._stage_steps, self._stage_score = 0, None
        if number > 0:
            # What stage 2 starts from is the best model of all evidence; nothing trains the item path there.
            self.item_stop = None
            self.optimizer = self._build_optimizer(learning_rate=self.learning_rate)

    def _save(self, path: Path, epoch: int) -> None:
        state = {
            "model": self.config["model"],
            "dataset": self.config["dataset"],
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "stage": self.stage_number,
            "stage_steps": self._stage_steps,
            "stage_score": self._stage_score,
            "winner": self.winner,
            "epoch": epoch,
            "epochs": self.epochs,
            "finished": self.finished,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": self.best_valid_result,
            "epochs_log": self.epochs_log,
            "train_seconds": self.train_seconds,
            "trained_targets": self.trained_targets,
            "steps": self.steps,
            "state_dict": self.model.state_dict(),
            "other_parameter": self._other_parameters(),
        }
        if self.tokens is not None:
            state["tokens"] = dict(self.tokens)
        if path == self.last_file:
            state.update(optimizer=self.optimizer.state_dict(), scaler=self._scaler.state_dict(), random=random_state())
            if self._entry_weights is not None:
                state["entry_weights"] = self._entry_weights
            if self.item_stop is not None:
                state["item_stop"] = self.item_stop.state()
        save_checkpoint(path, state)

    def _other_parameters(self) -> dict[str, Any]:
        """What RecBole's models keep beside their weights; some name whole modules, whose weights are kept anyway."""
        other = self.model.other_parameter()
        return {name: value for name, value in other.items() if not isinstance(value, torch.nn.Module)}

    def resume_checkpoint(self, resume_file: Any) -> None:
        """Continues behind the last finished epoch of ``resume_file``.

        Raises:
            UserError: see `load_checkpoint`; or the file holds a model without the state of its training.
        """
        state = self._read(Path(resume_file))
        if "optimizer" not in state:
            raise UserError(
                f"checkpoint {resume_file} holds the best model only; resume from the '.last' file beside it"
            )
        if state.get("stage", 0) > 0:  # the stage looks at the model that it began from
            self._set_stage(state["stage"])
            self._entry_weights = state["entry_weights"]
            self.model.load_state_dict(self._entry_weights)
            self.stage.begin()
            self.model.load_state_dict(state["state_dict"])
        self._take_progress(state)
        if self.item_stop is not None:
            self.item_stop.load(state["item_stop"])
        self.start_epoch, self.finished = state["epoch"] + 1, state["finished"] and state["epoch"] + 1 >= self.epochs
        collapsed = bool(self.epochs_log) and "collapsed" in self.epochs_log[-1]
        self.finished = self.finished or collapsed or state["cur_step"] > self.stopping_step
        # A checkpoint from before there were stages is of the first.
        self.cur_step = state["cur_step"]
        self._stage_score = state.get("stage_score", state["best_valid_score"] if state["best_valid_result"] else None)
        self._stage_steps = state.get("stage_steps", state["steps"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])
        setting = f"{self.stage.prefix}epochs"
        planned = state.get("epochs", state["settings"].get(setting))
        if planned != self.epochs and self.stage.schedule != "constant":
            self.logger.warning(
                f"{setting} was {planned} and is {self.epochs} now: learning_rate_schedule follows the new number from "
                "here on, so the result is not that of an uninterrupted run"
            )
        self.logger.info(f"Resuming behind epoch {state['epoch']} of {resume_file}")

    def start_from(self, path: Path) -> None:
        """Takes the first stage as done, with the best model of another run as its result.

        Raises:
            UserError: see `load_checkpoint`; or the file is not the best model of a first stage.
        """
        if path.exists() and self.best_file.exists() and path.samefile(self.best_file):
            raise UserError(
                f"setting align_from names {path}, where this run keeps its own best model; name another --checkpoint"
            )
        state = self._read(path, first_stage=True)
        if "optimizer" in state or state.get("stage", 0) > 0:
            found = "the last state of a training" if "optimizer" in state else "a model of stage 2"
            raise UserError(
                f"setting align_from names {path}, which holds {found}; name the best model of a run with "
                "stages=[supervised]"
            )
        self._take_progress(state)
        self.winner, self.finished = self.stage.name, True
        self._save(self.best_file, state["epoch"])
        self.logger.info(f"Stage {self.stage.name} is taken from {path}")

    def _take_progress(self, state: dict[str, Any]) -> None:
        self.best_valid_score, self.best_valid_result = state["best_valid_score"], state["best_valid_result"]
        self.epochs_log, self.winner, self.steps = state["epochs_log"], state.get("winner"), state["steps"]
        self.train_seconds, self.trained_targets = state["train_seconds"], state["trained_targets"]

    def _read(self, path: Path, first_stage: bool = False) -> dict[str, Any]:
        state = load_checkpoint(path, self.config["model"], self.settings, self.device, first_stage)
        fill_model(path, state, self.model, self.fingerprint)
        return state
