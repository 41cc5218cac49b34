"""Search spaces: which settings are tried, over what, and when."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import optuna

from recbole_reg4rec.errors import UserError

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
# Points of a curve over a range that has no steps.
_CURVE_POINTS = 7
_MOST_GRID_POINTS = 100_000


@dataclass(frozen=True)
class Condition:
    """Another setting must be one of ``allowed``, or obey every comparison of ``compare``."""

    setting: str
    allowed: tuple[Any, ...] = ()
    compare: tuple[tuple[str, float], ...] = ()

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it does, given the settings of a trial so far; a setting that is not a number obeys no comparison."""
        value = values.get(self.setting)
        if self.allowed:
            return any(same(value, other) for other in self.allowed)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and all(COMPARISONS[sign](value, limit) for sign, limit in self.compare)


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched.

    Attributes:
        name: the setting.
        kind: ``int``, ``float`` or ``choice``.
        low, high: ends of the range, both included.
        log: whether equal ratios, not equal differences, are equally likely.
        step: distance between the values tried; None: any.
        choices: the values of a choice.
        when: conditions that must all hold; otherwise the setting keeps its ordinary value.
        origin: file and line, for messages.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    when: tuple[Condition, ...] = ()
    origin: str = ""

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether it is searched, given the other settings."""
        return all(condition.holds(values) for condition in self.when)

    def suggest(self, trial: optuna.trial.Trial) -> Any:
        """The value that Optuna proposes."""
        if self.kind == "choice":
            chosen = trial.suggest_categorical(self.name, [encoded(value) for value in self.choices])
            return next(value for value in self.choices if same(encoded(value), chosen))
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: Any) -> bool:
        """Whether Optuna could propose this value."""
        if self.kind == "choice":
            return any(same(value, other) for other in self.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self.kind == "int" and value != int(value):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-8)

    def grid(self) -> list[Any] | None:
        """All its values in order; None where a range has no steps or is logarithmic."""
        if self.kind == "choice":
            return list(self.choices)
        if self.log or (self.kind == "float" and self.step is None):
            return None
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-8) + 1
        values = [self.low + number * step for number in range(min(count, _MOST_GRID_POINTS + 1))]
        return [int(value) if self.kind == "int" else float(f"{value:.12g}") for value in values]

    def curve(self) -> list[Any]:
        """Values for a curve: its grid, or seven points from end to end, by equal ratios on a logarithmic range."""
        values = self.grid()
        if values is not None:
            return values
        shares = [number / (_CURVE_POINTS - 1) for number in range(_CURVE_POINTS)]
        if self.log:
            points = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            points = [self.low + (self.high - self.low) * share for share in shares]
        points = [float(f"{point:.4g}") for point in points]
        return list(dict.fromkeys(round(point) if self.kind == "int" else point for point in points))

    def describe(self) -> str:
        """The parameter in a few words."""
        when = f" when {', '.join(c.setting for c in self.when)} allow" if self.when else ""
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.choices))}{when}"
        scale = ", log" if self.log else f", step {self.step:g}" if self.step else ""
        return f"{self.kind} {self.low:g} to {self.high:g}{scale}{when}"


@dataclass(frozen=True)
class Space:
    """Everything that a study may vary, in the order in which it is proposed, and what it holds fixed."""

    parameters: tuple[Parameter, ...]
    fixed: dict[str, Any] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)
    origin: str = ""

    def named(self, name: str) -> Parameter | None:
        """The parameter of this name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    def without(self, names: set[str]) -> Space:
        """The space where these settings are given by the user: neither searched nor fixed."""
        kept = tuple(parameter for parameter in self.parameters if parameter.name not in names)
        return replace(self, parameters=kept, fixed={k: v for k, v in self.fixed.items() if k not in names})

    def suggest(self, trial: optuna.trial.Trial, base: Mapping[str, Any], defaults: bool = False) -> dict[str, Any]:
        """The settings of a trial, those alone that are searched.

        Args:
            trial: Optuna's.
            base: all settings where nothing is searched.
            defaults: the trial is the one of the default settings: what a parameter cannot propose stays as it is.
        """
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.active({**base, **values}) and (not defaults or parameter.contains(base.get(parameter.name))):
                values[parameter.name] = parameter.suggest(trial)
        return values

    def default(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The default settings as far as they can be proposed, as Optuna stores them."""
        found = {
            parameter.name: encoded(base[parameter.name])
            for parameter in self.parameters
            if parameter.active(base) and parameter.contains(base.get(parameter.name))
        }
        return found

    def grid(self, base: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every combination once, as Optuna stores them; a setting that is not searched then is left out.

        Raises:
            UserError: a parameter has no steps, or there are more combinations than anyone could try.
        """
        axes = []
        for parameter in self.parameters:
            values = parameter.grid()
            if values is None:
                raise UserError(
                    f"{parameter.origin}: `{parameter.name}` is a range without steps, which --sampler=grid cannot "
                    "enumerate; give it a step or a choice of values"
                )
            axes.append(values)
        if math.prod(map(len, axes)) > _MOST_GRID_POINTS:
            raise UserError(
                f"the grid of {self.origin} has {math.prod(map(len, axes))} combinations, more than "
                f"{_MOST_GRID_POINTS}; give fewer values, or another --sampler"
            )
        found: dict[str, dict[str, Any]] = {}
        for combination in product(*axes):
            chosen: dict[str, Any] = {}
            for parameter, value in zip(self.parameters, combination, strict=True):
                if parameter.active({**base, **chosen}):
                    chosen[parameter.name] = value
            stored = {name: encoded(value) for name, value in chosen.items()}
            found.setdefault(json.dumps(stored, sort_keys=True), stored)
        return list(found.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what two commands must agree on to work on one study."""
        parts = {}
        for p in self.parameters:
            when = [[c.setting, list(c.allowed), [list(pair) for pair in c.compare]] for c in p.when]
            ends = [list(p.choices)] if p.kind == "choice" else [p.low, p.high, p.log, p.step]
            parts[p.name] = [p.kind, *ends, *([when] if when else [])]
        return {"search": parts, "fixed": self.fixed}


def same(one: Any, other: Any) -> bool:
    """Equality that tells True from 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def encoded(value: Any) -> Any:
    """A choice as Optuna can store it: plain scalars as they are, lists and dictionaries as JSON."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)
