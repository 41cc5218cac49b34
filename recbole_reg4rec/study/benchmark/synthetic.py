"""Catalogues of any size with popularity and histories by power laws, as RecBole's atomic files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

# Histories: at least 5, about 10 at the mean, one in a hundred above 60.
_SHORTEST, _LONGEST, _TAIL, _SPREAD = 5, 200, 1.5, 3.0
_CLASSES, _TITLE = 32, 6


def write_catalogue(folder: Path, items: int, seed: int = 0) -> str:
    """Writes ``<name>.inter`` and ``<name>.item`` into ``folder/<name>`` and returns the name.

    Half as many users as items. An item is the fixed successor of the one before in half of all steps, otherwise drawn
    with a probability that falls with its rank to the power of one. It has a class and a title of words, of which a few
    are common and most are rare, so that no two are alike.
    """
    name = f"synthetic-{items}"
    draw = np.random.default_rng(seed)
    users = max(items // 2, 2)
    lengths = np.minimum(_SHORTEST + (draw.pareto(_TAIL, users) * _SPREAD).astype(np.int64), _LONGEST)
    popular = _power_law(items)
    starts = np.cumsum(lengths) - lengths
    drawn = popular(draw, int(lengths.sum()))
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
    words = _power_law(max(items // 2, 2))(draw, _TITLE * items).reshape(items, _TITLE)
    described = np.concatenate([np.arange(items)[:, None], draw.integers(_CLASSES, size=(items, 1)), words], axis=1)
    header = "item_id:token\tclass:token\ttitle:token_seq"
    form = "\t".join(["%d", "%d", " ".join(["w%d"] * _TITLE)])
    np.savetxt(target / f"{name}.item", described, fmt=form, header=header, comments="")
    return name


def _power_law(count: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Draws numbers below ``count``, int64, with a probability that falls with the number plus one."""
    cumulated = np.cumsum(1.0 / np.arange(1, count + 1))

    def drawn(draw: np.random.Generator, size: int) -> np.ndarray:
        return np.minimum(np.searchsorted(cumulated, draw.random(size) * cumulated[-1]), count - 1)

    return drawn
