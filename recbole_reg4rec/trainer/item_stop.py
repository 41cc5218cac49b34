"""Stops the item path where it validates best, while reasoning, which learns for longer, goes on (our choice).

Both are trained by losses of their own and share no weights, so that each may end where it is best: at every validation
the ranking without paths is judged as well, and once it has not become better for some validations the item path goes
back to its best weights and stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from recbole_reg4rec.trainer.collector import ranks_from_one
from recbole_reg4rec.trainer.weights import rank_metric


class StoppableModel(Protocol):
    """A model with an item path beside reasoning, such as `REG4Rec`."""

    item_path_stopped: bool
    keeps_rest: bool
    rest: Tensor | None

    def item_parts(self) -> dict[str, nn.Module]:
        """What stops."""


class ItemStop:
    """One training's watch over its item path.

    Args:
        model: whose item path is watched.
        patience: validations without a better score, at least 1, before it stops.
        value: what a rank, counted from 1, is worth.

    Attributes:
        best_score: mean value of the ranking without paths at its best validation; None before the first.
    """

    def __init__(self, model: StoppableModel, patience: int, value: Callable[[np.ndarray], np.ndarray]) -> None:
        self._model, self._patience, self._value = model, patience, value
        self.best_score: float | None = None
        self._misses = 0
        self._weights: dict[str, dict[str, Tensor]] = {}
        self._values: list[np.ndarray] = []

    def begin(self) -> None:
        """Before a validation."""
        self._values, self._model.keeps_rest = [], not self._model.item_path_stopped

    def add(self, targets: Tensor, seen: tuple[Tensor, Tensor] | None) -> None:
        """A batch that the model has just ranked.

        Args:
            targets: int64 ``[B]``.
            seen: rows and items that are out of the ranking, int64 ``[n]`` each, or None.
        """
        rest = self._model.rest
        if not self._model.keeps_rest or rest is None:
            return
        targets = targets.to(rest.device)
        if seen is not None:
            rest[seen[0].to(rest.device), seen[1].to(rest.device)] = -torch.inf
        self._values.append(self._value(ranks_from_one(rest, targets).cpu().numpy()))

    def judge(self) -> dict[str, Any]:
        """Behind a validation: is the item path at its best? What the epoch's log says about it."""
        self._model.keeps_rest, self._model.rest = False, None
        if not self._values:
            return {}
        score = float(np.concatenate(self._values).mean())
        self._values = []
        if self.best_score is None or score > self.best_score:
            self.best_score, self._misses = score, 0
            self._weights = {
                name: {key: value.clone() for key, value in part.state_dict().items()}
                for name, part in self._model.item_parts().items()
            }
        else:
            self._misses += 1
        return {"valid_score_without_paths": score}

    def settle(self) -> bool:
        """Stops the item path if it is time, and says whether it does; not before the validated model is saved."""
        if self._model.item_path_stopped or self._misses < self._patience:
            return False
        for name, part in self._model.item_parts().items():
            part.load_state_dict(self._weights[name])
        self._model.item_path_stopped, self._weights = True, {}
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: tensors and plain data."""
        return {
            "best_score": self.best_score,
            "misses": self._misses,
            "weights": self._weights,
            "stopped": self._model.item_path_stopped,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Undoes `state`."""
        self.best_score, self._misses, self._weights = state["best_score"], state["misses"], state["weights"]
        self._model.item_path_stopped = state["stopped"]


def item_stop(config: Any, model: Any) -> ItemStop | None:
    """The watch that the settings ask for; None where there is none, or nothing to judge by."""
    patience = int(config["item_stopping_step"] or 0) if hasattr(model, "item_parts") else 0
    value = rank_metric(str(config["valid_metric"]))
    if not patience or value is None or not model.item_parts() or not model.given_weights.recognise:
        return None
    return ItemStop(model, patience, value)
