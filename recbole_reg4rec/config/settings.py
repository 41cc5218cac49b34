"""Which settings exist, where their property files lie, and which are refused.

Nothing here imports torch or RecBole at import time, so that ``--help`` is quick.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_reg4rec.config.rules import Rule, parse_rule
from recbole_reg4rec.config.values import PropertyLoader, UserLoader, load_yaml, parse_value, read_text
from recbole_reg4rec.errors import UserError

__all__ = [
    "Setting",
    "combined_rules",
    "describe_settings",
    "known_settings",
    "load_yaml",
    "model_names",
    "nearest",
    "own_property_files",
    "parse_value",
    "properties_dir",
    "recbole_properties_dir",
    "recbole_property_files",
    "recbole_rules",
    "recbole_settings",
    "refuse_pickles",
    "refuse_processes",
    "refuse_unknown",
]

# Names that RecBole's data, trainer and configuration modules read although no property file of theirs that applies
# to every model declares them.
_READ_BUT_UNDECLARED = frozenset(
    {
        *("model", "dataset", "config_files", "encoding", "numerical_features", "discretization", "transform"),
        *("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"),
        *("entity_kg_num_interval", "relation_kg_num_interval", "kg_reverse_r", "loss_type", "reg_weight"),
        *("shuffle", "worker", "wandb_project", "tail_ratio", "mask_ratio", "ft_ratio", "eta", "beta", "save_step"),
        *("pretrain_epochs", "nproc", "world_size", "local_rank", "offset", "ip", "port"),
    }
)
# Names that are read and never taken from the user: what sets them instead.
_INSTEAD = {
    "device": "`use_gpu` and `gpu_id` choose the device",
    "single_spec": "this package trains in one process",
    "eval_type": "`metrics` decides it",
    "MODEL_TYPE": "the model decides it",
    "MODEL_INPUT_TYPE": "the model and `loss_type` decide it",
    "valid_neg_sample_args": "use `eval_args`",
    "test_neg_sample_args": "use `eval_args`",
    "neg_sampling": "use `train_neg_sample_args`",
    "training_neg_sample_num": "use `train_neg_sample_args`",
    "reason_only": "it belongs in properties/dataset/<data set>.REG4Rec.yaml; give the settings themselves",
}
_READS = re.compile(r"""config(?:\[|\.get\(\s*)["']([A-Za-z_]\w*)["']""")
_PICKLES = ("save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path")
# What one process means to RecBole; anything else asks for several.
_ONE_PROCESS: dict[str, tuple[Any, ...]] = {
    "nproc": (None, 1),
    "world_size": (None, -1, 1),
    "local_rank": (None,),
    "offset": (None, 0),
    "ip": (None, "localhost", "127.0.0.1"),
    "port": (None,),
}
# What RecBole says in its comments, or not at all, of settings that several of its models share.
_RECBOLE_LIMITS = {
    "loss_type": Rule(("str",), ("BPR", "CE")),
    "hidden_act": Rule(("str",), ("gelu", "relu", "swish", "tanh", "sigmoid")),
    "n_layers": Rule(("int",), (), ((">=", 1.0),), ">= 1"),
    "n_heads": Rule(("int",), (), ((">=", 1.0),), ">= 1"),
}
_HEADING = re.compile(r"#+\s*(.*?)\s*$")


@dataclass(frozen=True)
class Setting:
    """One setting of a property file.

    Attributes:
        name: the key.
        value: the default.
        comment: the comment behind the key, continued on indented comment lines below it; a rule included.
        section: the heading above it, a comment line of its own that starts in the first column.
        rule: what the setting may be, or None when its comment does not begin with a type.
    """

    name: str
    value: Any
    comment: str
    section: str = ""
    rule: Rule | None = None


def properties_dir() -> Path:
    """The folder of this package's property files: the checkout's own, otherwise the one inside the package."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent
    # The script tells a checkout from site-packages, where another package may be called `properties`.
    if (checkout / "run_recbole_reg4rec.py").is_file() and (checkout / "properties").is_dir():
        return checkout / "properties"
    return package / "properties"


def recbole_properties_dir() -> Path:
    """The folder of RecBole's property files, found without importing RecBole. Raises UserError when not installed."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("RecBole is not installed; install it with: pip install --no-deps recbole==1.2.1")
    return Path(next(iter(spec.submodule_search_locations))) / "properties"


def model_names(model_class: type) -> list[str]:
    """Names of a model class and of the classes it is built on, base first, as property files are named."""
    return [cls.__name__ for cls in reversed(model_class.__mro__) if cls.__module__.split(".")[0] != "builtins"]


def own_property_files(model_class: type, dataset: str | None) -> list[Path]:
    """This package's property files that exist for a model and a data set, weakest first."""
    root = properties_dir()
    files = [root / "overall.yaml"]
    files += [root / "model" / f"{name}.yaml" for name in model_names(model_class)]
    if dataset is not None:
        files.append(root / "dataset" / f"{dataset}.yaml")
        # What suits one model on these data, and no other.
        files += [root / "dataset" / f"{dataset}.{name}.yaml" for name in model_names(model_class)]
    return [path for path in files if path.is_file()]


def recbole_property_files(model_class: type) -> list[Path]:
    """RecBole's property files whose settings a model may be given, whatever the data set."""
    root = recbole_properties_dir()
    files = [root / "overall.yaml", root / "dataset" / "sample.yaml"]
    files += sorted((root / "quick_start_config").glob("sequential*.yaml"))
    files += [root / "model" / f"{name}.yaml" for name in model_names(model_class)]
    return [path for path in files if path.is_file()]


def known_settings(model_class: type, recboles: Iterable[Setting] | None = None) -> set[str]:
    """Every setting that RecBole, this package or the model itself knows.

    Args:
        model_class: the model; the names that it and its base classes read from ``config`` count as known.
        recboles: what :func:`recbole_settings` found, to spare reading it again.
    """
    from recbole.utils import argument_list

    known = set(_READ_BUT_UNDECLARED)
    for category in ("general", "training", "evaluation", "dataset"):
        known.update(getattr(argument_list, f"{category}_arguments"))
    known.update(item.name for item in (recbole_settings(model_class) if recboles is None else recboles))
    datasets = [path for path in (properties_dir() / "dataset").glob("*.yaml") if "." not in path.stem]
    for path in [*own_property_files(model_class, None), *sorted(datasets)]:
        known.update(load_yaml(path))
    known.update(_names_read_by(model_class))
    return known - set(_INSTEAD)


def refuse_unknown(names: Mapping[str, str], known: Iterable[str]) -> None:
    """Refuse settings that nothing reads.

    Args:
        names: each setting given and where, e.g. ``{"epoch": "the command line"}``.
        known: all names there are.

    Raises:
        UserError: naming the first unknown setting, where it came from and the nearest known name.
    """
    known = set(known)
    for name, origin in names.items():
        if name not in known:
            if name in _INSTEAD:
                raise UserError(f"setting `{name}` ({origin}) cannot be chosen; {_INSTEAD[name]}")
            guess = nearest(name, known)
            advice = f"did you mean `{guess}`?" if guess else "--help lists the settings there are"
            raise UserError(f"unknown setting `{name}` ({origin}); {advice}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like a given one, upper and lower case alike, or None when none is like it."""
    by_lower = {other.lower(): other for other in sorted(known, reverse=True)}
    found = difflib.get_close_matches(name.lower(), sorted(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def refuse_pickles(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Raise UserError when a setting asks RecBole to write or read pickled data."""
    for name in _PICKLES:
        if values.get(name):
            raise UserError(
                f"setting `{name}` is {values[name]!r} ({origins.get(name, 'a property file')}), but this package "
                "reads and writes no pickled data and caches by itself what it needs; remove the setting"
            )


def refuse_processes(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Raise UserError when a setting asks for training in several processes."""
    for name, allowed in _ONE_PROCESS.items():
        if name in values and values[name] not in allowed:
            raise UserError(
                f"setting `{name}` is {values[name]!r} ({origins.get(name, 'a property file')}), but training in "
                "several processes is not supported; remove the setting and choose one device with `gpu_id`"
            )


def describe_settings(path: str | Path) -> list[Setting]:
    """The top-level settings of a property file with the comments behind them, in the file's order.

    Raises:
        UserError: as :func:`load_yaml` does.
    """
    load_yaml(path)  # refuses whatever could not be described
    return list(_describe(read_text(path), UserLoader))


def recbole_settings(model_class: type) -> list[Setting]:
    """The settings in RecBole's property files for a model, file by file, so that a name may come more than once."""
    files = recbole_property_files(model_class)
    return [item for path in files for item in _describe(path.read_text(encoding="utf-8"), PropertyLoader)]


def recbole_rules(settings: Iterable[Setting]) -> dict[str, Rule]:
    """Rules for those settings of RecBole that are one number, switch or text.

    RecBole documents types and does not check them. A rule that one of RecBole's own defaults breaks is left out, and
    so is ``gpu_id``, which may be a number or text.

    Args:
        settings: what :func:`recbole_settings` found.
    """
    rules: dict[str, Rule] = {}
    defaults: dict[str, list[Any]] = {}
    for item in settings:
        defaults.setdefault(item.name, []).append(item.value)
        types = item.rule.types if item.rule else ()
        if types and set(types) <= {"int", "float", "str", "bool", "None"} and item.name != "gpu_id":
            rules[item.name] = _RECBOLE_LIMITS.get(item.name) or Rule(types)
    for name, rule in rules.items():
        # RecBole reads an absent text as 'no such thing' wherever it reads one.
        if "None" not in rule.types and (None in defaults[name] or "str" in rule.types):
            rules[name] = replace(rule, types=(*rule.types, "None"))
    return {name: rule for name, rule in rules.items() if all(map(rule.allows, defaults[name]))}


def combined_rules(recboles: Iterable[Setting], own: Iterable[tuple[Path, Iterable[Setting]]]) -> dict[str, Rule]:
    """What each setting of a model may be.

    Args:
        recboles: what :func:`recbole_settings` found.
        own: this package's property files, weakest first, with what :func:`describe_settings` found in them.
    """
    rules = recbole_rules(recboles)
    for path, items in own:
        found = {item.name: item.rule for item in items if item.rule is not None}
        # What holds for one data set narrows nothing: there, `class` may be text where None is allowed too.
        rules = {**found, **rules} if path.parent.name == "dataset" else {**rules, **found}
    return rules


def _describe(text: str, loader: type[PropertyLoader]) -> Iterator[Setting]:
    reader = loader(text)
    try:
        root = reader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return
        places = {key_node.value: (key_node, value_node) for key_node, value_node in root.value}
        content = reader.construct_document(root)
    finally:
        reader.dispose()
    lines = text.splitlines()
    for name, (key_node, value_node) in places.items():
        comment = _comment(lines, key_node, value_node)
        section = _section(lines, key_node.start_mark.line)
        yield Setting(name, content[name], comment, section, parse_rule(comment))


def _comment(lines: list[str], key_node: yaml.Node, value_node: yaml.Node) -> str:
    on_one_line = isinstance(value_node, yaml.ScalarNode) and value_node.style not in ("|", ">")
    if on_one_line or getattr(value_node, "flow_style", False):
        number, column = value_node.end_mark.line, value_node.end_mark.column
    else:
        number, column = key_node.end_mark.line, key_node.end_mark.column
    if number >= len(lines) or "#" not in lines[number][column:]:
        return ""
    parts = [lines[number][column:].split("#", 1)[1].strip()]
    for line in lines[number + 1 :]:
        if not re.match(r"\s+#", line):
            break
        parts.append(line.split("#", 1)[1].strip())
    return " ".join(part for part in parts if part)


def _section(lines: list[str], number: int) -> str:
    def is_comment(at: int) -> bool:
        return 0 <= at < len(lines) and lines[at].startswith("#")

    for at in range(number - 1, -1, -1):
        if is_comment(at) and not is_comment(at - 1) and not is_comment(at + 1):
            match = _HEADING.match(lines[at])
            return match.group(1) if match else ""
    return ""


@cache
def _names_read_by(model_class: type) -> frozenset[str]:
    names: set[str] = set()
    for cls in model_class.__mro__:
        if cls.__module__.split(".")[0] in ("builtins", "torch", "abc", "typing"):
            continue
        # A model's helpers stand in its module; the bases of all kinds of models share one, so there the class alone.
        shared = cls.__module__ == "recbole.model.abstract_recommender"
        try:
            source = inspect.getsource(cls if shared else sys.modules[cls.__module__])
        except (OSError, TypeError, KeyError):  # no source at hand, e.g. a class typed into an interpreter
            continue
        names.update(_READS.findall(source))
    return frozenset(names)
