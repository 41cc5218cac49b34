"""Catalogues of any size with popularity and histories by power laws, as RecBole's atomic files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# Histories: at least 5, about 10 at the mean, one in a hundred above 60.
_SHORTEST, _LONGEST, _TAIL, _SPREAD = 5, 200, 1.5, 3.0
_CLASSES = 32


def write_catalogue(folder: Path, items: int, seed: int = 0) -> str:
    """Writes ``<name>.inter`` and ``<name>.item`` into ``folder/<name>`` and returns the name.

    Half as many users as items. An item is the fixed successor of the one before in half of all steps, otherwise drawn
    with a probability that falls with its rank to the power of one.
    """
    name = f"synthetic-{items}"
    draw = np.random.default_rng(seed)
    users = max(items // 2, 2)
    lengths = np.minimum(_SHORTEST + (draw.pareto(_TAIL, users) * _SPREAD).astype(np.int64), _LONGEST)
    cumulated = np.cumsum(1.0 / np.arange(1, items + 1))
    starts = np.cumsum(lengths) - lengths
    drawn = np.minimum(np.searchsorted(cumulated, draw.random(int(lengths.sum())) * cumulated[-1]), items - 1)
    follows, successor = draw.random(len(drawn)) < 0.5, draw.permutation(items)
    for step in range(1, int(lengths.max())):
        at = starts[lengths > step] + step
        drawn[at] = np.where(follows[at], successor[drawn[at - 1]], drawn[at])
    user = np.repeat(np.arange(users), lengths)
    moment = np.arange(len(user)) - np.repeat(starts, lengths)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    columns = np.stack([user, drawn, moment], axis=1)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt(target / f"{name}.inter", columns, fmt="%d", delimiter="\t", header=header, comments="")
    classes = np.stack([np.arange(items), draw.integers(_CLASSES, size=items)], axis=1)
    header = "item_id:token\tclass:token"
    np.savetxt(target / f"{name}.item", classes, fmt="%d", delimiter="\t", header=header, comments="")
    return name
