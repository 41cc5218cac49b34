"""One Trainer for every model: whole-sequence or prefix data, exact evaluation, checkpoints that resume."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import calculate_valid_score, dict2str, early_stopping, init_seed, set_color
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_reg4rec.data.sequences import WholeSequenceLoader
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.trainer.checkpoint import (
    check_checkpoint_path,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from recbole_reg4rec.trainer.collector import RankCollector
from recbole_reg4rec.trainer.schedule import rate_factor


class SequenceTrainer(Trainer):
    """Trains and evaluates; every epoch's randomness follows from seed and epoch, so a resumed run repeats it.

    Args:
        config: RecBole configuration.
        model: the recommender.
        settings: all settings as plain data, kept in checkpoints.
        best_file: where the best model goes.
        last_file: where the state after each epoch goes.
        fingerprint: of the data and the codes; a checkpoint of other data is refused.

    Attributes:
        epochs_log: one dictionary an epoch: loss, seconds, and validation metrics.
        train_seconds, trained_targets: totals over all epochs, resumed ones included.
    """

    # RecBole gives these no type.
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    cur_step: int

    def __init__(
        self,
        config: Any,
        model: Any,
        settings: dict[str, Any],
        best_file: Path,
        last_file: Path,
        fingerprint: str = "",
    ) -> None:
        try:
            super().__init__(config, model)
        except OSError as error:
            raise UserError(
                f"folder {error.filename} cannot be written ({error.strerror}); set checkpoint_dir, or start elsewhere"
            ) from error
        check_checkpoint_path(best_file)
        check_checkpoint_path(last_file)
        self.settings, self.best_file, self.last_file = settings, best_file, last_file
        self.fingerprint = fingerprint
        self.saved_model_file = str(best_file)
        self.eval_collector = RankCollector(config)
        self.epochs_log: list[dict[str, Any]] = []
        self.train_seconds, self.trained_targets, self.steps = 0.0, 0, 0
        self.finished = False
        self._amp = self._amp_type() if config["enable_amp"] and self.device.type == "cuda" else None
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._amp is torch.float16)
        self._eval_dataset: Any = None
        self._mask_history = bool(config["mask_history"])

    @staticmethod
    def _amp_type() -> torch.dtype:
        """bfloat16 where the GPU has it, since it needs no loss scaling."""
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    # ---------------------------------------------------------------------------------------------- training

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Trains until ``epochs`` or early stopping; see RecBole's Trainer for the arguments.

        Returns:
            best validation score and all validation metrics at that epoch.
        """
        self.eval_collector.data_collect(train_data)
        validates = bool(valid_data) and self.eval_step > 0
        for epoch in range(self.start_epoch, self.epochs):
            if self.finished:
                break
            self._seed_epoch(epoch, train_data)
            begin = perf_counter()
            losses = self._train_epoch(train_data, epoch, show_progress=show_progress)
            seconds = perf_counter() - begin
            self.train_seconds += seconds
            self.trained_targets += self._targets(train_data)
            entry: dict[str, Any] = {"epoch": epoch, "loss": losses, "seconds": round(seconds, 3)}
            if verbose:
                self.logger.info(self._generate_train_loss_output(epoch, begin, begin + seconds, losses))
            self._add_train_loss_to_tensorboard(epoch, losses)
            improved = True
            if validates and (epoch + 1) % self.eval_step == 0:
                improved = self._validate(epoch, valid_data, entry, verbose, show_progress)
            self.epochs_log.append(entry)
            self.finished = self.finished or epoch + 1 == self.epochs
            if saved:
                if improved and ("valid" in entry or not validates):
                    self._save(self.best_file, epoch)
                self._save(self.last_file, epoch)
            if callback_fn and "valid" in entry:
                callback_fn(epoch, entry["valid_score"])
        if saved and not self.epochs_log:
            # Nothing to train (epochs: 0): the best model is the initial one, not what an earlier run has left here.
            self._save(self.best_file, -1)
        return self.best_valid_score, self.best_valid_result

    def _validate(self, epoch: int, valid_data: Any, entry: dict[str, Any], verbose: bool, show_progress: bool) -> bool:
        begin = perf_counter()
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        score = calculate_valid_score(result, self.valid_metric)
        self.best_valid_score, self.cur_step, self.finished, improved = early_stopping(
            score, self.best_valid_score, self.cur_step, max_step=self.stopping_step, bigger=self.valid_metric_bigger
        )
        entry.update(valid=dict(result), valid_score=float(score), valid_seconds=round(perf_counter() - begin, 3))
        if improved:
            self.best_valid_result = dict(result)
        if verbose:
            head = set_color(f"epoch {epoch} evaluating", "green")
            label = set_color("valid_score", "blue")
            self.logger.info(f"{head} [time: {entry['valid_seconds']:.2f}s, {label}: {score:f}]")
            self.logger.info(set_color("valid result", "blue") + ": \n" + dict2str(result))
        self.tensorboard.add_scalar("Valid_score", score, epoch)
        self.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")
        if self.finished and verbose:
            self.logger.info(f"Finished training, best eval result in epoch {epoch - self.cur_step * self.eval_step}")
        return bool(improved)

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[..., Any] | None = None,
        show_progress: bool = False,
    ) -> float | tuple[float, ...]:
        """One pass; returns the mean loss a batch, a tuple where the model's loss has parts."""
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        batches = len(train_data)
        label = set_color(f"Train {epoch_idx:>5}", "pink")
        bar = tqdm(train_data, total=batches, ncols=100, desc=label, disable=not show_progress, unit="batch")
        total: np.ndarray | None = None
        parts = False
        for interaction in bar:
            interaction = interaction.to(self.device)
            self._set_rate(batches)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, dtype=self._amp) if self._amp else nullcontext():
                losses = loss_func(interaction)
            parts = isinstance(losses, tuple)
            loss = sum(losses) if parts else losses
            values = np.array([float(part.detach()) for part in losses] if parts else [float(loss.detach())])
            if not np.isfinite(values).all():
                raise UserError(f"training loss became {values.sum()} in epoch {epoch_idx}; lower learning_rate")
            self._scaler.scale(loss).backward()
            if self.clip_grad_norm:
                self._scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.steps += 1
            total = values if total is None else total + values
        mean = (total if total is not None else np.zeros(1)) / max(batches, 1)
        return tuple(float(x) for x in mean) if parts else float(mean[0])

    def _set_rate(self, batches: int) -> None:
        factor = rate_factor(
            self.steps,
            batches * self.epochs,
            int(self.config["warmup_steps"] or 0),
            str(self.config["learning_rate_schedule"] or "constant"),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    def _seed_epoch(self, epoch: int, train_data: Any) -> None:
        seed = int(np.random.SeedSequence([int(self.config["seed"]), epoch]).generate_state(1)[0])
        init_seed(seed, self.config["reproducibility"])
        if isinstance(train_data, WholeSequenceLoader):
            train_data.set_epoch(epoch)
        else:
            train_data.generator.manual_seed(seed)

    @staticmethod
    def _targets(train_data: Any) -> int:
        return train_data.targets if isinstance(train_data, WholeSequenceLoader) else len(train_data._dataset)

    # -------------------------------------------------------------------------------------------- checkpoints

    def _save(self, path: Path, epoch: int) -> None:
        state = {
            "model": self.config["model"],
            "dataset": self.config["dataset"],
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "epoch": epoch,
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
        if path == self.last_file:
            state.update(optimizer=self.optimizer.state_dict(), scaler=self._scaler.state_dict(), random=random_state())
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
        self.start_epoch, self.finished = state["epoch"] + 1, state["finished"] and state["epoch"] + 1 >= self.epochs
        stopped_early = state["cur_step"] > self.stopping_step
        self.finished = self.finished or stopped_early
        self.cur_step, self.best_valid_score = state["cur_step"], state["best_valid_score"]
        self.best_valid_result, self.epochs_log = state["best_valid_result"], state["epochs_log"]
        self.train_seconds, self.trained_targets = state["train_seconds"], state["trained_targets"]
        self.steps = state["steps"]
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])
        planned = state["settings"].get("epochs")
        if planned != self.epochs and self.config["learning_rate_schedule"] not in (None, "constant"):
            self.logger.warning(
                f"epochs was {planned} and is {self.epochs} now: learning_rate_schedule follows the new number from "
                "here on, so the result is not that of an uninterrupted run"
            )
        self.logger.info(f"Resuming behind epoch {state['epoch']} of {resume_file}")

    def _read(self, path: Path) -> dict[str, Any]:
        state = load_checkpoint(path, self.config["model"], self.settings, self.device)
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                f"checkpoint {path} was trained on other data than those that {state['dataset']} holds now; "
                "train again without --resume, or give another --checkpoint"
            )
        try:
            self.model.load_state_dict(state["state_dict"])
        except RuntimeError as error:
            raise UserError(f"checkpoint {path} does not fit the data set's catalogue or the model's sizes") from error
        self.model.load_other_parameter(state["other_parameter"])
        return state

    # --------------------------------------------------------------------------------------------- evaluation

    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> dict[str, float]:
        """RecBole's metrics on ``eval_data``; ranks of the targets are in `ranks` afterwards."""
        if not eval_data:
            return {}
        if load_best_model:
            self._read(Path(model_file or self.best_file))
        self._eval_dataset = eval_data._dataset
        result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        self.ranks: Tensor = self.eval_collector.take_ranks()
        return {name: float(value) for name, value in result.items()}

    def _full_sort_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval(batched_data)
        if self._mask_history:
            rows, items = self._eval_dataset.seen_items(interaction)
            scores[rows.to(scores.device), items.to(scores.device)] = -torch.inf
        return interaction, scores, positive_u, positive_i
