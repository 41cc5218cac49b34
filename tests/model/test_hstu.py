"""HSTU against its formula written out, and what its settings do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.model.hstu import HSTULayer, time_buckets


def test_a_layer_is_the_formula_written_out_position_by_position() -> None:
    torch.manual_seed(0)
    layer = HSTULayer(longest=6, width=8, heads=2, dropout=0.5, times=True).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        x, times = torch.randn(3, 5, 8), torch.rand(3, 5).cumsum(1) * 100
        buckets = time_buckets(times)
        got = layer(x, buckets)
        for row in range(3):
            u, v, q, k = F.silu(layer.project(layer.norm(x[row]))).chunk(4, dim=-1)
            for i in range(5):
                heads = []
                for head in (slice(0, 4), slice(4, 8)):
                    total = torch.zeros(4)
                    for j in range(i + 1):
                        bias = layer.distance_bias[i - j] + layer.time_bias[buckets[row, i, j]]
                        total = total + F.silu(q[i, head] @ k[j, head] + bias) / 6 * v[j, head]
                    heads.append(total)
                expected = x[row, i] + layer.out(layer.gated_norm(torch.cat(heads)) * u[i])
                assert torch.allclose(got[row, i], expected, atol=1e-5)


def test_time_buckets_are_logarithms_with_an_end() -> None:
    found = time_buckets(torch.tensor([[0.0, 0.5, 10.0, 1e30]]))
    assert found.dtype == torch.int64 and found[0, 0].tolist() == [0, 0, 7, 127]
    assert torch.equal(found, found.transpose(1, 2))


def test_times_change_scores_only_with_the_time_bias(toy_data: Any) -> None:
    for bias in (True, False):
        toy = toy_data(model="HSTU", time_bias=bias, name=f"toy{int(bias)}", n_heads=2)
        model = toy.model.eval()
        with torch.no_grad():
            for layer in model.layers:
                if bias:
                    layer.time_bias.normal_()
            batch = next(iter(toy.data.test))[0]
            before = model.full_sort_predict(batch)
            batch["timestamp_list"][:] *= 100
            assert torch.equal(before, model.full_sort_predict(batch)) is not bias


def test_full_loss_is_the_cross_entropy_of_the_scores(toy_data: Any) -> None:
    toy = toy_data(model="HSTU", hidden_dropout_prob=0.0)
    model, batch = toy.model, next(iter(toy.data.train))
    trained = batch[TARGETS] > 0
    states = model.encode(batch["item_id_list"], batch["timestamp_list"])
    assert torch.allclose(states.norm(dim=-1), torch.ones(trained.shape), atol=1e-5)
    cosines = F.cosine_similarity(states[trained].unsqueeze(1), model.items.weight[1:], dim=-1)
    expected = F.cross_entropy(cosines / 0.05, batch[TARGETS][trained] - 1)
    assert torch.allclose(model.calculate_loss(batch), expected, atol=1e-4)


def test_sampled_loss_comes_to_the_full_one_and_never_charges_the_target_twice(toy_data: Any) -> None:
    toy = toy_data(model="HSTU", hidden_dropout_prob=0.0, negatives=1)
    model, batch = toy.model, next(iter(toy.data.train))
    # Every item once: the target beside itself is left out, so that this is the full loss.
    every = torch.arange(1, model.n_items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: every)
        sampled = model.calculate_loss(batch)
    model.negatives = 0
    assert torch.allclose(sampled, model.calculate_loss(batch), atol=1e-5)
    model.negatives = 5
    assert float(model.calculate_loss(batch).detach()) < float(sampled.detach())


def test_scores_in_lots_of_like_length_are_those_of_one_at_a_time(toy_data: Any) -> None:
    model = toy_data(model="HSTU").model.eval()
    generator = torch.Generator().manual_seed(0)
    width, users = model.max_seq_length, 150  # more than are read together
    lengths = torch.randint(1, width + 1, (users,), generator=generator)
    inside = torch.arange(width) < lengths.unsqueeze(1)
    columns = {
        "item_id_list": torch.randint(1, model.n_items, (users, width), generator=generator) * inside,
        "timestamp_list": torch.rand(users, width, generator=generator).cumsum(1) * 1e5 * inside,
        "item_length": lengths,
    }
    with torch.no_grad():
        scores = model.full_sort_predict(Interaction(columns))
        for row in range(0, users, 10):
            alone = Interaction({name: column[row : row + 1] for name, column in columns.items()})
            assert torch.allclose(model.full_sort_predict(alone)[0], scores[row], atol=1e-5)


def test_training_times_are_those_of_evaluation(toy_data: Any) -> None:
    rows = [(f"u{u}", f"i{(u + t) % 12}", 1000 * u + 10 * t) for u in range(6) for t in range(8)]
    toy = toy_data(model="HSTU", inter=rows)
    for batch in toy.data.train:
        inside = batch["item_id_list"] > 0
        assert batch["timestamp_list"].dtype == torch.float32 and not batch["timestamp_list"][~inside].any()
        steps = batch["timestamp_list"][:, 1:] - batch["timestamp_list"][:, :-1]
        assert (steps[inside[:, 1:]] == 10).all()
        # Item and time of every position belong to one interaction.
        names = toy.data.dataset.field2id_token["item_id"]
        for item, time in zip(batch["item_id_list"][inside], batch["timestamp_list"][inside], strict=True):
            assert (f"u{int(time) // 1000}", str(names[item]), int(time)) in rows
    assert "timestamp_list" not in next(iter(toy_data(name="other").data.train)).columns
