"""Reading values: property files in YAML, and the text of one command-line value. Nothing here is ever evaluated."""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from recbole_reg4rec.errors import UserError

try:  # the same rules in C, several times as fast, where PyYAML was built with them
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|nan)", re.IGNORECASE)
_NULL = {"", "~", "null", "Null", "NULL", "None"}
_WORDS = {"true": True, "false": False}


class PropertyLoader(SafeLoader):
    """YAML's safe loader that reads ``1e-3`` as a number, as RecBole's property files need.

    A class of its own, because RecBole adds this rule to ``yaml.FullLoader`` for the whole process.
    """


PropertyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


class UserLoader(PropertyLoader):
    """As :class:`PropertyLoader`; refuses a key given twice, reads ``None`` as null and leaves dates as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a dict as the parent does. Raises ``yaml.constructor.ConstructorError`` for a key given twice."""
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key}` is given twice, first in line {seen[key]}", key_node.start_mark
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


UserLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^None$"), ["N"])
# A date object is no JSON and no setting of ours or RecBole's is one.
UserLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in UserLoader.yaml_implicit_resolvers.items()
}


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark. Raises UserError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"settings file {path} does not exist; check the path given to --config_files") from error
    except UnicodeDecodeError as error:
        raise UserError(f"settings file {path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"settings file {path} cannot be read ({error.strerror}); give a readable YAML file") from error


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a file of settings.

    Args:
        path: a UTF-8 YAML file whose top level is ``name: value`` lines; an empty file is an empty dict.

    Returns:
        Setting names and plain values (dict, list, str, int, float, bool, None).

    Raises:
        UserError: the file is missing, unreadable or no valid YAML, its top level is not ``name: value``, or a
            key is given twice; the message names the file and, where there is one, the line.
    """
    text = read_text(path)
    try:
        content = yaml.load(text, Loader=UserLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"settings file {path}{line} is not valid YAML: {' '.join(problem.split())}") from error
    except ValueError as error:  # a scalar that looks like a number and is none, e.g. an impossible date
        raise UserError(f"settings file {path} holds a value that cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"settings file {path} holds a {type(content).__name__} at its top level, "
            "but it must hold `name: value` lines"
        )
    for key in content:
        if not isinstance(key, str):
            raise UserError(f"settings file {path} has the key {key!r}, but a setting's name must be text")
    return content


def parse_value(text: str) -> Any:
    """The value that a command-line text stands for.

    ``true``/``false`` in any case, ``None``, ``null`` and ``~``, whole and decimal numbers (``1e-3`` too); lists,
    tuples and dictionaries in Python's or YAML's writing; quoted text. Anything else is the text itself: ``007``,
    ``yes``, ``1:30``, ``[0,inf)``.
    """
    stripped = text.strip()
    if stripped[:1] in ("[", "{", "(", "'", '"'):
        return _parse_bracketed(stripped, text)
    if stripped.lower() in _WORDS:
        return _WORDS[stripped.lower()]
    if is_null(stripped) and stripped:
        return None
    if _INT.fullmatch(stripped):
        return int(stripped)
    if _FLOAT.fullmatch(stripped):
        return float(stripped)
    if _SPECIAL_FLOAT.fullmatch(stripped):
        return float(stripped.replace(".", ""))
    return text


def is_null(text: str) -> bool:
    """Whether a text writes 'no value': empty, ``~``, ``null`` or ``None``."""
    return text.strip() in _NULL


def is_plain(value: Any) -> bool:
    """Whether a value is made of None, bool, int, float, str, list, tuple and dict alone."""
    if isinstance(value, dict):
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _parse_bracketed(stripped: str, text: str) -> Any:
    # Python's writing first: YAML would read [(1,2)] as two words.
    try:
        value = ast.literal_eval(stripped)
        if is_plain(value):
            return value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    try:
        value = yaml.load(stripped, Loader=UserLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) and is_plain(value) else text
