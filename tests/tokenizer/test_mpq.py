"""MPQ: what it computes agrees with itself and with the formulas of the paper."""

from __future__ import annotations

import pytest
import torch

from recbole_reg4rec.tokenizer.mpq import _slices


def test_shapes_and_unit_vectors(fitted):
    model, rows = fitted()
    out = model(rows)
    assert out.codes.shape == (40, 3) and out.codes.dtype == torch.int64
    assert set(out.codes.unique().tolist()) <= set(range(8))
    assert out.reconstruction.shape == rows.shape
    assert model.encode(rows).shape == (3, 40, 4) and model.codebook().shape == (3, 8, 4)
    assert torch.allclose(model.encode(rows).norm(dim=-1), torch.ones(3, 40), atol=1e-5)
    assert torch.allclose(model.codebook().norm(dim=-1), torch.ones(3, 8), atol=1e-5)


def test_distances_are_squared_distances_and_their_least_is_the_code(fitted):
    model, rows = fitted()
    with torch.no_grad():
        brute = (model.encode(rows).unsqueeze(2) - model.codebook().unsqueeze(1)).square().sum(-1).transpose(0, 1)
        assert torch.allclose(model.distances(rows), brute, atol=1e-5)
        assert torch.equal(model.distances(rows).argmin(-1), model(rows).codes)


def test_reconstruction_of_the_codes_is_that_of_forward(fitted):
    model, rows = fitted()
    with torch.no_grad():
        out = model(rows)
        assert torch.allclose(model.reconstruct(rows, out.codes), out.reconstruction, atol=1e-5)
        other = (out.codes + 1) % 8
        assert not torch.allclose(model.reconstruct(rows, other), out.reconstruction, atol=1e-2)
        assert out.reconstruction_loss == pytest.approx(
            float((out.reconstruction - rows).square().sum(1).mean()), rel=1e-5
        )


def test_one_at_a_time_is_the_batch(fitted):
    model, rows = fitted()
    with torch.no_grad():
        together = model(rows)
        for index in range(0, 40, 7):
            single = model(rows[index : index + 1])
            assert torch.equal(single.codes[0], together.codes[index])
            assert torch.allclose(single.reconstruction[0], together.reconstruction[index], atol=1e-5)


def test_gate(fitted):
    model, rows = fitted()
    gate = model.gate(rows)
    assert gate.shape == (40, 3) and bool((gate > 0).all())
    assert torch.allclose(gate.sum(1), torch.ones(40))
    assert float(gate.detach().std(dim=0).max()) > 0
    equal, _ = fitted(mpq_router=False)
    assert torch.equal(equal.gate(rows), torch.full((40, 3), 1 / 3))


def expert_weights(model) -> list[torch.nn.Parameter]:
    """The parameters that the regulariser is about."""
    model.zero_grad()
    model.orthogonality().backward()
    found = [p for p in model.parameters() if p.grad is not None]
    assert found and all(len(p) == model.codebooks for p in found)
    return found


@torch.no_grad()
def set_weights(model, weights, directions: torch.Tensor) -> None:
    for weight in weights:
        weight.zero_()
    weights[0].flatten(1)[:, : directions.shape[1]] = directions


def test_orthogonality(fitted):
    model, _ = fitted()
    weights = expert_weights(model)
    set_weights(model, weights, torch.tensor([[1.0, 0, 0], [0, -5, 0], [0, 0, 0.1]]))
    assert model.orthogonality().item() == pytest.approx(0, abs=1e-6)
    set_weights(model, weights, torch.tensor([[1.0, 2, 0], [2, 4, 0], [0.5, 1, 0]]))
    assert model.orthogonality().item() == pytest.approx(3 * 2, abs=1e-5)  # M (M - 1) pairs with cosine 1
    set_weights(model, weights, torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]]))
    assert model.orthogonality().item() == pytest.approx(2 * 0.5, abs=1e-5)  # one pair with cosine sqrt(1/2)


def test_straight_through_gradient_reaches_every_expert(fitted):
    model, rows = fitted()
    weights = expert_weights(model)
    model.zero_grad()
    model(rows).reconstruction_loss.backward()
    for weight in weights:
        assert bool((weight.grad.flatten(1).norm(dim=1) > 0).all())
    # Straight through: the codewords get nothing from the reconstruction, theirs is the codebook loss.
    assert model.codewords_table.grad is None or not bool(model.codewords_table.grad.any())
    model(rows).codebook_loss.backward()
    assert bool(model.codewords_table.grad.any())


def test_codebook_and_commitment_pull_one_side_each(fitted):
    model, rows = fitted()
    weights = expert_weights(model)
    out = model(rows)
    assert float(out.codebook_loss.detach()) == pytest.approx(float(out.commitment_loss.detach()))
    distance = model.distances(rows).min(dim=-1).values.mean()
    assert float(out.codebook_loss) == pytest.approx(float(distance), rel=1e-4)
    model.zero_grad()
    out.codebook_loss.backward(retain_graph=True)
    assert all(weight.grad is None or not bool(weight.grad.any()) for weight in weights)
    model.zero_grad()
    out.commitment_loss.backward()
    assert model.codewords_table.grad is None or not bool(model.codewords_table.grad.any())
    assert any(bool(weight.grad.any()) for weight in weights if weight.grad is not None)


def test_fewer_features_than_codebooks():
    maps = _slices(torch.eye(3), codebooks=5, dim=4)
    assert maps.shape == (5, 3, 4) and bool((maps.flatten(1).norm(dim=1) > 0).all())
    assert torch.equal(maps[0].abs() > 0, maps[3].abs() > 0), "the axes are dealt out anew"
