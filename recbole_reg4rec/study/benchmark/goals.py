"""Ratios of what was measured, and whether they reach the goals of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from recbole_reg4rec.study.benchmark.contenders import (
    ALIGNED,
    ALL,
    ALL_CORP,
    PAPER,
    PAPER_CORP,
    PREFIXES,
    TIGER,
    WHOLE,
)
from recbole_reg4rec.study.benchmark.growth import exponent
from recbole_reg4rec.study.benchmark.rounds import EVALUATE, TRAIN
from recbole_reg4rec.study.benchmark.shares import shares

# GB that a data set may take at most.
_MEMORY = {"ml-100k": 1.5, "ml-1m": 4.0}
_GROWTH = (
    ("seconds a target", "the time to train a target", 0.5),
    ("seconds a user", "the time to evaluate a user", 0.5),
    ("memory training", "the memory of training", 1.0),
)


@dataclass(frozen=True)
class Goal:
    """``what``: in words. ``bound``: to reach, or not to exceed where ``most``. ``value``: the median; ``low``,
    ``high``: smallest and largest of the repeats. ``unit``: behind the numbers, "x", "%", " GB" or nothing.
    """

    dataset: str
    what: str
    bound: float
    most: bool
    value: float
    low: float
    high: float
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the median reaches the bound; the bound itself does."""
        return self.value <= self.bound if self.most else self.value >= self.bound

    @property
    def verdict(self) -> str:
        """``met, 15% better``, ``missed by 30%``: in shares of the bound."""
        off = abs(self.value / self.bound - 1.0)
        return f"met, {off:.0%} better" if self.met else f"missed by {off:.0%}"


def rates(found: Mapping[str, Any], part: str, contender: str) -> dict[int, float]:
    """Targets or users a second of a contender's slices, by repeat."""
    return {
        slice_["repeat"]: slice_["count"] / slice_["seconds"]
        for slice_ in found["slices"]
        if (slice_["part"], slice_["contender"]) == (part, contender)
    }


def ratios(found: Mapping[str, Any], part: str, one: str, other: str) -> list[float]:
    """Rates of one contender over those of another, each within a repeat, where slices are neighbours."""
    above, below = rates(found, part, one), rates(found, part, other)
    return [above[repeat] / below[repeat] for repeat in above if repeat in below]


def goals_on(dataset: str, found: Mapping[str, Any]) -> list[Goal]:
    """All goals that the contenders there allow to judge.

    Args:
        dataset: its name.
        found: see `rounds.take_turns`.
    """
    settings = {name: entry["settings"] for name, entry in found["contenders"].items()}

    def setting(contender: str, name: str) -> Any:
        return settings.get(contender, {}).get(name)

    history = f"history {setting(PREFIXES, 'MAX_ITEM_LIST_LENGTH')}"
    books, group = setting(ALL, "codebooks") or setting(PAPER, "codebooks"), setting(ALIGNED, "align_group")
    prefixes = f"of {PREFIXES} on prefixes, {history}"
    asked = [
        (TRAIN, WHOLE, PREFIXES, 20.0, False, f"targets/s of {WHOLE} against those {prefixes}"),
        (TRAIN, ALL, PREFIXES, 8.0, False, f"targets/s of {ALL}, stage 1, M={books}, against those {prefixes}"),
        (TRAIN, PAPER, PREFIXES, 8.0, False, f"targets/s of {PAPER}, stage 1, M={books}, against those {prefixes}"),
        (TRAIN, ALIGNED, PREFIXES, 2.0, False, f"targets/s of {ALIGNED}, stage 2, G={group}, against those {prefixes}"),
    ]
    for name in (ALL_CORP, PAPER_CORP):
        own = f"beam width {setting(name, 'beam_width')}"
        other = f"beam width {setting(TIGER, 'beam_width')}"
        # Against RecBole's own scoring: SASRecWhole reads short histories without padding, and is faster for it.
        asked.append((EVALUATE, PREFIXES, name, 4.0, True, f"time to evaluate a user, {name}, against {PREFIXES}"))
        asked.append((EVALUATE, name, TIGER, 20.0, False, f"users/s of {name}, {own}, against {TIGER}, {other}"))
    goals = []
    for part, one, other, bound, most, what in asked:
        values = ratios(found, part, one, other)
        if values:
            goals.append(_goal(dataset, what, bound, most, values))
    for name in (ALL_CORP, PAPER_CORP):
        profile = found["profiles"].get(name)
        share = shares(profile["parts"]).get("catalogue of search") if profile else None
        if share is not None:
            what = f"catalogue constraint within the search for paths, {name}"
            goals.append(_goal(dataset, what, 10.0, True, [100 * share], "%"))
    if dataset in _MEMORY and ALL in found["contenders"]:
        peaks = [peak(found, part, ALL) / 1024 for part in (TRAIN, EVALUATE) if rates(found, part, ALL)]
        if peaks:
            goals.append(_goal(dataset, f"peak memory of {ALL}", _MEMORY[dataset], True, [max(peaks)], " GB"))
    return goals


def growth(scale: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Exponents by contender: ``seconds a target``, ``seconds a user``, ``memory training``, ``memory evaluating``.

    Memory is what comes on top of the libraries.

    Args:
        scale: by number of items, see `rounds.take_turns`.
    """
    names = dict.fromkeys(name for found in scale.values() for name in found["contenders"])
    result: dict[str, dict[str, float | None]] = {}
    for name in names:
        result[name] = {}
        for part, unit, kind in ((TRAIN, "target", "training"), (EVALUATE, "user", "evaluating")):
            sizes = [items for items, found in scale.items() if rates(found, part, name)]
            seconds = [1.0 / median(rates(scale[items], part, name).values()) for items in sizes]
            memory = [peak(scale[items], part, name) - libraries(scale[items], name) for items in sizes]
            result[name][f"seconds a {unit}"] = exponent(sizes, seconds) if sizes else None
            result[name][f"memory {kind}"] = exponent(sizes, memory) if sizes else None
    return result


def growth_goals(
    exponents: Mapping[str, Mapping[str, float | None]], scale: Mapping[int, Mapping[str, Any]] | None = None
) -> list[Goal]:
    """Goals on `growth`, and on the memory that training takes with a million items, where ``scale`` has them."""
    found = []
    for name in (ALL, PAPER):
        for kind, what, bound in _GROWTH:
            value = exponents.get(name, {}).get(kind)
            if value is not None:
                found.append(_goal("synthetic", f"growth exponent of {what}, {name}", bound, True, [value], ""))
        million = (scale or {}).get(1_000_000, {"slices": []})
        if rates(million, TRAIN, name):
            value = peak(million, TRAIN, name) / 1024
            found.append(_goal("synthetic", f"peak memory of training, 10^6 items, {name}", 8.0, True, [value], " GB"))
    return found


def peak(found: Mapping[str, Any], part: str, contender: str, kind: str = "peak_memory_mb") -> float:
    """Largest peak of a contender's slices, MB; ``kind``: of which memory."""
    return max(slice_[kind] for slice_ in found["slices"] if (slice_["part"], slice_["contender"]) == (part, contender))


def libraries(found: Mapping[str, Any], contender: str) -> float:
    """What a contender's process held before it had data, MB."""
    return found["contenders"][contender]["libraries_mb"]


def _goal(dataset: str, what: str, bound: float, most: bool, values: Sequence[float], unit: str = "x") -> Goal:
    return Goal(dataset, what, bound, most, median(values), min(values), max(values), unit)
