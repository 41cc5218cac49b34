"""Which targets belong together when an evaluation is taken apart, and which data an evaluation was made on.

Everything here is known before a model is: the log, its split, and counts of the training interactions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_reg4rec.data.dataset import LOG_POSITION, OrderedDataset
from recbole_reg4rec.data.sequences import training_sequences


@dataclass(frozen=True)
class Group:
    """Some of the targets.

    ``members``: bool ``[targets]`` in canonical order. ``lowest``, ``highest``: the range of what the targets were
    grouped by (training interactions of the target, items of the history), None where it is no number.
    """

    name: str
    members: np.ndarray
    lowest: int | None = None
    highest: int | None = None


def canonical_positions(part: OrderedDataset) -> np.ndarray:
    """Places of the targets in the log, int64 ``[targets]``, sorted: by the user's name, then by time.

    This order is the same for every model, batch size and machine, so that results can be paired target by target.
    """
    return np.sort(part.inter_feat[LOG_POSITION].numpy())


def data_and_split_fingerprint(train: OrderedDataset, test: OrderedDataset) -> str:
    """Sixteen hexadecimal digits that name the log by ids and order, and what of it is trained and tested on."""
    digest = hashlib.sha256()
    for field in (train.uid_field, train.iid_field):
        digest.update("\n".join(map(str, train.field2id_token[field])).encode())
        digest.update(np.ascontiguousarray(train.log[field].numpy()).tobytes())
    for part in (train, test):
        positions = canonical_positions(part)
        digest.update(f"\n{len(positions)}\n".encode())
        digest.update(np.ascontiguousarray(positions, dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


def training_counts(train: OrderedDataset) -> np.ndarray:
    """Training interactions of each item, int64 ``[items + 1]``; item 0 is padding."""
    return np.bincount(training_sequences(train).items, minlength=train.item_num)


def popularity_percentiles(counts: np.ndarray) -> np.ndarray:
    """Share of the catalogue that is less popular, equals counting half; float64 ``[items + 1]``, 0 for padding.

    Args:
        counts: what `training_counts` found.
    """
    ordered = np.sort(counts[1:])
    below = np.searchsorted(ordered, counts, side="left")
    not_above = np.searchsorted(ordered, counts, side="right")
    result = (below + not_above) / (2.0 * max(len(ordered), 1))
    result[0] = 0.0
    return result


def target_groups(train: OrderedDataset, test: OrderedDataset) -> dict[str, list[Group]]:
    """The ways in which test targets are grouped (our choice), each a partition of all targets:

    * ``transition``: whether the pair (newest item of the history, target) stands in some training history;
    * ``popularity``: thirds of the targets by training interactions of the target item;
    * ``history``: thirds of the targets by length of the whole history before them.

    Targets of equal number always share a group, so that thirds may be uneven and one may be missing.
    """
    positions = canonical_positions(test)
    items = test.log[test.iid_field].numpy()
    targets, newest = items[positions], items[positions - 1]
    sequences = training_sequences(train)
    inside = sequences.users[1:] == sequences.users[:-1]
    width = np.int64(train.item_num)
    known = sequences.items[:-1][inside].astype(np.int64) * width + sequences.items[1:][inside]
    seen = np.isin(newest.astype(np.int64) * width + targets, known)
    return {
        "transition": [Group("seen in training", seen), Group("unseen", ~seen)],
        "popularity": _thirds(training_counts(train)[targets], ("rare", "middling", "popular")),
        "history": _thirds(positions - test.history_start[positions], ("short", "middling", "long")),
    }


def _thirds(values: np.ndarray, names: tuple[str, str, str]) -> list[Group]:
    lower, upper = np.quantile(values, [1 / 3, 2 / 3], method="lower")
    place = (values > lower).astype(int) + (values > upper)
    found: list[Group] = []
    for number, name in enumerate(names):
        members = place == number
        if members.any():
            found.append(Group(name, members, int(values[members].min()), int(values[members].max())))
    return found


def describe_groups(groups: dict[str, list[Group]]) -> dict[str, list[dict[str, Any]]]:
    """Name, size and range of each group, as plain data for records."""
    return {
        kind: [
            {"name": group.name, "n": int(group.members.sum()), "from": group.lowest, "to": group.highest}
            for group in parts
        ]
        for kind, parts in groups.items()
    }
