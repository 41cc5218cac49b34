"""Stages of one training: what each trains, how long, how fast, and when it stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from recbole.data.interaction import Interaction
from torch import Tensor


class Stage(Protocol):
    """One stage as the trainer sees it.

    ``name``: in logs and records. ``prefix``: of its settings' names. ``epochs``, ``stopping_step``, ``eval_step``,
    ``learning_rate``, ``schedule``, ``warmup_steps``: as the settings of stage 1. ``updates``: optimiser steps a batch.
    ``collapsed``: why the stage has to stop at once, or None.
    """

    name: str
    prefix: str
    epochs: int
    stopping_step: int
    eval_step: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    updates: int
    collapsed: str | None

    def begin(self) -> None:
        """Told once, with the model as the stages before left it."""

    def begin_epoch(self, epoch: int) -> None:
        """Told before every epoch, counted from 0 in each stage."""

    def losses(self, interaction: Interaction) -> Iterator[Tensor | tuple[Tensor, ...]]:
        """The loss of each update on a batch; the optimiser steps before the next is asked for. None when collapsed."""

    def epoch_log(self) -> dict[str, Any]:
        """What goes into the log of the epoch that has just ended."""


class SupervisedStage:
    """The model's own loss: stage 1, and all there is for every other model."""

    name, prefix = "supervised", ""

    def __init__(self, config: Any, model: Any) -> None:
        # A model that goes by the data knows what `auto` comes to.
        self.epochs = int(getattr(model, "supervised_epochs", config["epochs"]))
        self.stopping_step = int(config["stopping_step"])
        self.eval_step = int(config["eval_step"])
        self.learning_rate = float(config["learning_rate"])
        self.schedule = str(config["learning_rate_schedule"] or "constant")
        self.warmup_steps = int(config["warmup_steps"] or 0)
        self.updates = 1
        self.collapsed: str | None = None
        self._model = model

    def begin(self) -> None:
        """Nothing to prepare."""

    def begin_epoch(self, epoch: int) -> None:
        """Tells the model, if that wants to know."""
        if hasattr(self._model, "begin_epoch"):
            self._model.begin_epoch(epoch)

    def losses(self, interaction: Interaction) -> Iterator[Tensor | tuple[Tensor, ...]]:
        """One update a batch."""
        yield self._model.calculate_loss(interaction)

    def epoch_log(self) -> dict[str, Any]:
        """Nothing beside the loss."""
        return {}


def better(score: float, other: float | None, bigger: bool) -> bool:
    """Whether a validation score beats another; everything beats None."""
    return other is None or (score > other if bigger else score < other)


def stage_summary(
    epochs_log: Sequence[dict[str, Any]], winner: str | None, targets: int, bigger: bool
) -> dict[str, Any]:
    """By stage: epochs, seconds, targets a second, best epoch and score, why it collapsed; and which stage won.

    Args:
        epochs_log: of the trainer.
        winner: name of the stage whose model is kept.
        targets: trained positions an epoch.
        bigger: whether a bigger validation score is better.
    """
    summary: dict[str, Any] = {"winner": winner}
    for name in dict.fromkeys(entry["stage"] for entry in epochs_log):
        entries = [entry for entry in epochs_log if entry["stage"] == name]
        whole = [entry for entry in entries if "collapsed" not in entry]
        seconds = sum(entry["seconds"] for entry in whole)
        scored = [entry for entry in entries if "valid_score" in entry]
        # Of equal scores the last one is kept.
        best = max(reversed(scored), key=lambda entry: entry["valid_score"] * (1 if bigger else -1), default=None)
        summary[name] = {
            "epochs": len(entries),
            "seconds": round(seconds, 3),
            "targets_per_second": round(targets * len(whole) / max(seconds, 1e-9), 1),
            "best_epoch": best["epoch"] if best else None,
            "best_valid_score": best["valid_score"] if best else None,
            "best_valid": best["valid"] if best else None,
            "collapsed": next((entry["collapsed"] for entry in entries if "collapsed" in entry), None),
        }
    return summary
