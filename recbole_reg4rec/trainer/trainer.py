"""One Trainer for every model: whole-sequence or prefix data, exact evaluation, checkpoints that resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import calculate_valid_score, dict2str, early_stopping, init_seed, set_color
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_reg4rec.anomaly import without_anomaly_detection
from recbole_reg4rec.data.dataset import LOG_POSITION
from recbole_reg4rec.data.sequences import WholeSequenceLoader
from recbole_reg4rec.decoding.corp import PruningStatistics
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.trainer.checkpoint import check_checkpoint_path, save_checkpoint
from recbole_reg4rec.trainer.collector import RankCollector
from recbole_reg4rec.trainer.gate_fit import GateFit, fit_gate
from recbole_reg4rec.trainer.heap import ReleasesFreeMemory, release_free_memory
from recbole_reg4rec.trainer.item_stop import item_stop
from recbole_reg4rec.trainer.protocols import BothProtocols
from recbole_reg4rec.trainer.resumable import ResumableTrainer
from recbole_reg4rec.trainer.schedule import rate_factor
from recbole_reg4rec.trainer.stages import Stage, SupervisedStage, better, stage_summary
from recbole_reg4rec.trainer.weights import JUDGING, WeightFit, fit_weights


class SequenceTrainer(ResumableTrainer):
    """Trains and evaluates; every epoch's randomness follows from seed and epoch, so a resumed run repeats it.

    Args:
        config: RecBole configuration.
        model: the recommender.
        settings: all settings as plain data, kept in checkpoints.
        best_file: where the best model goes.
        last_file: where the state after each epoch goes.
        fingerprint: of the data and the codes; a checkpoint of other data is refused.
        stages: one after the other, each from the best model before it; none given: the model's own loss alone.
        tokens: of a model of tokens what its checkpoints keep of them, as tensors and plain data.

    Attributes:
        epochs_log: one dictionary an epoch: stage, loss, seconds, validation metrics, and what the stage logs.
        winner: name of the stage that the best model comes from.
        train_seconds, trained_targets: totals over all epochs, resumed ones included.
    """

    def __init__(
        self,
        config: Any,
        model: Any,
        settings: dict[str, Any],
        best_file: Path,
        last_file: Path,
        fingerprint: str = "",
        stages: Sequence[Stage] | None = None,
        tokens: Mapping[str, Any] | None = None,
    ) -> None:
        self.stages = stages or (SupervisedStage(config, model),)
        # RecBole compares it with numbers, whatever the setting leaves to the data.
        config["epochs"] = self.stages[0].epochs
        try:
            # Before RecBole does, which fails where another process makes it at that moment.
            Path(config["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)
            super().__init__(config, model)
        except OSError as error:
            raise UserError(
                f"folder {error.filename} cannot be written ({error.strerror}); set checkpoint_dir, or start elsewhere"
            ) from error
        check_checkpoint_path(best_file)
        check_checkpoint_path(last_file)
        self.settings, self.best_file, self.last_file = settings, best_file, last_file
        self.fingerprint, self.tokens = fingerprint, tokens
        self.saved_model_file = str(best_file)
        self.eval_collector = RankCollector(config)
        self.epochs_log = []
        self.train_seconds, self.trained_targets, self.steps = 0.0, 0, 0
        self.winner = None
        self.weight_fit: WeightFit | None = None
        self.gate_fit: GateFit | None = None
        # The best model before the present stage, from the second stage on.
        self._entry_weights = None
        self._targets_an_epoch = 0
        self._set_stage(0)
        self._amp = self._amp_type() if config["enable_amp"] and self.device.type == "cuda" else None
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._amp is torch.float16)
        self._eval_dataset: Any = None
        self._mask_history = bool(config["mask_history"])
        self.item_stop = item_stop(config, model)
        # Else the weights of the settings judge, which may say little on data that they do not suit.
        self._judges_by_fitted = hasattr(model, "weigh") and bool(config["fit_weights"] and config["judge_by_fitted"])
        self._both: BothProtocols | None = None

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
        """Trains every stage until its epochs are over or it stops early; see RecBole's Trainer for the arguments.

        Returns:
            best validation score over all stages and all validation metrics at that epoch.
        """
        self.eval_collector.data_collect(train_data)
        self._targets_an_epoch = self._targets(train_data)
        self._weigh_as_given()
        for number in range(self.stage_number, len(self.stages)):
            if number > self.stage_number:
                self._enter(number, saved)
            self._fit_stage(train_data, valid_data, verbose, saved, show_progress, callback_fn)
        return self.best_valid_score, self.best_valid_result

    def stage_summary(self) -> dict[str, Any]:
        """For the record: what each stage did, and which one won."""
        return stage_summary(self.epochs_log, self.winner, self._targets_an_epoch, self.valid_metric_bigger)

    def fit_weights(self, valid_data: Any) -> None:
        """Chooses the weights of the best model's evidence on validation, fits its gate, and writes both into its file.

        Nothing for a model with one kind of evidence or none. `weight_fit` and `gate_fit` tell what was chosen.
        """
        if not hasattr(self.model, "weigh"):
            return
        state = self._read(self.best_file)
        self.model.eval()
        self._weigh_as_given()
        if self.config["fit_weights"]:
            self.weight_fit = self._weigh_as_fitted(valid_data)
        if self.weight_fit is not None:
            self.logger.info(f"Weights of the evidence, chosen on validation: {self.weight_fit.as_dict()}")
        self.gate_fit = fit_gate(self.model, self._ranked_batches(valid_data), self.valid_metric, self.config["seed"])
        if self.gate_fit is not None:
            self.logger.info(f"Gate behind the evidence, fitted on validation: {self.gate_fit.as_dict()}")
        if self.weight_fit is None and self.gate_fit is None:
            return
        save_checkpoint(self.best_file, {**state, "state_dict": self.model.state_dict()})

    def _weigh_as_fitted(self, valid_data: Any, **limits: Any) -> WeightFit | None:
        given = self.model.given_weights
        fit = fit_weights(self.model, self._ranked_batches(valid_data), asdict(given), self.valid_metric, **limits)
        if fit is not None:
            self.model.weigh(replace(given, **fit.weights))
        return fit

    def _ranked_batches(self, data: Any) -> Iterator[tuple[Any, Tensor, tuple[Tensor, Tensor] | None]]:
        for interaction, _, _, targets in data.as_in_data():
            seen = data._dataset.seen_items(interaction) if self._mask_history else None
            yield interaction.to(self.device), targets, seen

    def _weigh_as_given(self) -> None:
        """Back to the settings' weights without a gate, which training is judged by; a model may come with others."""
        if hasattr(self.model, "weigh"):
            self.model.weigh(self.model.given_weights)
            if self.model.gate is not None:
                self.model.gate.fitted.fill_(False)

    def _enter(self, number: int, saved: bool) -> None:
        """Begins a later stage from the best model so far, and keeps that model beside the state of training."""
        if saved and self.winner is not None:
            self._read(self.best_file)
            self._weigh_as_given()
        self._set_stage(number)
        self._entry_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.stage.begin()
        self.logger.info(f"Stage {self.stage.name} begins from the best model so far")
        if saved:
            self._save(self.last_file, -1)

    def _fit_stage(
        self,
        train_data: Any,
        valid_data: Any,
        verbose: bool,
        saved: bool,
        show_progress: bool,
        callback_fn: Callable[[int, float], None] | None,
    ) -> None:
        validates = bool(valid_data) and self.eval_step > 0
        for epoch in range(self.start_epoch, self.epochs):
            if self.finished:
                break
            self._seed_epoch(epoch, train_data)
            self.stage.begin_epoch(epoch)
            release_free_memory()
            begin = perf_counter()
            losses = self._train_epoch(train_data, epoch, show_progress=show_progress)
            seconds = perf_counter() - begin
            self.train_seconds += seconds
            self.trained_targets += self._targets_an_epoch
            entry: dict[str, Any] = {"stage": self.stage.name, "epoch": epoch, "loss": losses}
            entry.update(seconds=round(seconds, 3), **self.stage.epoch_log())
            if verbose:
                self.logger.info(self._generate_train_loss_output(epoch, begin, begin + seconds, losses))
            total_epoch = len(self.epochs_log)
            self._add_train_loss_to_tensorboard(total_epoch, losses)
            improved = not self.stage.collapsed
            if self.stage.collapsed:
                entry["collapsed"], self.finished = self.stage.collapsed, True
                self.logger.warning(
                    f"Stage {self.stage.name} stopped in epoch {epoch}: {self.stage.collapsed}; the best model so far "
                    "is kept"
                )
            elif not validates:
                self.winner = self.stage.name
            elif (epoch + 1) % self.eval_step == 0 or epoch + 1 == self.epochs:
                improved = self._validate(epoch, valid_data, entry, verbose, show_progress)
            self.epochs_log.append(entry)
            self.finished = self.finished or epoch + 1 == self.epochs
            if saved and improved and ("valid" in entry or not validates):
                self._save(self.best_file, epoch)
            if self.item_stop is not None and self.item_stop.settle():
                self.logger.info("The item path goes back to where it validated best without paths, and stays there")
            if saved:
                self._save(self.last_file, epoch)
            if callback_fn and "valid" in entry:
                callback_fn(total_epoch, entry["valid_score"])
        if self.winner is None and not self.epochs_log:
            # Nothing to train (epochs: 0): the best model is the initial one, not what an earlier run has left here.
            self.winner = self.stage.name
            if saved:
                self._save(self.best_file, -1)

    def _validate(self, epoch: int, valid_data: Any, entry: dict[str, Any], verbose: bool, show_progress: bool) -> bool:
        begin = perf_counter()
        # Of candidates drawn by chance there are no ranks that weights could be chosen by.
        if self._judges_by_fitted and isinstance(valid_data, FullSortEvalDataLoader):
            self.model.eval()
            fit = self._weigh_as_fitted(valid_data, **JUDGING)
            entry.update({} if fit is None else {"weights": fit.weights})
        if self.item_stop is not None:
            self.item_stop.begin()
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        score = calculate_valid_score(result, self.valid_metric)
        bigger = self.valid_metric_bigger
        first = self._stage_score is None
        self._stage_score, self.cur_step, self.finished, improved = early_stopping(
            score, score if first else self._stage_score, self.cur_step, max_step=self.stopping_step, bigger=bigger
        )
        # A stage stops by its own scores; of two stages the later one has to be better to win.
        if improved and self.winner not in (None, self.stage.name):
            improved = better(score, self.best_valid_score, bigger)
        if self.item_stop is not None:
            entry.update(self.item_stop.judge())
        entry.update(valid=dict(result), valid_score=float(score), valid_seconds=round(perf_counter() - begin, 3))
        if improved:
            self.best_valid_score, self.best_valid_result, self.winner = score, dict(result), self.stage.name
        if verbose:
            head = set_color(f"epoch {epoch} evaluating", "green")
            label = set_color("valid_score", "blue")
            self.logger.info(f"{head} [time: {entry['valid_seconds']:.2f}s, {label}: {score:f}]")
            self.logger.info(set_color("valid result", "blue") + ": \n" + dict2str(result))
        self.tensorboard.add_scalar("Valid_score", score, epoch)
        self.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")
        if self.finished and verbose:
            summary = stage_summary([*self.epochs_log, entry], self.winner, self._targets_an_epoch, bigger)
            self.logger.info(f"Finished training, best eval result in epoch {summary[self.stage.name]['best_epoch']}")
        return bool(improved)

    @without_anomaly_detection()
    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[..., Any] | None = None,
        show_progress: bool = False,
    ) -> float | tuple[float, ...]:
        """One pass; returns the mean loss an update, a tuple where the loss has parts.

        ``loss_func`` is RecBole's hook: where given, one update a batch on this loss instead of the stage's.
        """
        self.model.train()
        batches = len(train_data)
        label = set_color(f"Train {epoch_idx:>5}", "pink")
        bar = tqdm(train_data, total=batches, ncols=100, desc=label, disable=not show_progress, unit="batch")
        total: np.ndarray | None = None
        parts, count = False, 0
        for interaction in bar:
            interaction = interaction.to(self.device)
            updates = iter([loss_func(interaction)]) if loss_func else self.stage.losses(interaction)
            while True:
                with torch.autocast(self.device.type, dtype=self._amp) if self._amp else nullcontext():
                    losses = next(updates, None)
                if losses is None:
                    break
                parts = isinstance(losses, tuple)
                values = self._update(losses if isinstance(losses, tuple) else (losses,), batches, epoch_idx)
                total, count = values if total is None else total + values, count + 1
            if self.stage.collapsed:
                break
        mean = (total if total is not None else np.zeros(1)) / max(count, 1)
        return tuple(float(x) for x in mean) if parts else float(mean[0])

    def _update(self, losses: tuple[Tensor, ...], batches: int, epoch: int) -> np.ndarray:
        """One step of the optimiser; returns the parts of the loss."""
        values = np.array([float(part.detach()) for part in losses])
        if not np.isfinite(values).all():
            setting = f"{self.stage.prefix}learning_rate"
            raise UserError(f"training loss became {values.sum()} in epoch {epoch}; lower {setting}")
        self._set_rate(batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss = losses[0]
        for part in losses[1:]:
            loss = loss + part
        self._scaler.scale(loss).backward()
        if self.clip_grad_norm:
            self._scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.steps, self._stage_steps = self.steps + 1, self._stage_steps + 1
        return values

    def _set_rate(self, batches: int) -> None:
        steps = batches * self.stage.updates * self.epochs
        factor = rate_factor(self._stage_steps, steps, self.stage.warmup_steps, self.stage.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    def _seed_epoch(self, epoch: int, train_data: Any) -> None:
        # Every stage counts its epochs anew; its batches are arranged as those of no epoch before it.
        number = [self.stage_number] if self.stage_number else []
        seed = int(np.random.SeedSequence([int(self.config["seed"]), epoch, *number]).generate_state(1)[0])
        init_seed(seed, self.config["reproducibility"])
        if isinstance(train_data, WholeSequenceLoader):
            train_data.set_epoch(epoch, self.stage_number)
        else:
            train_data.generator.manual_seed(seed)

    @staticmethod
    def _targets(train_data: Any) -> int:
        return train_data.targets if isinstance(train_data, WholeSequenceLoader) else len(train_data._dataset)

    # --------------------------------------------------------------------------------------------- evaluation

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
        both: BothProtocols | None = None,
    ) -> dict[str, float]:
        """RecBole's metrics on ``eval_data``; afterwards `ranks` holds the ranks of the targets.

        `decode_seconds` is then what scoring took, and `pruning` what CORP dropped. ``both`` also collects ranks and
        lists with and without the history's items; sampled candidates leave it empty.
        """
        if not eval_data:
            return {}
        if load_best_model:
            self._read(Path(model_file or self.best_file))
        self._eval_dataset = eval_data._dataset
        self.pruning, self.decode_seconds, self._memory = PruningStatistics(), 0.0, ReleasesFreeMemory()
        self._both = both
        release_free_memory()
        try:
            result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        finally:
            self._both = None
        self.ranks: Tensor = self.eval_collector.take_ranks()
        return {name: float(value) for name, value in result.items()}

    def _full_sort_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        begin = perf_counter()
        interaction, scores, positive_u, positive_i = super()._full_sort_batch_eval(batched_data)
        if scores.is_cuda:
            torch.cuda.synchronize(scores.device)
        self.decode_seconds += perf_counter() - begin
        self._memory.passed(scores)
        if checks := getattr(self.model, "checks", ()):
            self.pruning.add_batch(checks, positive_i)
        seen = None
        if self._mask_history or self._both is not None:
            seen = rows, items = self._eval_dataset.seen_items(interaction)
            if self._both is not None:
                self._both.add(scores, positive_i, interaction[LOG_POSITION], rows, items)
            if self._mask_history:
                scores[rows.to(scores.device), items.to(scores.device)] = -torch.inf
        if self.item_stop is not None:
            self.item_stop.add(positive_i, seen if self._mask_history else None)
        return interaction, scores, positive_u, positive_i
