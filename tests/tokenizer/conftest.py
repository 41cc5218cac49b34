"""Settings as the property files have them, over which a test puts its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recbole_reg4rec.config.settings import load_yaml, properties_dir
from recbole_reg4rec.tokenizer.codes import tokenizer_settings
from recbole_reg4rec.tokenizer.fit import TokenizerSettings, fit_mpq

SMALL = {"codebooks": 3, "codebook_size": 8, "mpq_hidden": 8, "mpq_dim": 4, "mpq_epochs": 4, "mpq_batch_size": 16}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_settings():
    """``small_settings(items, **settings)`` gives `TokenizerSettings` for a quick fit."""

    def make(items: int = 40, **settings: Any) -> TokenizerSettings:
        defaults = load_yaml(properties_dir() / "model" / "REG4Rec.yaml")
        return tokenizer_settings({**defaults, "seed": 3, **SMALL, **settings}, items)

    return make


@pytest.fixture
def fitted(small_settings):
    """``fitted(**settings)`` gives a fitted `MPQ` and the rows it was fitted on, float32 ``[40, 10]``."""

    def make(**settings: Any):
        rows = unit_rows(40, 10)
        features = np.concatenate([np.zeros((1, 10), dtype=np.float32), rows])
        known = np.arange(41) > 0
        return fit_mpq(features, known, small_settings(40, **settings)), torch.from_numpy(rows)

    return make


def unit_rows(items: int, width: int, seed: int = 0) -> np.ndarray:
    """Random directions, float32 ``[items, width]``."""
    rows = np.random.default_rng(seed).normal(size=(items, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
