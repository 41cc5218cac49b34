"""The baselines of this package through the whole pipeline: they learn, look nowhere they should not, and resume."""

from __future__ import annotations

import random

import pytest
import torch

from recbole_reg4rec import cli
from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.pipeline import build_model, configure, prepare_data, tokenize_data

MODELS = ("HSTU", "RPG", "TIGER")


def circle(users, items, lengths):
    draw = random.Random(1)
    rows = []
    for user in range(users):
        start = draw.randrange(items)
        rows += [(f"u{user}", f"i{(start + t) % items}", t) for t in range(draw.randint(*lengths))]
    return rows


@pytest.fixture
def prepared(toy):
    """A factory of (model, data) with weights far from small."""

    def make(model, **settings):
        config = configure(model, "toy", config_dict=toy.settings(model, **settings))
        data = prepare_data(config)
        tokens = tokenize_data(config, data) if getattr(config.model_class, "needs_tokens", False) else None
        built = build_model(config, data, tokens)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                if "norm" not in name and name != "items.weight":
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return built.eval(), data

    return make


@pytest.mark.parametrize("model", MODELS)
def test_a_sequence_with_one_possible_continuation_is_learned_to_rank_one(toy, model):
    toy.write(circle(users=30, items=20, lengths=(11, 14)))
    record = toy.run(model, epochs=40, eval_step=10, learning_rate=0.01, hidden_dropout_prob=0.0)
    assert (record["test"]["recall@1"], record["test"]["ndcg@5"]) == (1.0, 1.0)
    assert record["valid"]["ndcg@10"] == 1.0


@pytest.mark.parametrize("model", MODELS)
def test_single_equals_batch_and_predict_equals_full_sort(prepared, model):
    built, data = prepared(model)
    batch = next(iter(data.test))[0]
    assert len(batch[built.ITEM_SEQ_LEN].unique()) > 1, "histories of different lengths"
    with torch.no_grad():
        whole = built.full_sort_predict(batch)
        assert whole.shape == (60, 41) and whole.isfinite().all()
        assert (whole[:, :1] < whole[:, 1:]).all(), "padding is last"
        assert not torch.allclose(whole[0], whole[1], atol=1e-3)
        for row in range(0, 60, 7):
            assert torch.allclose(built.full_sort_predict(batch[[row]])[0], whole[row], atol=1e-4)
        assert torch.equal(built.predict(batch), whole[torch.arange(60), batch[built.ITEM_ID]])


@pytest.mark.parametrize("model", MODELS)
def test_losses_of_a_position_do_not_see_what_follows(prepared, model):
    built, data = prepared(model, heads_a_batch=0) if model == "RPG" else prepared(model)
    batch = next(iter(data.train))
    cut = batch[built.ITEM_SEQ].shape[1] // 2
    other = {name: batch[name].clone() for name in batch.columns}
    later = other[built.ITEM_SEQ][:, cut:]
    later[:] = torch.where(later > 0, 1 + later % 40, 0)
    if "timestamp_list" in other:
        other["timestamp_list"][:, cut:] += 50 * (later > 0)
    early = batch[TARGETS].clone()
    early[:, cut:] = 0

    def loss(values, targets):
        with torch.no_grad():
            return float(built.calculate_loss({**values, TARGETS: targets}))

    same = {name: batch[name] for name in batch.columns}
    assert loss(same, early) == pytest.approx(loss(other, early), abs=1e-6)
    assert abs(loss(same, batch[TARGETS] - early) - loss(other, batch[TARGETS] - early)) > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_held_out_interactions_change_no_weight(toy, model):
    rows = toy.noisy_rows()
    last = {user: time for user, _, time in rows}

    def train(rows):
        toy.write(rows)
        toy.saved = toy.folder / f"saved{len(list(toy.folder.glob('saved*')))}"
        record = toy.run(model, epochs=1)
        return toy.checkpoint()["state_dict"], record["valid"]

    before, valid = train(rows)
    after, other = train(
        [(u, f"i{(int(i[1:]) + 7 * (t >= last[u] - 1)) % 40}", t) for u, i, t in rows],
    )
    assert valid != other, "the change must reach the evaluation"
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("model", MODELS)
def test_a_resumed_run_ends_as_an_uninterrupted_one(toy, comparable, model):
    whole = toy.run(model, epochs=3, checkpoint=toy.folder / "whole.pth")
    part = toy.folder / "part.pth"
    toy.run(model, epochs=2, checkpoint=part)
    resumed = toy.run(model, epochs=3, resume=True, checkpoint=part)
    assert comparable(resumed) == comparable(whole)
    assert [entry["epoch"] for entry in resumed["epochs"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("model", "mistake", "said"),
    [
        ("HSTU", {"codebooks": 3}, "unknown setting `codebooks`"),
        ("HSTU", {"temperature": 0}, "temperature"),
        ("HSTU", {"hidden_size": 15, "n_heads": 2}, "hidden_size.*15.*n_heads.*2"),
        ("RPG", {"head_a_batch": 3}, "did you mean `heads_a_batch`"),
        ("RPG", {"tokenizer": "rqvae"}, "tokenizer.*opq"),
        ("RPG", {"codebook_size": 64}, "codebook_size is 64, but only 40 items"),
        ("TIGER", {"tokenizer": "mpq"}, "tokenizer.*rqvae, opq"),
        ("TIGER", {"softmax": "some"}, "softmax.*all, feasible"),
        ("TIGER", {"rqvae_hidden": [0]}, "rqvae_hidden"),
        ("TIGER", {"training_order": "random"}, "unknown setting `training_order`"),
        ("REG4Rec", {"tokenizer": "rqvae"}, "tokenizer.*mpq, opq"),
    ],
)
def test_what_is_not_a_setting_or_not_allowed_is_refused(toy, model, mistake, said):
    with pytest.raises(UserError, match=said):
        toy.run(model, **mistake)
    assert toy.records() == []


def test_reg4rec_on_product_quantised_codes(toy):
    record = toy.run(tokenizer="opq", epochs=1)
    assert record["settings"]["tokenizer"] == "opq" and record["tokenizer"]["collisions"] == 0
    assert record["tokenizer"]["fingerprint"] != toy.run(epochs=1)["tokenizer"]["fingerprint"]


@pytest.mark.parametrize("model", MODELS)
def test_the_command_line(toy, model, capsys):
    settings = toy.settings(model, epochs=1)
    folder = settings.pop("data_path")
    given = [f"--{name}={value}" for name, value in settings.items()]
    code = cli.main(["--dataset=toy", f"--model={model}", f"--data_path={folder}", "--results_dir=results", *given])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert f"model {model}, data set toy" in captured.out and len(toy.records()) == 1
