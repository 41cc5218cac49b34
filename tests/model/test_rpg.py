"""RPG against its formula: a head a codebook, cosines, the mean log-probability of an item's tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from recbole_reg4rec.data.sequences import TARGETS


def build(toy_data: Any, **more: Any) -> Any:
    toy = toy_data(model="RPG", hidden_dropout_prob=0.0, codebooks=5, **more)
    heads = toy.model.heads
    with torch.no_grad():
        # Heads begin as the identity; these are all different.
        heads.weight.normal_()
        heads.bias.normal_()
    return toy


def log_probs(model: Any, state: torch.Tensor) -> torch.Tensor:
    """Of every token ``[M, K]`` behind one state, written out."""
    out = []
    for book in range(5):
        view = state + F.silu(state @ model.heads.weight[book] + model.heads.bias[book, 0])
        tokens = model.encoder.table.weight[book * 4 : (book + 1) * 4]
        out.append((F.cosine_similarity(view, tokens, dim=-1) / 0.07).log_softmax(-1))
    return torch.stack(out)


def test_scores_are_mean_log_probabilities_of_tokens(toy_data: Any) -> None:
    toy = build(toy_data)
    model = toy.model.eval()
    batch = next(iter(toy.data.test))[0]
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        for row in range(len(batch)):
            length = int(batch["item_length"][row])
            state = model.encoder(batch["item_id_list"][[row], :length]).last[0, -1]
            expected = log_probs(model, state)[torch.arange(5), model.catalogue.codes[1:]].mean(1)
            assert torch.allclose(scores[row, 1:], expected, atol=1e-4)
    assert (scores[:, 0] < scores[:, 1:].amin(1)).all()


def test_the_loss_is_the_mean_over_targets_and_tokens(toy_data: Any) -> None:
    toy = build(toy_data, heads_a_batch=0)
    model, batch = toy.model, next(iter(toy.data.train))
    states = model.encoder(batch["item_id_list"]).last
    found = [
        -log_probs(model, states[row, place])[torch.arange(5), model.catalogue.codes[batch[TARGETS][row, place]]].mean()
        for row, place in torch.nonzero(batch[TARGETS] > 0).tolist()
    ]
    assert torch.allclose(model.calculate_loss(batch), torch.stack(found).mean(), atol=1e-4)


def test_tokens_are_added_up_as_one_by_one(toy_data: Any) -> None:
    table, items = build(toy_data).model.encoder.table, torch.tensor([[1, 5, 0], [12, 1, 3]])
    assert torch.allclose(table.sums(items), table.items(items).sum(2), atol=1e-6)
    assert not table.sums(items)[0, 2].any()
    (one,) = torch.autograd.grad(table.sums(items).square().sum(), table.weight)
    (other,) = torch.autograd.grad(table.items(items).sum(2).square().sum(), table.weight)
    assert torch.allclose(one, other, atol=1e-5)


def test_heads_drawn_for_a_batch_give_the_loss_on_average(toy_data: Any) -> None:
    toy = build(toy_data, heads_a_batch=0)
    model, batch = toy.model.eval(), next(iter(toy.data.train))
    with torch.no_grad():
        full = float(model.calculate_loss(batch))
        model.heads_a_batch = 1
        torch.manual_seed(0)
        drawn = torch.tensor([float(model.calculate_loss(batch)) for _ in range(400)])
        assert len({round(value, 4) for value in drawn.tolist()}) == 5, "one value a codebook"
        assert float(drawn.mean()) == pytest.approx(full, rel=0.03)
        model.heads_a_batch = 5
        assert float(model.calculate_loss(batch)) == full


def test_mixed_precision_trains_and_stays_near_full_precision(toy_data: Any) -> None:
    toy = build(toy_data, heads_a_batch=0, hidden_size=16)
    model, batch = toy.model.train(), next(iter(toy.data.train))
    full = float(model.calculate_loss(batch).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(batch)
    loss.backward()
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(full, rel=0.05)
