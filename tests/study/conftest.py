"""Whole runs on a data set of 60 users and 40 items, in a fraction of a second each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

USERS, ITEMS = 60, 40

RUN = {
    # The paper's model; the command line is tested with all evidence, its default.
    "item_path": False,
    "memory": False,
    "repeat": False,
    "use_gpu": False,
    "show_progress": False,
    "state": "WARNING",
    "topk": [1, 5, 10],
    "epochs": 3,
    "eval_step": 1,
    "stopping_step": 6,
    "learning_rate": 0.001,
    "learning_rate_schedule": "constant",
    "warmup_steps": 0,
    "MAX_ITEM_LIST_LENGTH": 8,
    "hidden_size": 16,
    "inner_size": 32,
    "codebooks": 3,
    "codebook_size": 8,
    "mpq_hidden": 16,
    "mpq_dim": 8,
    "mpq_epochs": 5,
    "opq_rounds": 2,
    "rqvae_hidden": [16],
    "rqvae_dim": 8,
    "rqvae_epochs": 5,
    "beam_width": 20,
    "train_batch_size": 128,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Runner:
    """Writes data and runs models on them; settings come over `RUN`, those that a model lacks are left out."""

    record: Any = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inter, self.item = folder / "data" / "toy" / "toy.inter", folder / "data" / "toy" / "toy.item"
        self.saved, self.results = folder / "saved", folder / "results"
        self.write(self.noisy_rows())

    def noisy_rows(self) -> list[tuple[str, str, int]]:
        """Mostly the next item in a circle, now and then another."""
        draw = random.Random(0)
        rows = []
        for user in range(USERS):
            item = draw.randrange(ITEMS)
            for time in range(draw.randint(5, 12)):
                item = (item + 1) % ITEMS if draw.random() < 0.7 else draw.randrange(ITEMS)
                rows.append((f"u{user}", f"i{item}", time))
        return rows

    def write(self, rows: Sequence[Sequence[Any]], items: int = ITEMS) -> None:
        self.inter.parent.mkdir(parents=True, exist_ok=True)
        body = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        self.inter.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + body)
        lines = [f"i{i}\tname{i % 7} word{i}\tclass{i % 4}\n" for i in range(items)]
        self.item.write_text("item_id:token\ttitle:token_seq\tclass:token\n" + "".join(lines))

    def settings(self, model: str = "REG4Rec", **more: Any) -> dict[str, Any]:
        from recbole_reg4rec.config.settings import known_settings
        from recbole_reg4rec.study.registry import find_model

        known = known_settings(find_model(model))
        small = {name: value for name, value in RUN.items() if name in known}
        return {**small, "data_path": str(self.folder / "data"), "checkpoint_dir": str(self.saved), **more}

    def run(self, model: str = "REG4Rec", resume: bool = False, checkpoint: Path | None = None, **more: Any) -> Any:
        from recbole_reg4rec.study.quick_start import run

        return run(
            model,
            "toy",
            config_dict=self.settings(model, **more),
            resume=resume,
            checkpoint=str(checkpoint) if checkpoint else None,
            results_dir=str(self.results),
        )

    def records(self) -> list[Path]:
        return sorted((self.results / "runs").glob("*.json"))

    def checkpoint(self, kind: str = "best.last") -> dict[str, Any]:
        """The only checkpoint of a kind, read the safe way."""
        (path,) = self.saved.glob(f"*/{kind}.pth")
        return torch.load(path, weights_only=True)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.chdir(tmp_path)
    return Runner(tmp_path)


@pytest.fixture(scope="module")
def shared_toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A `toy` with one trained REG4Rec that all tests of a module read."""
    folder = tmp_path_factory.mktemp("shared")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runner = Runner(folder)
        # Not grounded: hardly trained, all steps would agree on a category, and CORP find nothing.
        runner.record = runner.run(grounded=False)
        yield runner
    torch.set_num_threads(before)


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """A record without times, memory, paths and whether the codes came from the cache."""
    record = {key: value for key, value in record.items() if key not in ("seconds", "targets_per_second", "checkpoint")}
    record = {key: value for key, value in record.items() if not key.startswith("peak_")}
    record["epochs"] = [
        {key: value for key, value in entry.items() if not key.endswith("seconds")} for entry in record["epochs"]
    ]
    speed = ("seconds", "targets_per_second")
    record["stages"] = {
        name: {key: part for key, part in found.items() if key not in speed} if isinstance(found, dict) else found
        for name, found in record["stages"].items()
    }
    record["tokenizer"] = {key: value for key, value in record["tokenizer"].items() if key != "cached"}
    # The name of the file with the ranks holds the time; its checksum says what is in it.
    record["ranks"] = {key: value for key, value in record.get("ranks", {}).items() if key != "file"}
    paths = ("data_path", "checkpoint_dir")
    record["settings"] = {key: value for key, value in record["settings"].items() if key not in paths}
    return record


@pytest.fixture(name="comparable")
def comparable_fixture() -> Any:
    return comparable
