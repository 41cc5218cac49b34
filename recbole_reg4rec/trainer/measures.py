"""What a list of ranks is worth: the metrics of one target a row, from ranks counted from 1; 0 means ruled out.

A target that the history's mask rules out can never be found; it counts as a miss in every metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_reg4rec.data.groups import Group, describe_groups

DEPTHS = (5, 10, 20)
GROUP_DEPTH = 10
MEASURES = (*(f"{name}@{depth}" for depth in DEPTHS for name in ("recall", "ndcg")), "mrr")


def hits(ranks: np.ndarray, depth: int) -> np.ndarray:
    """1 where the target is among the first ``depth``, float64, shaped as ``ranks``: recall of one target."""
    return ((ranks > 0) & (ranks <= depth)).astype(np.float64)


def gains(ranks: np.ndarray, depth: int) -> np.ndarray:
    """``1 / log2(rank + 1)`` where the target is among the first ``depth``, else 0: NDCG of one target."""
    return hits(ranks, depth) / np.log2(np.maximum(ranks, 1) + 1.0)


def reciprocals(ranks: np.ndarray) -> np.ndarray:
    """``1 / rank`` over the whole ranking, float64; 0 for a target ruled out."""
    return np.where(ranks > 0, 1.0 / np.maximum(ranks, 1), 0.0)


def measure(ranks: np.ndarray) -> dict[str, float]:
    """Means over all targets, of `MEASURES`; MRR over the whole ranking."""
    if not len(ranks):
        return dict.fromkeys(MEASURES, 0.0)
    found = {}
    for depth in DEPTHS:
        found[f"recall@{depth}"] = float(hits(ranks, depth).mean())
        found[f"ndcg@{depth}"] = float(gains(ranks, depth).mean())
    return {**found, "mrr": float(reciprocals(ranks).mean())}


def measure_lists(lists: np.ndarray, targets: np.ndarray, percentiles: np.ndarray) -> dict[str, float]:
    """What the lists recommend, whether right or wrong.

    Args:
        lists: int64 ``[targets, GROUP_DEPTH]``; 0 where there was nothing left to recommend.
        targets: int64 ``[targets]``.
        percentiles: float ``[items + 1]``, popularity in training.

    Returns:
        ``coverage``: share of the catalogue in somebody's list; ``popularity``: mean percentile of what is listed;
        ``target_popularity``: that of the targets.
    """
    listed = lists[lists > 0]
    return {
        f"coverage@{GROUP_DEPTH}": len(np.unique(listed)) / max(len(percentiles) - 1, 1),
        f"popularity@{GROUP_DEPTH}": float(percentiles[listed].mean()) if len(listed) else 0.0,
        "target_popularity": float(percentiles[targets].mean()) if len(targets) else 0.0,
    }


def measure_groups(ranks: np.ndarray, groups: Mapping[str, Sequence[Group]]) -> dict[str, list[dict[str, Any]]]:
    """Recall and NDCG at `GROUP_DEPTH` of every group, beside its size and range."""
    described = describe_groups({kind: list(parts) for kind, parts in groups.items()})
    for kind, parts in groups.items():
        for group, entry in zip(parts, described[kind], strict=True):
            own = ranks[group.members]
            for name, values in (("recall", hits(own, GROUP_DEPTH)), ("ndcg", gains(own, GROUP_DEPTH))):
                entry[f"{name}@{GROUP_DEPTH}"] = round(float(values.mean()), 6) if len(own) else 0.0
    return described
