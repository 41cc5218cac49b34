"""Fixtures for all tests; what they are made of is in `toys`."""

from __future__ import annotations

import os

# Before torch is imported, here and in the commands that tests start: processes side by side that all want every
# processor wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from toys import INTER_COLUMNS, ITEM_COLUMNS, TINY, Toy, cyclic_rows, write_atomic


@pytest.fixture(scope="session", autouse=True)
def no_anomaly_detection() -> None:
    """As trainers have it, for tests that call models themselves: importing RecBole's models switches it on."""
    import recbole.model.sequential_recommender  # noqa: F401
    import torch

    torch.autograd.set_detect_anomaly(False)


@pytest.fixture
def toy_data(tmp_path, monkeypatch):
    """A factory: writes ``toy.inter``, ``toy.item``, ... and returns a `Toy`.

    ``toy_data(inter=rows, item=rows, *, inter_columns=, item_columns=, files={suffix: (columns, rows)}, newline=,
    model="REG4Rec", name="toy", **settings)``; ``item=None`` writes no item file. Settings come over `TINY`;
    of a model that does not know one of those, it is left out.
    """
    monkeypatch.chdir(tmp_path)

    def make(
        inter: Iterable[Sequence[Any]] | None = None,
        item: Iterable[Sequence[Any]] | None = None,
        *,
        inter_columns: Sequence[str] = INTER_COLUMNS,
        item_columns: Sequence[str] = ITEM_COLUMNS,
        files: dict[str, tuple[Sequence[str], Iterable[Sequence[Any]]]] | None = None,
        newline: str = "\n",
        model: str | type = "REG4Rec",
        name: str = "toy",
        **settings: Any,
    ) -> Toy:
        from recbole_reg4rec.config.settings import known_settings
        from recbole_reg4rec.study.pipeline import configure
        from recbole_reg4rec.study.registry import find_model

        folder = tmp_path / "data" / name
        write_atomic(folder / f"{name}.inter", inter_columns, cyclic_rows() if inter is None else inter, newline)
        (folder / f"{name}.item").unlink(missing_ok=True)
        if item is not None:
            write_atomic(folder / f"{name}.item", item_columns, item, newline)
        for suffix, (columns, rows) in (files or {}).items():
            write_atomic(folder / f"{name}.{suffix}", columns, rows, newline)
        model = find_model(model) if isinstance(model, str) else model
        known = known_settings(model)
        values = {key: value for key, value in TINY.items() if key in known}
        values["data_path"] = str(tmp_path / "data")
        values["checkpoint_dir"] = str(tmp_path / "saved")
        return Toy(folder, configure(model, name, config_dict={**values, **settings}))

    return make
