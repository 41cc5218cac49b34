"""Plans of small studies on the toy data of `tests/study/conftest.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from recbole_reg4rec.study.tuning.command import make_plan
from recbole_reg4rec.study.tuning.plan import Plan

MEMORY_SPACE = """
search:
  memory_window: {int: [1, 20]}
  memory_decay: {float: [0.0, 2.0]}
"""


class Tuner:
    """Makes plans, and their command lines, whose settings are small."""

    def __init__(self, toy: Any, folder: Path) -> None:
        self.toy, self.folder = toy, folder

    def file(self, text: str, name: str = "space.yaml") -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def command_line(self, model: str, more: Mapping[str, Any]) -> dict[str, str]:
        settings = self.toy.settings(model, **more)
        settings.pop("seed", None)
        return {name: str(value) for name, value in settings.items()}

    def plan(
        self,
        space: str | None = MEMORY_SPACE,
        model: str = "ItemMemory",
        trials: int = 3,
        settings: Mapping[str, Any] | None = None,
        files: list[str] | None = None,
        **arguments: str,
    ) -> Plan:
        given = self.command_line(model, {} if model != "ItemMemory" else {"epochs": 0})
        if space is not None:
            arguments["space"] = self.file(space)
            given = {name: value for name, value in given.items() if f"{name}:" not in space}
        given.update({name: str(value) for name, value in (settings or {}).items()})
        arguments = {"trials": str(trials), **arguments}
        return make_plan(model, "toy", files, given, str(self.folder / "results"), arguments)


@pytest.fixture
def tuner(toy: Any, tmp_path: Path) -> Tuner:
    return Tuner(toy, tmp_path)


@pytest.fixture
def plan(tuner: Tuner) -> Callable[..., Plan]:
    return tuner.plan
