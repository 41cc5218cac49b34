"""Residual quantisation: codes are the nearest words, words add up, what is left over shrinks from level to level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.tokenizer.rqvae import RQVAE, RQVAESettings, fit_rqvae

SETTINGS = RQVAESettings(
    levels=3,
    codewords=8,
    hidden=(16, 12),
    dim=6,
    epochs=30,
    batch_size=32,
    learning_rate=0.003,
    commitment=0.25,
    seed=3,
)


def rows() -> np.ndarray:
    data = np.random.default_rng(0).normal(size=(80, 10))
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32)


def fit(**changed: object) -> tuple[RQVAE, torch.Tensor]:
    features = np.concatenate([np.zeros((1, 10), dtype=np.float32), rows()])
    settings = dataclasses.replace(SETTINGS, **changed)
    return fit_rqvae(features, np.arange(81) > 0, settings), torch.from_numpy(rows())


def test_every_code_is_the_nearest_word_of_what_the_levels_before_left() -> None:
    model, data = fit()
    left = model.encoder(data)
    codes, residuals = model.quantise(left)
    assert codes.shape == (80, 3) and codes.dtype == torch.int64
    for level in range(3):
        assert torch.allclose(residuals[:, level], left, atol=1e-5)
        distances = (left.unsqueeze(1) - model.codewords[level]).norm(dim=-1)
        assert torch.allclose(distances.gather(1, codes[:, [level]]).squeeze(1), distances.amin(1), atol=1e-5)
        left = left - model.codewords[level][codes[:, level]]
    assert torch.equal(codes, model.assign(data))
    last = (residuals[:, -1].unsqueeze(1) - model.codewords[-1]).norm(dim=-1)
    assert torch.allclose(model.last_distances(data), last, atol=1e-4)


def test_the_quantised_middle_is_the_sum_of_the_words_and_the_digit_says_nothing() -> None:
    model, data = fit()
    codes = model.assign(data)
    words = sum(model.codewords[level][codes[:, level]] for level in range(3))
    assert torch.allclose(model.look_up(codes).sum(1), words, atol=1e-6)
    with_digit = torch.cat([codes, torch.full((80, 1), 7)], dim=1)
    assert torch.equal(model.reconstruct(data, with_digit), model.decoder(model.look_up(codes).sum(1)))


def test_what_is_left_over_shrinks_from_level_to_level() -> None:
    model, data = fit(epochs=60)
    encoded = model.encoder(data)
    codes, residuals = model.quantise(encoded)
    over = encoded - model.look_up(codes).sum(1)
    norms = [float(part.norm(dim=-1).mean()) for part in (*residuals.unbind(1), over)]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 0.5 * norms[0]


def test_gradients_go_where_they_should() -> None:
    model, data = fit(epochs=0)
    model.requires_grad_(True)
    _, loss, _ = model(data, 0.25)
    loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.parameters())
    # Straight through: without commitment the encoder gets exactly what the decoder's input gets.
    model.zero_grad()
    model(data, 0.0)[1].backward()
    middle = model.look_up(model.assign(data)).sum(1).detach().requires_grad_(True)
    (model.decoder(middle) - data).square().sum(1).mean().backward()
    assert torch.allclose(model.encoder[-1].bias.grad, middle.grad.sum(0), atol=1e-5)


def test_training_improves_the_reconstruction_and_uses_all_words() -> None:
    def loss(epochs: int) -> float:
        model, data = fit(epochs=epochs)
        return float((model.reconstruct(data, model.assign(data)) - data).square().sum(1).mean())

    assert loss(200) < 0.5 * loss(0)
    model, data = fit(epochs=100)
    assert min(len(level.unique()) for level in model.assign(data).T) >= 6


def test_same_input_and_seed_same_weights_and_nothing_else_is_disturbed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = fit()[0].state_dict()
    assert torch.equal(torch.rand(3), expected)
    second, other = fit()[0].state_dict(), fit(seed=4)[0].state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("changed", [{"commitment": 3.0}, {"learning_rate": 0.01}, {"hidden": (16,)}, {"dim": 5}])
def test_settings_matter(changed: dict[str, object]) -> None:
    one, other = fit()[0].codewords, fit(**changed)[0].codewords
    assert one.shape != other.shape or not torch.equal(one, other)


def test_more_codewords_than_items_are_refused() -> None:
    with pytest.raises(UserError, match="codebook_size is 81, but only 80 items"):
        fit(codewords=81)
