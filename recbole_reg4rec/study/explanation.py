"""What an explanation holds, as plain values; made by `study.explain`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step of a path: the token chosen, and the category that the step predicted.

    ``number``: from 1. ``codebook``, ``token``: from 0; None at the step at which a path was dropped, or decided at
    once among the items left. ``probability``: of the token among those that some item could still carry, 1 where the
    tokens before leave no other; of the item where the path decided.
    ``category_probability``: of that category. ``agreement``: of the step's categories with those of the steps before,
    as CORP measures it, in ``[0, 1]``; None at the first step. ``meaning``: the token in words, see `study.gloss`.
    """

    number: int
    codebook: int | None
    token: int | None
    probability: float | None
    category: str
    category_probability: float
    agreement: float | None
    meaning: str


@dataclass(frozen=True)
class Evidence:
    """One kind of evidence for one item: ``weight`` times ``score`` is its ``contribution`` to the item's score."""

    name: str
    score: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class ItemExplanation:
    """One item of a ranking.

    ``item``: its id in the data. ``rank``: from 1, items with the same score before it. ``score``: the very number of
    ``full_sort_predict``. ``seen``: it is in the history. ``path_log_probability``: of the best path to it; None where
    no path of the search leads to it, so that it stands by what was likely before the first step (docs/method.md, 4)
    and has no ``steps``. ``paths``: how many lead to it.
    """

    item: str
    title: str
    rank: int
    score: float
    seen: bool
    evidence: tuple[Evidence, ...]
    path_log_probability: float | None
    paths: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class PrunedPath:
    """A path that CORP dropped.

    ``step``: the one whose categories disagreed with the steps before, the last of ``steps``; from 1. ``agreement``:
    less than ``threshold``. ``before``, ``now``: categories that the steps before and this one held most likely.
    ``log_probability``: of the path until then. ``items``: how many items it could still have led to; ``examples``:
    ids of some. ``held_target``: the user's held-out item was among them; None where none is known.
    """

    step: int
    agreement: float
    threshold: float
    before: str
    now: str
    log_probability: float
    items: int
    examples: tuple[str, ...]
    held_target: bool | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Explanation:
    """Why a history leads to a ranking. ``user``: None where the history was given by hand.

    ``history``: ids as the model read them, oldest first. ``target``: the held-out item of a user of the test set,
    explained whatever its rank. ``pruned``: the most probable first; empty where CORP is off.
    """

    user: str | None
    history: tuple[str, ...]
    top: tuple[ItemExplanation, ...]
    target: ItemExplanation | None
    pruned: tuple[PrunedPath, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
