"""Every kind of tokenizer through the one entry: unique codes, a cache of its own, a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_reg4rec.config.settings import load_yaml, properties_dir
from recbole_reg4rec.data.categories import ItemCategories
from recbole_reg4rec.data.features import ItemFeatures
from recbole_reg4rec.tokenizer.codes import tokenize_items, tokenizer_settings
from recbole_reg4rec.tokenizer.fit import TokenizerSettings
from recbole_reg4rec.tokenizer.opq import OPQSettings
from recbole_reg4rec.tokenizer.rqvae import RQVAESettings

SMALL = {"codebooks": 3, "codebook_size": 8, "seed": 3, "rqvae_hidden": [8], "rqvae_dim": 4, "rqvae_epochs": 4}
KINDS = {"mpq": ("REG4Rec", TokenizerSettings), "opq": ("RPG", OPQSettings), "rqvae": ("TIGER", RQVAESettings)}


def settings(kind: str, **changed: Any) -> Any:
    defaults = load_yaml(properties_dir() / "model" / f"{KINDS[kind][0]}.yaml")
    assert defaults["tokenizer"] == kind
    quick = {"mpq_epochs": 2, "opq_rounds": 2}
    return tokenizer_settings({**defaults, **quick, **SMALL, **changed}, 60)


def items(unknown: int = 0) -> tuple[ItemFeatures, ItemCategories]:
    matrix = np.zeros((61 + unknown, 10), dtype=np.float32)
    # Three items alike to the last bit, so that codes collide.
    matrix[1:61] = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    matrix[2:4] = matrix[1]
    members = np.arange(61 + unknown).reshape(-1, 1) % 3 + 1
    members[0] = 0
    known = np.abs(matrix).sum(axis=1) > 0
    return ItemFeatures(matrix, known, {"text": 10}), ItemCategories(members, ("[PAD]", "a", "b", "c"), "kind")


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_unique_cached_and_repeatable(kind: str, tmp_path: Path) -> None:
    chosen = settings(kind)
    assert isinstance(chosen, KINDS[kind][1])
    first, again = (tokenize_items(*items(), chosen, tmp_path) for _ in range(2))
    other = tokenize_items(*items(), chosen, tmp_path / "other")
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert (first.codes == again.codes).all() and (first.codes == other.codes).all()
    assert first.report == again.report == other.report
    tokens = 4 if kind == "rqvae" else 3
    assert first.codes.shape == (61, tokens) and first.codewords == 8 and not first.codes[0].any()
    assert len(np.unique(first.codes[1:], axis=0)) == 60 and first.codes.max() < 8
    report = first.report
    assert report["codebooks"] == tokens and report["collisions_before"] >= 3 and report["collisions"] == 0
    assert report["moved"] >= 2 and report["reconstruction_r2"] > (0.2 if kind == "opq" else -1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_items_without_features_take_nothing_from_the_others(kind: str, tmp_path: Path) -> None:
    alone = tokenize_items(*items(), settings(kind), tmp_path)
    found = tokenize_items(*items(unknown=5), settings(kind), tmp_path)
    assert (found.codes[:61] == alone.codes).all()
    assert len(np.unique(found.codes[1:], axis=0)) == 65


def test_kinds_never_take_each_others_codes(tmp_path: Path) -> None:
    prints = {tokenize_items(*items(), settings(kind), tmp_path).fingerprint for kind in KINDS}
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("opq", {"opq_rounds": 3}),
        ("rqvae", {"rqvae_dim": 5}),
        ("rqvae", {"rqvae_hidden": [8, 8]}),
        ("rqvae", {"rqvae_epochs": 5}),
        ("rqvae", {"rqvae_batch_size": 16}),
        ("rqvae", {"rqvae_commitment": 1.0}),
        ("rqvae", {"rqvae_learning_rate": 0.01}),
        ("rqvae", {"codebooks": 2}),
    ],
)
def test_any_change_misses_the_cache(kind: str, changed: dict[str, Any], tmp_path: Path) -> None:
    tokenize_items(*items(), settings(kind), tmp_path)
    assert not tokenize_items(*items(), settings(kind, **changed), tmp_path).cached


def test_as_many_items_alike_as_there_are_digits_and_more(tmp_path: Path) -> None:
    features, categories = items()
    features.matrix[1:21] = features.matrix[1]
    found = tokenize_items(features, categories, settings("rqvae"), tmp_path)
    assert found.report["collisions"] == 0 and len(np.unique(found.codes[1:], axis=0)) == 60
