"""Reading search spaces: this package's YAML files and RecBole's ``.hyper`` and ``.test`` files.

A YAML file has up to three parts::

    search:
      learning_rate: {float: [0.0003, 0.01], log: True}
      n_layers: {int: [2, 6], step: 2}
      hidden_size: {choice: [64, 128]}
      memory: {choice: [True, False]}
      memory_window: {int: [2, 20], when: {memory: True}}              # searched only where memory is on
      beam_branch: {choice: [1, 2], when: {beam_width: {">=": 10}}}    # [..] one of these; several must all hold
    fixed:
      epochs: 20
    symbols:
      M: codebooks                                                     # --study=M means --study=codebooks

RecBole's have lines ``name type values``, types ``choice [a,b]``, ``uniform low,high``, ``quniform low,high,q`` and
``loguniform low,high`` (ends are powers of e). Nothing is evaluated as code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_reg4rec.config.rules import Rule
from recbole_reg4rec.config.settings import (
    combined_rules,
    describe_settings,
    known_settings,
    nearest,
    own_property_files,
    properties_dir,
    recbole_settings,
)
from recbole_reg4rec.config.values import UserLoader, is_plain, load_yaml, parse_value, read_text
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.tuning.spaces import COMPARISONS, Condition, Parameter, Space, encoded, same

_PARTS = ("search", "fixed", "symbols")
_KINDS = ("int", "float", "choice")
# These say what is measured, on what, and where things lie; trials that differ in them cannot be compared.
# fmt: off
_NOT_SEARCHED = frozenset({
    "metrics", "topk", "valid_metric", "valid_metric_bigger", "eval_args", "eval_step", "mask_history", "repeatable",
    "seed", "reproducibility", "data_path", "checkpoint_dir", "tokenizer_cache", "load_col", "unload_col", "encoding",
    "field_separator", "seq_separator", "USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "val_interval",
    "user_inter_num_interval", "item_inter_num_interval", "filter_inter_by_user_or_item", "rm_dup_inter", "threshold",
    "gpu_id", "use_gpu", "state", "show_progress", "worker", "log_wandb", "wandb_project", "metric_decimal_place",
})
# fmt: on


@dataclass(frozen=True)
class Known:
    """What settings there are for a model, and what each may be."""

    names: frozenset[str]
    rules: Mapping[str, Rule]

    def check(self, name: str, value: Any, origin: str) -> Any:
        """The value as the configuration would take it. Raises UserError naming ``origin``."""
        rule = self.rules.get(name)
        if rule is not None and not rule.allows(value):
            raise UserError(f"{origin}: `{name}` is given {encoded(value)!r}, but it must be {rule.describe()}")
        return value

    def refuse_unknown(self, name: str, origin: str) -> None:
        """Raises UserError where there is no such setting, or none that may differ between trials."""
        if name not in self.names:
            guess = nearest(name, self.names)
            raise UserError(
                f"{origin}: there is no setting `{name}`; "
                + (f"did you mean `{guess}`?" if guess else "--help lists the settings there are")
            )


def known_for(model_class: type, dataset: str) -> Known:
    """The settings of a model on a data set."""
    recboles = recbole_settings(model_class)
    own = [(path, describe_settings(path)) for path in own_property_files(model_class, dataset)]
    return Known(frozenset(known_settings(model_class, recboles)), combined_rules(recboles, own))


def read_space(path: str | None, model: str, model_class: type, dataset: str) -> Space:
    """The search space of a study.

    Args:
        path: the user's file; None: this package's own for the model, ``properties/tuning/<model>.yaml``.
        model, model_class, dataset: whose settings are searched.

    Raises:
        UserError: no such file, or anything in it that could not be tried; the message names the line.
    """
    if path is None:
        own = properties_dir() / "tuning" / f"{model}.yaml"
        if not own.is_file():
            there = ", ".join(sorted(file.stem for file in own.parent.glob("*.yaml")))
            raise UserError(
                f"this package has no search space for {model}, only for {there}; name a file of yours by --space=FILE"
            )
        path = str(own)
    if not Path(path).is_file():
        raise UserError(f"the search space {path} does not exist; check the path given to --space")
    known = known_for(model_class, dataset)
    space = _of_yaml(path, known) if Path(path).suffix.lower() in (".yaml", ".yml") else _of_recbole(path, known)
    if not space.parameters:
        raise UserError(f"the search space {path} searches nothing; give at least one setting and what to try for it")
    return space


def one_setting(name: str, values: list[Any] | None, space: Space | None, known: Known) -> Space:
    """A space of one setting with the values that a curve shows.

    Args:
        name: the setting, or a symbol of the space such as ``M``.
        values: what to try; None: what ``space`` tries for it.
        space: the model's search space, where there is one.
        known: the model's settings.

    Raises:
        UserError: there is no such setting, no values for it, or a value is not allowed.
    """
    name = space.symbols.get(name, name) if space else name
    origin = "--study"
    if name == "seed":
        known.refuse_unknown(name, origin)
    else:
        _check_name(name, origin, known)
    if values is None:
        found = space.named(name) if space else None
        if found is None:
            raise UserError(f"--study={name}: the search space says nothing of `{name}`; give --values=[a,b,c]")
        values = found.curve()
    parameter = _choice(name, values, "--values", known)
    fixed = {other: value for other, value in space.fixed.items() if other != name} if space else {}
    return Space((parameter,), fixed, {}, f"--study={name}")


# ---------------------------------------------------------------------------------------------------------------- YAML


def _of_yaml(path: str, known: Known) -> Space:
    content = load_yaml(path)
    lines = _lines(path)

    def origin(*keys: str) -> str:
        return f"search space {path} line {lines.get(keys, 1)}"

    for part, value in content.items():
        if part not in _PARTS:
            raise UserError(f"{origin(part)}: `{part}` is no part of a search space; there are {', '.join(_PARTS)}")
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{origin(part)}: `{part}` must hold `name: value` lines")
    search, fixed = content.get("search") or {}, content.get("fixed") or {}
    parameters: list[Parameter] = []
    for name, entry in search.items():
        where = origin("search", name)
        _check_name(name, where, known)
        parameters.append(_entry(name, entry, where, known, parameters, search))
    for name, value in fixed.items():
        where = origin("fixed", name)
        known.refuse_unknown(name, where)
        if name in search:
            raise UserError(f"{where}: `{name}` is fixed and searched; leave one out")
        known.check(name, value, where)
    symbols = content.get("symbols") or {}
    for symbol, name in symbols.items():
        known.refuse_unknown(str(name), origin("symbols", symbol))
    return Space(tuple(parameters), dict(fixed), dict(symbols), path)


def _lines(path: str) -> dict[tuple[str, ...], int]:
    """Line of each part, and of each name in it."""
    reader = UserLoader(read_text(path))
    try:
        root = reader.get_single_node()
    finally:
        reader.dispose()
    found: dict[tuple[str, ...], int] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        found[(key.value,)] = key.start_mark.line + 1
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else []:
            found[(key.value, inner.value)] = inner.start_mark.line + 1
    return found


def _check_name(name: Any, origin: str, known: Known) -> None:
    known.refuse_unknown(str(name), origin)
    if name in _NOT_SEARCHED:
        raise UserError(
            f"{origin}: `{name}` cannot be searched: it says what is measured or where, and trials must agree on that; "
            "give it on the command line"
        )


def _entry(
    name: str, entry: Any, origin: str, known: Known, above: list[Parameter], search: Mapping[str, Any]
) -> Parameter:
    kinds = [kind for kind in _KINDS if isinstance(entry, dict) and kind in entry]
    if len(kinds) != 1:
        raise UserError(
            f"{origin}: `{name}` must be one of {{int: [low, high]}}, {{float: [low, high]}} and {{choice: [a, b]}}"
        )
    kind = kinds[0]
    allowed = {kind, "when"} | ({"log", "step"} if kind != "choice" else set())
    for key in entry:
        if key not in allowed:
            raise UserError(f"{origin}: `{name}` has `{key}`, but beside {kind} it may have {_words(allowed - {kind})}")
    when = _when(name, entry.get("when"), origin, known, above, search)
    if kind == "choice":
        return _choice(name, entry["choice"], origin, known, when)
    ends, log, step = entry[kind], entry.get("log", False), entry.get("step")
    if not isinstance(ends, list) or len(ends) != 2:
        raise UserError(f"{origin}: `{name}` needs two ends, {kind}: [low, high], but has {ends!r}")
    if not isinstance(log, bool):
        raise UserError(f"{origin}: `log` of `{name}` is {log!r}, but it must be True or False")
    return _range(name, kind, ends[0], ends[1], log, step, origin, known, when)


def _when(
    name: str, when: Any, origin: str, known: Known, above: list[Parameter], search: Mapping[str, Any]
) -> tuple[Condition, ...]:
    if when is None:
        return ()
    if not isinstance(when, dict) or not when:
        raise UserError(f"{origin}: `when` of `{name}` must name settings, e.g. when: {{memory: True}}")
    conditions = []
    for other, test in when.items():
        known.refuse_unknown(str(other), origin)
        searched = next((parameter for parameter in above if parameter.name == other), None)
        if searched is None and other in search:
            raise UserError(f"{origin}: `{name}` depends on `{other}`, which must stand above it")
        if isinstance(test, dict):
            for sign, limit in test.items():
                if sign not in COMPARISONS or isinstance(limit, bool) or not isinstance(limit, (int, float)):
                    raise UserError(
                        f"{origin}: `when` of `{name}` has {sign!r}: {limit!r}, but a comparison is one of "
                        f"{', '.join(COMPARISONS)} and a number"
                    )
            condition = Condition(other, compare=tuple(test.items()))
        else:
            condition = Condition(other, allowed=tuple(test if isinstance(test, list) else [test]))
            for value in condition.allowed:
                known.check(other, value, origin)
                if searched is not None and not searched.contains(value):
                    raise UserError(f"{origin}: `{name}` waits for {other}={value!r}, which `{other}` never is")
        conditions.append(condition)
    return tuple(conditions)


# ------------------------------------------------------------------------------------------------------------- RecBole


def _of_recbole(path: str, known: Known) -> Space:
    parameters: list[Parameter] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        origin = f"search space {path} line {number}"
        if len(words) < 3:
            raise UserError(f"{origin}: `{line.strip()}` is not `name type values`, e.g. n_layers choice [1,2]")
        name, kind, text = words[0], words[1], "".join(words[2:])
        _check_name(name, origin, known)
        if any(parameter.name == name for parameter in parameters):
            raise UserError(f"{origin}: `{name}` is given twice")
        parameters.append(_recbole_entry(name, kind, text, origin, known))
    return Space(tuple(parameters), {}, {}, path)


def _recbole_entry(name: str, kind: str, text: str, origin: str, known: Known) -> Parameter:
    if kind == "choice":
        values = parse_value(text)
        if not isinstance(values, (list, tuple)):
            raise UserError(f"{origin}: `{text}` is no list; write {name} choice [a,b]")
        # RecBole reads such texts once more: '[64,64]' is a list there.
        return _choice(name, [parse_value(v) if isinstance(v, str) else v for v in values], origin, known)
    count = {"uniform": 2, "loguniform": 2, "quniform": 3}.get(kind)
    if count is None:
        raise UserError(f"{origin}: `{kind}` is not one of choice, uniform, quniform, loguniform")
    numbers = [parse_value(part) for part in text.split(",")]
    if len(numbers) != count or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise UserError(f"{origin}: `{kind}` needs {count} numbers with commas between them, but has `{text}`")
    if kind == "loguniform":
        low, high = (float(f"{math.exp(number):.12g}") for number in numbers)
        return _range(name, "float", low, high, True, None, origin, known)
    if kind == "uniform":
        return _range(name, "float", float(numbers[0]), float(numbers[1]), False, None, origin, known)
    low, high, step = numbers
    if step <= 0:
        raise UserError(f"{origin}: the step of `{name}` is {step}, but it must be > 0")
    # As hyperopt rounds: to the nearest multiple of the step.
    low, high = (float(f"{round(end / step) * step:.12g}") for end in (low, high))
    whole = all(float(number).is_integer() for number in (low, high, step))
    cast = int if whole else float
    return _range(name, "int" if whole else "float", cast(low), cast(high), False, cast(step), origin, known)


# ---------------------------------------------------------------------------------------------------------------- both


def _choice(name: str, values: Any, origin: str, known: Known, when: tuple[Condition, ...] = ()) -> Parameter:
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(f"{origin}: `{name}` needs a list of at least one value, but has {values!r}")
    for number, value in enumerate(values):
        if not is_plain(value):
            raise UserError(f"{origin}: `{name}` cannot be {value!r}")
        known.check(name, value, origin)
        if any(same(encoded(value), encoded(other)) for other in values[:number]):
            raise UserError(f"{origin}: `{name}` has {value!r} twice")
    return Parameter(name, "choice", choices=tuple(values), when=when, origin=origin)


def _range(
    name: str,
    kind: str,
    low: Any,
    high: Any,
    log: bool,
    step: Any,
    origin: str,
    known: Known,
    when: tuple[Condition, ...] = (),
) -> Parameter:
    for what, number in (("low end", low), ("high end", high), *((("step", step),) if step is not None else ())):
        right = isinstance(number, int) if kind == "int" else isinstance(number, (int, float))
        if not right or isinstance(number, bool) or not math.isfinite(number):
            raise UserError(
                f"{origin}: the {what} of `{name}` is {number!r}, but it must be a {'whole ' * (kind == 'int')}number"
            )
    if not low < high:
        raise UserError(f"{origin}: `{name}` goes from {low} to {high}, but the low end must be below the high one")
    if log and low <= 0:
        raise UserError(f"{origin}: `{name}` is logarithmic and begins at {low}, but it must begin above 0")
    if log and step is not None:
        raise UserError(f"{origin}: `{name}` is logarithmic and has a step; leave one out")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"{origin}: the step of `{name}` is {step}, but it must be > 0 and at most {high - low}")
    for end in (low, high):
        known.check(name, end, origin)
    if kind == "float" and step is None:
        # A fraction inside, in case only whole numbers may stand there.
        known.check(name, low + (high - low) / math.e, origin)
    return Parameter(name, kind, float(low), float(high), log, step, when=when, origin=origin)


def _words(names: set[str]) -> str:
    return ", ".join(sorted(names))
