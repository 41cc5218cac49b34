"""REG4Rec under mixed precision and with every combination of its forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import cyclic_rows

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.decoding.scoring import item_scores, path_scores
from recbole_reg4rec.model import steps


@pytest.mark.parametrize("form", ["fused", "flat"])
@pytest.mark.parametrize("item_path", [True, False])
def test_mixed_precision_trains_and_stays_near_full_precision(toy_data: Any, form: str, item_path: bool) -> None:
    toy = toy_data(
        history_form=form,
        item_path=item_path,
        hidden_dropout_prob=0.0,
        training_order="fixed",
        hidden_size=16,
    )
    model, batch = toy.model.train(), next(iter(toy.data.train))
    full = float(sum(model.calculate_loss(batch)).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.calculate_loss(batch)
    assert all(loss.dtype == torch.float32 for loss in losses)
    sum(losses).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert float(sum(losses).detach()) == pytest.approx(full, rel=0.05)


def test_two_layers_are_one_each_and_an_odd_layer_goes_to_the_encoder(toy_data: Any) -> None:
    for layers, encoder, decoder in ((2, 1, 1), (3, 2, 1), (4, 2, 2)):
        model = toy_data(n_layers=layers, name=f"toy{layers}").model
        assert (len(model.encoder.layers), len(model.reasoner.layers)) == (encoder, decoder)


def test_reasoning_reads_by_as_many_layers_as_asked_beside_the_same_decoder_and_item_path(toy_data: Any) -> None:
    for asked in (1, 4):
        model = toy_data(n_layers=3, encoder_layers=asked, item_path=True, name=f"toy{asked}").model
        assert (len(model.encoder.layers), len(model.reasoner.layers)) == (asked, 1)
        assert len(model.item_path.encoder.layers) == 3


def _scores(toy: Any) -> Any:
    model = toy.model.eval()
    with torch.no_grad():
        model.reasoner.category.weight.mul_(20.0)  # untrained, all steps would agree
        return model.full_sort_predict(next(iter(toy.data.test))[0]), model.checks


def test_corp_changes_nothing_when_off_or_at_threshold_zero(toy_data: Any) -> None:
    plain, none = _scores(toy_data(codebooks=3, codebook_size=3, grounded=False))
    assert none == ()
    for settings in ({"corp": False, "corp_threshold": 1.0}, {"corp": True, "corp_threshold": 0.0}):
        scores, checks = _scores(toy_data(codebooks=3, codebook_size=3, grounded=False, **settings))
        assert torch.equal(scores, plain) and checks == ()
    pruning = {"corp": True, "corp_threshold": 0.999, "corp_min_beams": 1}
    scores, (checks,) = _scores(toy_data(codebooks=3, codebook_size=3, grounded=False, **pruning))
    assert not torch.equal(scores, plain)
    assert [check.step for check in checks] == [2, 3] and any(bool(check.pruned.any()) for check in checks)
    assert scores.isfinite().all()


def test_nothing_is_predicted_of_categories_while_corp_is_off(toy_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_data()
    monkeypatch.setattr(toy.model.reasoner, "category_logits", None)
    assert _scores(toy)[0].isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [{}, {"repeat": True}, {"training_order": "confidence", "codebooks": 3}, {"reason_identity": True}],
)
def test_a_sample_that_holds_all_items_trains_as_the_whole_catalogue_does(toy_data: Any, settings: Any) -> None:
    settings = {"hidden_dropout_prob": 0.0, "later_share": 1.0, "training_order": "fixed", "codebooks": 2, **settings}
    found = []
    for drawn in (10_000, 1):
        toy = toy_data(cyclic_rows(items=5), **settings, item_path=True, softmax_items=drawn, train_batch_size=10_000)
        model, batch = toy.model.eval(), next(iter(toy.data.train))
        there = torch.cat([batch["item_id_list"], batch[TARGETS]]).unique()
        assert set(there.tolist()) >= set(range(1, model.catalogue.items + 1))
        losses = model.calculate_loss(batch)
        sum(losses).backward()
        grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append((torch.stack(losses).detach(), grads))
    (whole, whole_grads), (sampled, sampled_grads) = found
    assert torch.allclose(whole, sampled, atol=1e-5)
    assert whole_grads.keys() == sampled_grads.keys()
    for name, grad in whole_grads.items():
        assert torch.allclose(grad, sampled_grads[name], atol=1e-5), name


def test_vectors_of_their_own_begin_as_none_and_are_read_as_well_as_compared(toy_data: Any) -> None:
    toy = toy_data(reason_identity=True)
    encoder, vectors = toy.model.encoder, toy.model.reasoner.vectors
    identity = vectors.identity
    assert identity is encoder.identity and not identity.weight.any()
    begun = _scores(toy)[0]
    with torch.no_grad():
        identity.weight[1:].normal_()
    encoder.identity = None
    compared = _scores(toy)[0]
    vectors.identity = None
    assert torch.equal(_scores(toy)[0], begun)
    encoder.identity = identity
    read = _scores(toy)[0]
    assert not torch.equal(compared, begun) and not torch.equal(read, begun) and not torch.equal(read, compared)
    model = toy_data(name="words", reason_identity=True, token_softmax="codebook").model
    assert model.reasoner.vectors.identity is None, "within a codebook there is no item for it to say something of"


def test_with_a_sample_no_table_of_all_items_is_made_in_training(
    toy_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_data(softmax_items=1, training_order="fixed", codebooks=3)
    model, batch = toy.model, next(iter(toy.data.train))

    def refuse(self: Any) -> Any:
        raise AssertionError("all items were asked for")

    monkeypatch.setattr(type(model.decoder.vectors), "forward", refuse)
    sum(model.calculate_loss(batch)).backward()


def test_the_likeliest_items_are_searched_alone_in_a_large_catalogue(
    toy_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_data(token_softmax="catalogue", codebooks=3, reasoning_steps=3, beam_width=50)
    model, interaction = toy.model.eval(), next(iter(toy.data.test))[0]
    items, lengths = interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]
    with torch.no_grad():
        whole = model.reason(items, lengths)
        monkeypatch.setattr(steps, "_LARGE", 0)
        same = model.reason(items, lengths)
        monkeypatch.setattr(steps, "_LIKELY", 5)
        few = model.reason(items, lengths)
        scores = item_scores(few, model.catalogue)
    n = model.catalogue.items
    assert torch.allclose(path_scores(whole, n), path_scores(same, n), atol=1e-5)
    assert torch.allclose(whole.first_log_probs, same.first_log_probs, atol=1e-4)
    assert whole.prior is not None and few.prior is not None and torch.equal(whole.prior, few.prior)
    likeliest = whole.prior.topk(5, dim=1).indices
    for user in range(len(items)):
        reached = few.items[user][~few.scores[user].isinf()]
        assert set(reached[reached > 0].tolist()) == set(likeliest[user].tolist())
    # A path through a few items is as probable as these are, and all others are ranked as before, behind.
    assert torch.allclose(few.scores.logsumexp(1).exp(), whole.prior.topk(5).values.exp().sum(1), atol=1e-4)
    assert scores.isfinite().all()
    behind = scores.clone().scatter_(1, likeliest, float("inf"))[:, 1:].min()
    assert torch.equal(scores[:, 1:].topk(5).indices.sort().values + 1, likeliest.sort().values) and behind.isfinite()
