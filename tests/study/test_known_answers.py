"""What must come out, whatever the weights: probabilities that sum to one, no look ahead, no leak, a circle learned."""

import random

import pytest
import torch

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.decoding.scoring import path_scores
from recbole_reg4rec.study.pipeline import build_model, configure, prepare_data, tokenize_data


def circle(users=60, items=40, lengths=(5, 12)):
    """Everybody goes round the same circle, from different places on."""
    draw = random.Random(1)
    rows = []
    for user in range(users):
        start = draw.randrange(items)
        rows += [(f"u{user}", f"i{(start + t) % items}", t) for t in range(draw.randint(*lengths))]
    return rows


@pytest.fixture
def prepared(toy):
    """A factory of (model, data) with weights far from small, so that probabilities are far from uniform."""

    def make(rows=None, weights=1.0, **settings):
        if rows is not None:
            toy.write(rows)
        config = configure("REG4Rec", "toy", config_dict=toy.settings(**settings))
        data = prepare_data(config)
        model = build_model(config, data, tokenize_data(config, data))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.add_(weights * 0.3 * torch.randn(parameter.shape, generator=generator))
        return model.eval(), data

    return make


def test_a_sequence_with_one_possible_continuation_is_learned_to_rank_one(toy):
    # Long enough that every item is trained at every position.
    toy.write(circle(users=30, items=20, lengths=(11, 14)))
    record = toy.run(epochs=40, learning_rate=0.01, hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
    assert (record["test"]["recall@1"], record["test"]["ndcg@5"]) == (1.0, 1.0)
    assert record["valid"]["ndcg@10"] == 1.0


@pytest.mark.parametrize(
    ("order", "branch", "width"),
    [("confidence", 1, 40), ("fixed", 1, 40), ("random", 1, 40), ("confidence", 2, 400), ("confidence", 3, 400)],
)
def test_probabilities_of_all_items_sum_to_one(prepared, order, branch, width):
    model, data = prepared()
    model.decoding_order, model.beam_branch, model.beam_width = order, branch, width
    batch = next(iter(data.test))[0][:5]
    with torch.no_grad():
        paths = model.reason(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
        scores = path_scores(paths, model.catalogue.items)
        assert torch.allclose(scores.exp().sum(1), torch.ones(5), atol=1e-5)
        assert not scores[:, 1:].isinf().any() and scores.exp().amax() > 0.1
        # Steps that only spell out an item already known change nothing.
        complete = model.reason(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], complete=True)
        assert torch.allclose(path_scores(complete, model.catalogue.items)[:, 1:], scores[:, 1:], atol=1e-4)
        assert torch.equal(model.full_sort_predict(batch)[:, 1:], model.weights.reason * scores[:, 1:])


def test_orders_reason_differently(prepared):
    """Otherwise the test above would say nothing about orders."""
    model, data = prepared()
    model.beam_width = 40
    batch = next(iter(data.test))[0][:5]
    found = []
    for order in ("confidence", "fixed", "random"):
        model.decoding_order = order
        with torch.no_grad():
            found.append(model.full_sort_predict(batch)[:, 1:])
    assert all(not torch.allclose(found[a], found[b], atol=1e-3) for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("form", ["fused", "flat"])
@pytest.mark.parametrize("width", [1, 7, 60])
def test_single_equals_batch_and_predict_equals_full_sort(prepared, form, width):
    model, data = prepared(history_form=form)
    model.beam_width = width
    batch = next(iter(data.test))[0]
    assert len(batch[model.ITEM_SEQ_LEN].unique()) > 1, "histories of different lengths"
    with torch.no_grad():
        whole = model.full_sort_predict(batch)
        assert whole.shape == (60, 41) and whole.isfinite().all()
        assert (whole[:, :1] < whole[:, 1:]).all(), "padding is last"
        for row in range(0, 60, 7):
            alone = model.full_sort_predict(batch[[row]])
            assert torch.allclose(alone[0], whole[row], atol=1e-5)
        targets = batch[model.ITEM_ID]
        assert torch.equal(model.predict(batch), whole[torch.arange(60), targets])


@pytest.mark.parametrize("form", ["fused", "flat"])
def test_states_of_a_position_do_not_see_what_follows(prepared, form):
    model, _ = prepared(history_form=form)
    items = torch.randint(1, 41, (4, 8), generator=torch.Generator().manual_seed(0))
    for cut in (1, 4, 7):
        other = items.clone()
        other[:, cut:] = 1 + items[:, cut:] % 40
        with torch.no_grad():
            first, second = model.encoder(items).last, model.encoder(other).last
        assert torch.allclose(first[:, :cut], second[:, :cut], atol=1e-6)
        assert (first[:, cut:] - second[:, cut:]).abs().amax(-1).min() > 1e-3, "and it does see its own item"


@pytest.mark.parametrize("form", ["fused", "flat"])
@pytest.mark.parametrize("order", ["confidence", "random", "fixed"])
def test_losses_of_a_position_do_not_see_what_follows(prepared, form, order):
    model, data = prepared(history_form=form, training_order=order)
    batch = next(iter(data.train))
    length = batch[model.ITEM_SEQ].shape[1]
    cut = length // 2
    other = {name: batch[name].clone() for name in batch.columns}
    other[model.ITEM_SEQ][:, cut:] = torch.where(
        batch[model.ITEM_SEQ][:, cut:] > 0, 1 + batch[model.ITEM_SEQ][:, cut:] % 40, 0
    )
    assert not torch.equal(other[model.ITEM_SEQ], batch[model.ITEM_SEQ])

    def losses(items, targets):
        torch.manual_seed(0)
        with torch.no_grad():
            return torch.stack(model.calculate_loss({model.ITEM_SEQ: items, TARGETS: targets}))

    early = batch[TARGETS].clone()
    early[:, cut:] = 0
    assert torch.allclose(losses(batch[model.ITEM_SEQ], early), losses(other[model.ITEM_SEQ], early), atol=1e-6)
    late = batch[TARGETS] - early
    changed = losses(batch[model.ITEM_SEQ], late) - losses(other[model.ITEM_SEQ], late)
    assert changed.abs().max() > 1e-3


@pytest.mark.parametrize("form", ["fused", "flat"])
@pytest.mark.parametrize("order", ["confidence", "random", "fixed"])
def test_every_form_and_order_trains(toy, form, order):
    toy.write(circle())
    record = toy.run(epochs=4, history_form=form, training_order=order, learning_rate=0.01)
    token_losses = [entry["loss"][0] for entry in record["epochs"]]
    assert token_losses[-1] < token_losses[0] - 0.05
    assert record["epochs"][0]["loss"][1] > 0, "category loss"


def test_held_out_interactions_change_no_feature_no_code_no_weight(toy):
    rows = toy.noisy_rows()
    last = {user: time for user, _, time in rows}
    held_out = [time >= last[user] - 1 for user, _, time in rows]

    def train(rows):
        toy.write(rows)
        toy.saved = toy.folder / f"saved{len(list(toy.folder.glob('saved*')))}"
        config = configure("REG4Rec", "toy", config_dict=toy.settings())
        data = prepare_data(config)
        record = toy.run(epochs=2, stopping_step=9)
        return tokenize_data(config, data).codes, toy.checkpoint(), record

    def step(item, by):
        return f"i{(int(item[1:]) + by) % 40}"

    altered = [(u, step(i, 7) if out else i, t) for (u, i, t), out in zip(rows, held_out, strict=True)]
    codes, before, record = train(rows)
    codes_after, after, record_after = train(altered)
    assert record["valid"] != record_after["valid"], "the change must reach the evaluation"
    assert codes.fingerprint == codes_after.fingerprint and (codes.codes == codes_after.codes).all()
    assert before["state_dict"].keys() == after["state_dict"].keys()
    for name, weight in before["state_dict"].items():
        assert torch.equal(weight, after["state_dict"][name]), name
    # The same change to training interactions does reach them.
    codes_other, other, _ = train(
        [(u, i if out else step(i, 7 * (int(u[1:]) % 2)), t) for (u, i, t), out in zip(rows, held_out, strict=True)]
    )
    assert codes.fingerprint != codes_other.fingerprint
    assert any(not torch.equal(weight, other["state_dict"][name]) for name, weight in before["state_dict"].items())
