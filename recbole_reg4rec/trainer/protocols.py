"""Both protocols of a test from one pass: the ranking of all items, and that without the items of the history.

The scores are the same, so the second protocol costs one more comparison a batch. Which epoch is tested was still
chosen on validation under one of the two, the run's ``mask_history``; records say which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_reg4rec.data.groups import (
    canonical_positions,
    data_and_split_fingerprint,
    popularity_percentiles,
    target_groups,
    training_counts,
)
from recbole_reg4rec.trainer.collector import ranks_from_one
from recbole_reg4rec.trainer.measures import GROUP_DEPTH, measure, measure_groups, measure_lists

PROTOCOLS = ("unmasked", "masked")


def top_lists(scores: Tensor, depth: int) -> Tensor:
    """The best items of each row, int64 ``[B, depth]``; 0 where fewer are left. Of equals, smaller numbers first.

    Args:
        scores: float ``[B, items + 1]``; -inf excludes an item.
        depth: length of the lists.
    """
    depth_here = min(depth, scores.shape[1])
    values, items = torch.topk(scores, depth_here, dim=1)
    # Which of several equals torch.topk takes is its own affair; only where equals are cut apart it matters.
    edge = values[:, -1:]
    cut = ((scores >= edge).sum(1) > depth_here) & ~edge.squeeze(1).isneginf()
    if cut.any():
        items[cut] = torch.sort(scores[cut], dim=1, descending=True, stable=True).indices[:, :depth_here]
    items = torch.where(scores.gather(1, items).isneginf(), torch.zeros_like(items), items)
    return torch.nn.functional.pad(items, (0, depth - depth_here))


class BothProtocols:
    """Collects ranks and lists of a full-ranking test under both protocols, batch by batch."""

    def __init__(self) -> None:
        self._positions: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._ranks: dict[str, list[Tensor]] = {name: [] for name in PROTOCOLS}
        self._lists: dict[str, list[Tensor]] = {name: [] for name in PROTOCOLS}

    def add(self, scores: Tensor, targets: Tensor, positions: Tensor, rows: Tensor, items: Tensor) -> None:
        """Adds a batch; ``scores`` are as before afterwards.

        Args:
            scores: float ``[B, items + 1]``, not masked by the history.
            targets: int64 ``[B]``.
            positions: int64 ``[B]``, places of the targets in the log.
            rows, items: the histories, both int64 ``[S]``: row ``rows[s]`` has seen item ``items[s]``.
        """
        device = scores.device
        rows, items, targets = rows.to(device), items.to(device), targets.to(device)
        self._positions.append(positions.cpu())
        self._targets.append(targets.cpu())
        self._take("unmasked", scores, targets)
        kept = scores[rows, items]
        scores[rows, items] = -torch.inf
        self._take("masked", scores, targets)
        scores[rows, items] = kept

    def _take(self, protocol: str, scores: Tensor, targets: Tensor) -> None:
        self._ranks[protocol].append(ranks_from_one(scores, targets).cpu())
        self._lists[protocol].append(top_lists(scores, GROUP_DEPTH).cpu())

    def report(self, train: Any, test: Any) -> TestReport:
        """What was collected, in canonical order, with metrics, groups and the data's name.

        Args:
            train, test: `OrderedDataset` of the training part and of the part that was evaluated.

        Raises:
            ValueError: what was collected are not the targets of ``test``, each once.
        """
        positions = torch.cat(self._positions).numpy()
        order = np.argsort(positions, kind="stable")
        if not np.array_equal(positions[order], canonical_positions(test)):
            raise ValueError("the evaluated rows are not the targets of the data set, each exactly once")
        targets = torch.cat(self._targets).numpy()[order]
        percentiles = popularity_percentiles(training_counts(train))
        groups = target_groups(train, test)
        ranks = {name: torch.cat(parts).numpy()[order] for name, parts in self._ranks.items()}
        lists = {name: torch.cat(parts).numpy()[order] for name, parts in self._lists.items()}
        metrics = {
            name: {
                key: round(value, 6)
                for key, value in {**measure(ranks[name]), **measure_lists(lists[name], targets, percentiles)}.items()
            }
            for name in PROTOCOLS
        }
        return TestReport(
            fingerprint=data_and_split_fingerprint(train, test),
            ranks=np.stack([ranks[name] for name in PROTOCOLS], axis=1),
            metrics=metrics,
            groups={name: measure_groups(ranks[name], groups) for name in PROTOCOLS},
        )


class TestReport:
    """A test under both protocols.

    ``ranks``: int64 ``[targets, 2]``, counted from 1, 0 where the target is ruled out; columns as `PROTOCOLS`, rows in
    canonical order (`data.groups.canonical_positions`). ``metrics`` and ``groups``: plain data by protocol.
    ``fingerprint``: of the data and its split.
    """

    __test__ = False  # no test case, whatever its name

    def __init__(
        self,
        fingerprint: str,
        ranks: np.ndarray,
        metrics: dict[str, dict[str, float]],
        groups: dict[str, dict[str, list[dict[str, Any]]]],
    ) -> None:
        self.fingerprint, self.ranks, self.metrics, self.groups = fingerprint, ranks, metrics, groups
