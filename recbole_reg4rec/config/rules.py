"""What a setting may be, read from the comment that stands behind it in a property file.

The grammar of such a comment::

    comment    = "(" type { " or " type } ")" [ choices ] [ limits ] any text
    type       = "int" | "float" | "str" | "bool" | "list" | "dict" | "None"
               | "list of int" | "list of float" | "list of str" | "list of bool"
    choices    = "in [" choice { "," choice } "]"
    limits     = "range" ("[" | "(") low "," high ("]" | ")")   "[" and "]" include the end, "(" and ")" do not
               | compare [ "and" compare ]                      compare = (">=" | ">" | "<=" | "<") number

Both constraints stand directly behind the closing bracket of the types. Choices hold for text where they are texts
and for numbers where they are numbers, limits for numbers, both for every element of a list; True, False, None and
dictionaries are not constrained. A ``float`` may be written as a whole number, an ``int`` never as a decimal one; NaN
is never allowed. Examples::

    dropout: 0.2          # (float) range [0, 1) Share of units dropped.
    n_codebooks: 4        # (int) >= 1 Codebooks, that is reasoning steps.
    history: fused        # (str) in [fused, flat] How the history is read.
    codebook_size: auto   # (int or str) in [auto] >= 2 Codewords a codebook.
    item_columns: ~       # (list of str or None) Columns of the item file; None guesses them.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recbole_reg4rec.config.values import is_null, parse_value
from recbole_reg4rec.errors import UserError

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+|inf)"
_TYPE = r"(?:list of (?:int|float|str|bool)|int|float|str|bool|list|dict|None)"
_HEAD = re.compile(rf"\(({_TYPE}(?: or {_TYPE})*)\)\s*")
_CHOICES = re.compile(r"in \[([^\]]*)\]\s*")
_RANGE = re.compile(rf"range\s*([\[(])\s*({_NUMBER})\s*,\s*({_NUMBER})\s*([\])])\s*")
_COMPARE = re.compile(rf"(>=|<=|>|<)\s*({_NUMBER})\s*")
_MISPLACED = re.compile(rf"\bin \[|\brange\s*[\[(]|(?:>=|<=|>|<)\s*{_NUMBER}")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "list": (list, tuple),
    "dict": (dict,),
    "None": (type(None),),
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "True or False",
    "list": "a list",
    "dict": "a dictionary",
    "None": "None",
    "list of int": "a list of whole numbers",
    "list of float": "a list of numbers",
    "list of str": "a list of texts",
    "list of bool": "a list of True and False",
}


@dataclass(frozen=True)
class Rule:
    """What one setting may be.

    Attributes:
        types: names from the module's grammar, e.g. ``("int", "None")``.
        choices: the values allowed, or empty when there is no such constraint.
        limits: pairs such as ``(">=", 1.0)`` that must all hold.
        written: the limits as written, for messages.
    """

    types: tuple[str, ...]
    choices: tuple[Any, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()
    written: str = ""

    def describe(self) -> str:
        """The rule in words, to follow 'must be'."""
        texts = any(isinstance(choice, str) for choice in self.choices)
        numbers = any(not isinstance(choice, str) for choice in self.choices)
        one_of = "one of " + ", ".join(str(choice) for choice in self.choices)
        words = []
        for name in self.types:
            element = name.removeprefix("list of ")
            if (element == "str" and texts) or (element in ("int", "float") and numbers):
                words.append(one_of if element == name else f"a list of these: {one_of.removeprefix('one of ')}")
            else:
                words.append(
                    _WORDS[name] + (f" {self.written}" if self.written and element in ("int", "float") else "")
                )
        return " or ".join(dict.fromkeys(words))

    def allows(self, value: Any) -> bool:
        """Whether a value obeys the rule."""
        return any(self._is(name, value) for name in self.types)

    def _is(self, name: str, value: Any) -> bool:
        kind, _, element = name.partition(" of ")
        if isinstance(value, bool) and kind in ("int", "float"):
            return False
        if not isinstance(value, _PYTHON_TYPES[kind]):
            return False
        if kind in ("bool", "dict", "None"):
            return True
        if isinstance(value, list | tuple):
            return all((not element or self._is(element, item)) and self._within(item) for item in value)
        return self._within(value)

    def _within(self, value: Any) -> bool:
        if isinstance(value, float) and math.isnan(value):
            return False
        alike = [choice for choice in self.choices if isinstance(choice, str) == isinstance(value, str)]
        if alike and isinstance(value, str | int | float) and value not in alike:
            return False
        if self.limits and isinstance(value, int | float) and not isinstance(value, bool):
            return all(_OPERATORS[sign](value, limit) for sign, limit in self.limits)
        return True

    def of_text(self, text: str) -> Any:
        """The value that a command-line text stands for, given this rule: ``0`` is text where only text is allowed."""
        value = parse_value(text)
        if isinstance(value, str) or set(self.types) - {"str", "None"} or "str" not in self.types:
            return value
        return None if "None" in self.types and is_null(text) else text

    def check(self, name: str, value: Any, origin: str) -> Any:
        """Return the value, tuples made lists and whole numbers made floats where the rule says ``float`` alone.

        Args:
            name: the setting's name.
            value: what was found.
            origin: where it was found, e.g. ``the command line``.

        Raises:
            UserError: the value breaks the rule.
        """
        if not self.allows(value):
            raise UserError(f"setting `{name}` is {value!r} ({origin}), but it must be {self.describe()}")
        if isinstance(value, tuple):
            return list(value)
        if isinstance(value, int) and not isinstance(value, bool) and {"float"} == set(self.types) - {"None"}:
            return float(value)
        return value


def parse_rule(comment: str) -> Rule | None:
    """The rule at the head of a comment (grammar in the module's docstring), or None when there is none."""
    return _split(comment)[0]


def misplaced_constraint(comment: str) -> str | None:
    """A constraint that stands too far behind in a comment to be obeyed, for tests of the property files."""
    found = _MISPLACED.search(_split(comment)[1])
    return found.group(0) if found else None


def _split(comment: str) -> tuple[Rule | None, str]:
    head = _HEAD.match(comment)
    if head is None:
        return None, comment
    types = tuple(head.group(1).split(" or "))
    rest = comment[head.end() :]
    choices, rest = _choices(types, rest)
    limits: tuple[tuple[str, float], ...] = ()
    written = ""
    if match := _RANGE.match(rest):
        left, low, high, right = match.groups()
        limits = ((">=" if left == "[" else ">", float(low)), ("<=" if right == "]" else "<", float(high)))
        written, rest = f"in the range {left}{low}, {high}{right}", rest[match.end() :]
    elif match := _COMPARE.match(rest):
        limits, written = ((match.group(1), float(match.group(2))),), f"{match.group(1)} {match.group(2)}"
        rest = rest[match.end() :]
        if rest.startswith("and ") and (match := _COMPARE.match(rest[4:])):
            limits += ((match.group(1), float(match.group(2))),)
            written, rest = f"{written} and {match.group(1)} {match.group(2)}", rest[4 + match.end() :]
    return Rule(types, choices, limits, written), rest


def _choices(types: tuple[str, ...], rest: str) -> tuple[tuple[Any, ...], str]:
    match = _CHOICES.match(rest)
    if match is None:
        return (), rest
    words = [word.strip() for word in match.group(1).split(",") if word.strip()]
    if set(types) <= {"str", "None", "bool", "list of str"}:
        return tuple(word.strip("'\"") for word in words), rest[match.end() :]
    return tuple(parse_value(word) for word in words), rest[match.end() :]
