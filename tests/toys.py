"""Tiny atomic data sets, taken through the package's own pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

INTER_COLUMNS = ("user_id:token", "item_id:token", "timestamp:float")
ITEM_COLUMNS = ("item_id:token", "title:token_seq", "class:token_seq")


def write_atomic(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], newline: str = "\n") -> Path:
    """Writes a header ``name:type`` and rows as RecBole's atomic file; None becomes the empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(columns)]
    lines += ["\t".join("" if cell is None else str(cell) for cell in row) for row in rows]
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


def cyclic_rows(users: int = 6, items: int = 12, length: int = 8, start: int = 0) -> list[tuple[str, str, int]]:
    """User ``u`` takes items ``u, u + 1, ...`` (modulo ``items``), one a second; ids ``u0``, ``i0``, ..."""
    return [(f"u{u}", f"i{(u + t) % items}", start + t) for u in range(users) for t in range(length)]


def item_rows(items: int = 12) -> list[tuple[str, str, str]]:
    """A line for each of ``i0``, ``i1``, ...: two words of title, one of three classes."""
    return [(f"i{i}", f"name{i % 4} word{i}", f"class{i % 3}") for i in range(items)]


@dataclass
class Toy:
    """A configuration whose data lie in a temporary folder; everything else is made when first asked for."""

    folder: Path
    config: Any

    @cached_property
    def dataset(self) -> Any:
        """The whole `OrderedDataset`, not split; RecBole gives it rows and statistics only with `splits`."""
        from recbole_reg4rec.data.dataset import OrderedDataset

        return OrderedDataset(self.config)

    @cached_property
    def splits(self) -> list[Any]:
        """Training, validation and test rows of `dataset`."""
        return self.dataset.build()

    @cached_property
    def data(self) -> Any:
        """`study.pipeline.PreparedData`: the data set with its loaders."""
        from recbole_reg4rec.study.pipeline import prepare_data

        return prepare_data(self.config)

    @cached_property
    def sequences(self) -> Any:
        """The training part of every user's history."""
        from recbole_reg4rec.data.sequences import training_sequences

        return training_sequences(self.data.train._dataset)

    @cached_property
    def features(self) -> Any:
        """`ItemFeatures` from the training part."""
        from recbole_reg4rec.data.features import build_item_features

        return build_item_features(self.config, self.data.train._dataset, self.sequences)

    @cached_property
    def categories(self) -> Any:
        """`ItemCategories` from the training part."""
        from recbole_reg4rec.data.categories import build_item_categories

        return build_item_categories(self.config, self.data.train._dataset, self.features)

    @cached_property
    def tokenized(self) -> Any:
        """`study.pipeline.Tokenized`: codes and categories."""
        from recbole_reg4rec.study.pipeline import tokenize_data

        return tokenize_data(self.config, self.data)

    @cached_property
    def model(self) -> Any:
        """The untrained model, token-based or not."""
        from recbole_reg4rec.study.pipeline import build_model

        tokens = self.tokenized if getattr(self.config.model_class, "needs_tokens", False) else None
        return build_model(self.config, self.data, tokens)

    def user(self, number: int) -> str:
        return str(self.data.dataset.field2id_token["user_id"][number])

    def item(self, number: int) -> str:
        return str(self.data.dataset.field2id_token["item_id"][number])


# Small enough that a test takes a fraction of a second.
TINY = {
    # The paper's model; tests of the other evidence switch it on.
    "item_path": False,
    "memory": False,
    "repeat": False,
    "reason_weight": 1.0,
    "use_gpu": False,
    "show_progress": False,
    "codebooks": 2,
    "codebook_size": 4,
    "mpq_hidden": 8,
    "mpq_dim": 4,
    "mpq_epochs": 3,
    "opq_rounds": 2,
    "rqvae_hidden": [8],
    "rqvae_dim": 4,
    "rqvae_epochs": 3,
    "text_dim": 4,
    "collaborative_dim": 4,
    "hidden_size": 8,
    "inner_size": 16,
    "MAX_ITEM_LIST_LENGTH": 5,
    "train_batch_size": 64,
    "eval_step": 1,
    "seed": 7,
}
