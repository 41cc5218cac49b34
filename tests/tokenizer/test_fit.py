"""Fitting: repeatable whatever else drew random numbers, better than its start, sizes checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.tokenizer import fit
from recbole_reg4rec.tokenizer.fit import default_codewords, fit_mpq


def weights(model) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def test_same_input_and_seed_same_weights(fitted):
    one, _ = fitted()
    torch.manual_seed(123)
    np.random.seed(123)
    torch.rand(5)
    other, _ = fitted()
    assert weights(one) == weights(other)
    assert weights(fitted(seed=4)[0]) != weights(one)


def test_the_global_random_numbers_are_not_disturbed(fitted):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    fitted()
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_only_known_items_are_fitted_on(small_settings):
    rows = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    known = np.arange(30) % 3 > 0
    other = rows.copy()
    other[~known] = 77
    assert weights(fit_mpq(rows, known, small_settings())) == weights(fit_mpq(other, known, small_settings()))


def test_more_codewords_than_items_with_features(small_settings):
    rows, known = np.ones((9, 4), dtype=np.float32), np.arange(9) > 1
    with pytest.raises(UserError, match="codebook_size is 8, but only 7 items have features.*at most 7, or auto"):
        fit_mpq(rows, known, small_settings(codebook_size=8))


def test_training_improves_the_reconstruction(fitted):
    def loss(epochs: int) -> float:
        model, rows = fitted(mpq_epochs=epochs)
        with torch.no_grad():
            return float(model(rows).reconstruction_loss)

    # Unit rows around a small mean: predicting the mean costs about 1.
    assert loss(150) < min(0.7, 0.7 * loss(0))


def test_no_codeword_stays_dead(fitted):
    model, rows = fitted(mpq_epochs=60)
    with torch.no_grad():
        codes = model(rows).codes
    assert min(len(book.unique()) for book in codes.T) >= 6


@pytest.mark.parametrize("changed", [{"mpq_epochs": 5}, {"mpq_commitment": 3.0}, {"mpq_orthogonality": 0.0}])
def test_settings_matter(fitted, changed):
    assert weights(fitted()[0]) != weights(fitted(**changed)[0])


@pytest.mark.parametrize(
    ("items", "expected"),
    [(5, 5), (8, 8), (20, 8), (100, 32), (1682, 256), (3416, 512), (12101, 1024), (10**7, 4096), (1, 2)],
)
def test_default_codewords(items, expected):
    assert default_codewords(items) == expected


def test_identical_items(small_settings):
    rows = np.ones((20, 5), dtype=np.float32)
    model = fit_mpq(rows, np.arange(20) > 0, small_settings())
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_an_epoch_sees_a_bounded_number_of_items_others_in_each(fitted, monkeypatch):
    seen: list[int] = []
    plain = fit.MPQ.forward

    def counted(self, features):
        seen.append(len(features))
        return plain(self, features)

    monkeypatch.setattr(fit.MPQ, "forward", counted)
    fitted()
    whole, seen[:] = sum(seen), []
    monkeypatch.setattr(fit, "_EPOCH_ITEMS", 10)
    fitted()
    assert whole % sum(seen) == 0 and sum(seen) % 10 == 0 and sum(seen) < whole


def test_in_a_large_catalogue_each_expert_starts_from_a_sample_of_its_own(fitted, monkeypatch):
    asked: list[tuple[int, slice]] = []
    plain = fit.MPQ.encode

    def watched(self, features, experts=slice(None)):
        if not torch.is_grad_enabled():
            asked.append((len(features), experts))
        return plain(self, features, experts)

    monkeypatch.setattr(fit.MPQ, "encode", watched)
    monkeypatch.setattr(fit, "_ENCODED", 0)
    monkeypatch.setattr(fit, "_FEWER_ITEMS_A_CODEWORD", 2)
    model, _ = fitted(mpq_epochs=0)
    assert asked == [(2 * 8, slice(book, book + 1)) for book in range(3)]
    assert weights(model) == weights(fitted(mpq_epochs=0)[0])
