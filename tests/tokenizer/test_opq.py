"""Product quantisation: exact where the data are a product, consistent with itself, better turned than not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.tokenizer.opq import OPQ, OPQSettings, fit_opq


def fit(rows: np.ndarray, codebooks: int = 3, codewords: int = 8, rounds: int = 5, seed: int = 0) -> OPQ:
    features = np.concatenate([np.zeros((1, rows.shape[1]), dtype=np.float32), rows.astype(np.float32)])
    return fit_opq(features, np.arange(len(features)) > 0, OPQSettings(codebooks, codewords, rounds, seed))


def blob(items: int = 200, width: int = 12) -> np.ndarray:
    """Correlated features, whose axes are not the coordinates."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(width, width)) * np.linspace(3.0, 0.1, width)[:, None]
    return (generator.normal(size=(items, width)) @ mixing + 5.0).astype(np.float32)


def error(model: OPQ, rows: np.ndarray) -> float:
    data = torch.from_numpy(rows)
    codes = model.distances(data).argmin(-1)
    return float((model.reconstruct(data, codes) - data).square().sum(1).mean())


@pytest.mark.parametrize(("width", "codebooks"), [(12, 3), (10, 4), (2, 3)])
def test_distances_and_reconstruction_are_those_of_the_codewords(width: int, codebooks: int) -> None:
    rows = torch.from_numpy(blob(width=width))
    model = fit(rows.numpy(), codebooks)
    seen, distances = model.slices(rows), model.distances(rows)
    assert distances.shape == (200, codebooks, 8)
    brute = (seen.unsqueeze(2) - model.codewords.unsqueeze(1)).square().sum(-1).transpose(0, 1)
    assert torch.allclose(distances, brute, atol=1e-2)
    codes = distances.argmin(-1)
    chosen = torch.cat([model.codewords[book][codes[:, book]] for book in range(codebooks)], dim=1)
    assert torch.allclose(model.reconstruct(rows, codes), (chosen @ model.turn.T)[:, :width] + model.mean, atol=1e-4)
    size = len(model.turn)
    assert size % codebooks == 0 and torch.allclose(model.turn @ model.turn.T, torch.eye(size), atol=1e-4)


def test_a_product_of_few_values_is_quantised_without_error() -> None:
    # Two independent coordinates of four values each: two codebooks of four words hold all sixteen items.
    grid = np.stack(np.meshgrid([0.0, 1.0, 2.0, 3.0], [0.0, 5.0, 9.0, 14.0]), -1).reshape(-1, 2)
    model = fit(grid, codebooks=2, codewords=4)
    assert error(model, grid.astype(np.float32)) == pytest.approx(0.0, abs=1e-6)
    codes = model.distances(torch.from_numpy(grid).float()).argmin(-1)
    assert len(codes.unique(dim=0)) == 16


def test_turning_lowers_the_error_and_no_codeword_is_wasted() -> None:
    rows = blob(items=400)
    errors = [error(fit(rows, rounds=rounds), rows) for rounds in (0, 30)]
    assert errors[1] < 0.99 * errors[0]
    codes = fit(rows, rounds=30).distances(torch.from_numpy(rows)).argmin(-1)
    assert [len(book.unique()) for book in codes.T] == [8, 8, 8]


def test_same_input_and_seed_same_codewords_and_nothing_else_is_disturbed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = fit(blob())
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.codewords, fit(blob()).codewords)
    assert not torch.equal(one.codewords, fit(blob(), seed=1).codewords)


def test_only_known_items_are_fitted_on_and_too_few_are_refused() -> None:
    rows = blob(40)
    known = np.arange(40) % 2 > 0
    other = rows.copy()
    other[~known] = 77
    settings = OPQSettings(3, 8, 2, 0)
    assert torch.equal(fit_opq(rows, known, settings).codewords, fit_opq(other, known, settings).codewords)
    with pytest.raises(UserError, match="codebook_size is 21, but only 20 items"):
        fit_opq(rows, known, OPQSettings(3, 21, 2, 0))


def test_items_that_are_all_alike() -> None:
    model = fit(np.ones((20, 5)))
    assert error(model, np.ones((20, 5), dtype=np.float32)) == pytest.approx(0.0, abs=1e-6)
