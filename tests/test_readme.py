"""What the README shows from Python works as it stands there, on other data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from toys import TINY, cyclic_rows, item_rows

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture
def program(toy_data: Any, tmp_path: Path) -> str:
    """The README's program for the toy's data, a small model and the toy's ids."""
    toy_data(cyclic_rows(), item_rows())
    (shown,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    of_reg4rec = {name: value for name, value in TINY.items() if not name.startswith("rqvae")}
    places = {"data_path": str(tmp_path / "data"), "checkpoint_dir": str(tmp_path / "saved")}
    small = {**of_reg4rec, **places, "seed": 2021, "epochs": 1}
    for known, ours in (
        ('{"seed": 2021, "epochs": 5}', repr(small)),
        ("ml-100k", "toy"),
        ('["50", "181"]', '["i5", "i3"]'),
    ):
        assert known in shown
        shown = shown.replace(known, ours)
    return shown


def test_the_program_runs(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(program, str(README), "exec"), names)
    record, trained, scores, why = (names[name] for name in ("record", "trained", "scores", "why"))
    assert record["seed"] == 2021 and f"{record['test']['ndcg@10']} {record['weights']}" in capsys.readouterr().out
    assert scores.shape == (len(names["batch"]), trained.data.dataset.item_num)
    assert [item.rank for item in why.top] == list(range(1, 11)) and len(why.history) == 2
