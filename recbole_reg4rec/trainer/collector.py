"""Collects what RecBole's metrics need, from exact ranks.

RecBole takes the positions of a top-k; where scores tie, that top-k is an arbitrary choice among equals. Here the rank
of a target is counted: every item with the same score stands before it, so no hit ever comes from a tie.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.evaluator import Collector
from torch import Tensor

from recbole_reg4rec.errors import UserError


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Rank of one target a row, counted from 0, ties against it; int64 ``[B]``.

    Args:
        scores: float ``[B, items + 1]``; -inf excludes an item, NaN is an error.
        targets: int64 ``[B]``.

    Raises:
        UserError: a score is NaN, which happens when training diverged.
    """
    if torch.isnan(scores).any():
        raise UserError("the model gave scores that are not numbers (NaN): training diverged; lower learning_rate")
    own = scores.gather(1, targets.unsqueeze(1))
    return (scores >= own).sum(1) - 1


def ranks_from_one(scores: Tensor, targets: Tensor) -> Tensor:
    """As `target_ranks`, but counted from 1, and 0 where the target itself is excluded."""
    ruled_out = scores.gather(1, targets.unsqueeze(1)).squeeze(1).isneginf()
    return (target_ranks(scores, targets) + 1).masked_fill_(ruled_out, 0)


class RankCollector(Collector):
    """RecBole's Collector whose ``rec.topk`` comes from `target_ranks`; keeps the ranks, int64 ``[users]``."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._wants_topk = self.register.need("rec.topk")
        # The parent collects everything else.
        setattr(self.register, "rec.topk", False)
        self._ranks: list[Tensor] = []

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Adds a batch: scores ``[B, items + 1]`` and exactly one positive item a row.

        Raises:
            UserError: a score is NaN, or lists of items are asked for that are longer than the catalogue.
        """
        depth, items = max(self.topk), scores_tensor.shape[-1] - 1
        if self.register.need("rec.items") and depth > items:
            raise UserError(
                f"setting topk asks for the {depth} best items, but there are {items}; for metrics of whole lists, "
                "such as ItemCoverage, topk must not exceed the catalogue"
            )
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if not self._wants_topk:
            return
        targets = positive_i.to(scores_tensor.device)
        ranks = target_ranks(scores_tensor, targets).cpu()
        hits = torch.zeros(len(ranks), depth + 1, dtype=torch.int)
        # Depths beyond the catalogue reach even an excluded target, which must not count.
        found = (ranks < depth) & ~scores_tensor.gather(1, targets.unsqueeze(1)).squeeze(1).isneginf().cpu()
        hits[found, ranks[found]] = 1
        hits[:, depth] = 1
        self.data_struct.update_tensor("rec.topk", hits)
        self._ranks.append(ranks)

    def get_data_struct(self) -> Any:
        """What has been collected; RecBole's own fails on the counts that are no tensors (``data.num_items``, ...)."""
        known = self.data_struct._data_dict
        counts = {name: value for name, value in known.items() if not isinstance(value, Tensor)}
        for name in counts:
            del self.data_struct[name]
        collected = super().get_data_struct()
        for name, value in counts.items():
            self.data_struct.set(name, value)
            collected.set(name, value)
        return collected

    def take_ranks(self) -> Tensor:
        """The ranks collected since the last call, in the order of the evaluated rows, int64 ``[users]``."""
        ranks = torch.cat(self._ranks) if self._ranks else torch.zeros(0, dtype=torch.int64)
        self._ranks = []
        return ranks
