"""What a user may ask of the benchmark, read from text."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.benchmark.contenders import Contender, choose

# Against slips of the keyboard.
_MOST_ITEMS = 10_000_000


@dataclass(frozen=True)
class Options:
    """See `read_options`; ``epochs`` 0: no accuracy; ``scale``: numbers of items, ascending."""

    datasets: tuple[str, ...]
    contenders: tuple[Contender, ...]
    seconds: float
    repeats: int
    threads: int
    epochs: int
    scale: tuple[int, ...]
    config_files: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def read_options(
    datasets: str,
    models: str | None,
    seconds: str,
    repeats: str,
    threads: str,
    epochs: str,
    scale: str | None,
    config_files: list[str] | None,
    settings: Mapping[str, str],
) -> Options:
    """The options as values.

    Raises:
        UserError: one sentence about the first that cannot be used.
    """
    chosen = choose(_names(models, "--models") if models is not None else None)
    sizes = _sizes(scale) if scale is not None else ()
    if sizes and not any(contender.scales for contender in chosen):
        names = ", ".join(contender.name for contender in choose(None) if contender.scales)
        raise UserError(f"--scale is for {names}, but --models names none of them")
    return Options(
        datasets=tuple(_names(datasets, "--datasets")),
        contenders=tuple(chosen),
        seconds=_seconds(seconds),
        repeats=_whole(repeats, "--repeats", 1),
        threads=_whole(threads, "--threads", 1),
        epochs=_whole(epochs, "--epochs", 0),
        scale=sizes,
        # Workers stand in a folder of their own.
        config_files=tuple(os.path.abspath(path) for path in config_files or ()),
        settings=dict(settings),
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.strip().removeprefix("[").removesuffix("]").split(",") if part.strip()]


def _names(text: str, argument: str) -> list[str]:
    names = _parts(text)
    if not names:
        raise UserError(f"{argument} names nothing; give one or more, separated by commas")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{argument} names {name} twice; name it once")
    return names


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _seconds(text: str) -> float:
    value = _number(text)
    if value is None or value <= 0:
        raise UserError(f"--seconds is `{text}`, but it must be a number above 0: how long a slice lasts")
    return value


def _whole(text: str, argument: str, least: int) -> int:
    value = _number(text)
    if value is None or value != int(value) or value < least:
        raise UserError(f"{argument} is `{text}`, but it must be a whole number, at least {least}")
    return int(value)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = []
    for part in _parts(text) or [text]:
        value = _number(part)
        if value is None or value != int(value) or not 100 <= value <= _MOST_ITEMS:
            raise UserError(
                f"--scale is `{text}`, but it must be numbers of items from 100 to {_MOST_ITEMS:.0e}, separated by "
                "commas, such as 1e4,1e5"
            )
        sizes.append(int(value))
    return tuple(sorted(set(sizes)))
