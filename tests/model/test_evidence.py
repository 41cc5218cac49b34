"""Kinds of evidence alone and combined, against what they are by definition."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_reg4rec.data.dataset import SEEN
from recbole_reg4rec.decoding.scoring import item_scores
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.evidence import EvidenceWeights, ItemPath, log_share
from recbole_reg4rec.model.history import HistoryEncoder, TokenTable

CODES = torch.tensor([[0, 0], [1, 2], [3, 2], [0, 3]])


def item_path(codes: torch.Tensor) -> ItemPath:
    shape = {"width": 8, "heads": 2, "inner": 8, "dropout": 0.0, "attention_dropout": 0.0}
    return ItemPath(TokenTable(codes, 4, 8), partial(HistoryEncoder, form="fused", longest=5, layers=1, **shape))


def test_item_path_begins_as_the_tokens_say_and_never_recommends_padding() -> None:
    torch.manual_seed(0)
    path = item_path(CODES)
    states = torch.randn(5, 8)
    log_probs = path.log_probs(states)
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(5), atol=1e-5)
    assert float(log_probs[:, 0].detach().max()) < -1000
    tokens = path.vectors.table.weight[[1, 4 + 2]].sum(0)
    assert torch.allclose(path.logits(states)[:, 1], path.project(states) @ tokens, atol=1e-5)
    targets = torch.tensor([1, 2, 3, 1, 2])
    assert torch.allclose(path.loss(states, targets), -log_probs.gather(1, targets[:, None]).mean(), atol=1e-5)


def test_items_with_the_same_tokens_part_once_their_own_vectors_are_trained() -> None:
    path = item_path(torch.tensor([[0, 0], [1, 2], [1, 2]]))
    states = torch.randn(3, 8)
    assert torch.equal(path.logits(states)[:, 1], path.logits(states)[:, 2])
    optimizer = torch.optim.SGD(path.parameters(), lr=1.0)
    path.loss(states, torch.tensor([1, 1, 1])).backward()
    optimizer.step()
    assert not torch.allclose(path.logits(states)[:, 1], path.logits(states)[:, 2])


def test_log_share_is_finite_and_ordered() -> None:
    share = log_share(torch.tensor([[0.0, 2.0, 6.0], [0.0, 0.0, 0.0]]))
    assert share[0].exp() == pytest.approx(torch.tensor([0.0001, 0.2501, 0.7501]))
    assert share[1].isfinite().all()


def test_weights_add_up_and_nothing_left_is_refused() -> None:
    evidence = {"reason": torch.tensor([[1.0, 2.0]]), "remember": torch.tensor([[10.0, 20.0]])}
    assert EvidenceWeights(1.0, 5.0, 0.5, 1.0).combine(evidence).tolist() == [[6.0, 12.0]]
    assert EvidenceWeights(0.0, 5.0, 1.0, 1.0).combine(evidence).tolist() == [[10.0, 20.0]]
    assert EvidenceWeights(1.0, 5.0, 0.0, 1.0).combine(evidence) is evidence["reason"]
    assert EvidenceWeights(0.5, 5.0, 0.0, 1.0).combine(evidence).tolist() == [[0.5, 1.0]]
    with pytest.raises(UserError, match="reason_weight"):
        EvidenceWeights(0.0, 1.0, 0.0, 1.0).combine(evidence)


def batch(toy: Any) -> Interaction:
    return next(iter(toy.data.test))[0]


def test_all_off_is_the_papers_model(toy_data: Any) -> None:
    toy = toy_data()
    model = toy.model.eval()
    assert model.item_path is None and model.memory is None
    with torch.no_grad():
        rows = batch(toy)
        paths = model.reason(rows["item_id_list"], rows["item_length"])
        assert torch.equal(model.full_sort_predict(rows), item_scores(paths, model.catalogue))


def test_each_kind_alone_and_together(toy_data: Any) -> None:
    toy = toy_data(item_path=True, memory=True, reason_weight=2.0, recognise_weight=3.0, remember_weight=0.5)
    model = toy.model.eval()
    rows = batch(toy)
    items, lengths = rows["item_id_list"], rows["item_length"]
    with torch.no_grad():
        reason = item_scores(model.reason(items, lengths), model.catalogue)
        recognise = model.item_path.log_probs(model.item_path.read(items, lengths))
        remember = log_share(model.memory(items, lengths))
        expected = 2.0 * reason + 3.0 * recognise + 0.5 * remember
        assert torch.allclose(model.full_sort_predict(rows), expected, atol=1e-4)
        assert model.full_sort_predict(rows).isfinite().all()


def test_no_path_is_searched_when_reasoning_has_no_weight(toy_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_data(item_path=True, reason_weight=0.0)
    model = toy.model.eval()

    def fail(*_: Any) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(model, "_reason", fail)
    with torch.no_grad():
        assert model.full_sort_predict(batch(toy)).isfinite().all()


def test_training_gains_an_item_loss_that_reaches_the_items_own_vectors(toy_data: Any) -> None:
    toy = toy_data(item_path=True)
    model = toy.model.train()
    losses = model.calculate_loss(next(iter(toy.data.train)))
    assert len(losses) == 3
    losses[2].backward()
    assert model.item_path.identity.weight.grad.abs().sum() > 0
    assert len(toy_data(name="plain").model.calculate_loss(next(iter(toy.data.train)))) == 2


def test_repeat_adds_the_odds_of_all_that_was_seen_even_beyond_the_models_reach(toy_data: Any) -> None:
    toy = toy_data(item_path=True, repeat=True, reason=False, MAX_ITEM_LIST_LENGTH=2)
    model = toy.model.eval()
    rows = batch(toy)
    items, lengths = rows["item_id_list"], rows["item_length"]
    assert rows[SEEN].shape[1] > items.shape[1]
    with torch.no_grad():
        recognise = model.item_path.log_probs(model.item_path.read(items, lengths))
        added = model.full_sort_predict(rows) - recognise
    for row in range(len(items)):
        seen = rows[SEEN][row]
        is_seen = torch.zeros(model.n_items, dtype=torch.bool).index_fill(0, seen[seen > 0], True)
        assert added[row][is_seen].max() < -1  # nobody repeats in the toy
        assert added[row][~is_seen].abs().max() < 1e-5


def test_no_path_is_spent_on_what_repeat_rules_out(toy_data: Any) -> None:
    found = {}
    for known in (True, False):
        settings = {"codebooks": 3, "reasoning_steps": 3, "beam_width": 4, "reason_repeats": known}
        model = toy_data(name=f"toy{known}", repeat=True, **settings).model.eval()
        with torch.no_grad():
            model.repeat.log_odds.fill_(-30.0)
            items = torch.tensor([[1, 2, 3, 4, 5]])
            found[known] = model.reason(items, torch.tensor([5]), seen=torch.tensor([[6, 1, 2, 3, 4, 5]]))
        prior = found[known].prior[0].exp()
        assert float(prior.sum()) == pytest.approx(1.0, abs=1e-4)
        assert (prior[1:7] < 1e-6).all() == known
    assert all((found[known].scores[0] > -10).sum() >= 3 for known in found)
    led = found[True].items[0][found[True].scores[0] > -10]
    assert led[led > 0].min() > 6, "not even items beyond what the model reads"
    assert found[False].items.flatten()[found[False].items.flatten() > 0].min() <= 6


def test_reasoning_learns_beside_repeat_without_moving_it(toy_data: Any) -> None:
    losses = []
    for known in (True, False):
        toy = toy_data(name=f"toy{known}", repeat=True, hidden_dropout_prob=0.0, reason_repeats=known)
        model = toy.model.train()
        torch.manual_seed(0)
        token_loss, _ = model.calculate_loss(next(iter(toy.data.train)))
        token_loss.backward()
        assert model.repeat.log_odds.grad is None
        losses.append(float(token_loss.detach()))
    assert losses[0] < losses[1] - 0.1, "what nobody takes again is no longer in the way"


def test_repeat_is_trained_within_the_item_path(toy_data: Any) -> None:
    toy = toy_data(item_path=True, repeat=True, reason=False)
    model = toy.model.train()
    losses = model.calculate_loss(next(iter(toy.data.train)))
    assert len(losses) == 1
    losses[0].backward()
    grad = model.repeat.log_odds.grad
    assert float(grad[0]) > 0  # the newest item is never taken again, so that its odds must fall


def test_the_item_path_is_left_as_it_is_after_its_epochs(toy_data: Any) -> None:
    for reason, counts in ((True, [3, 3, 2]), (False, [1, 1, 1])):
        toy = toy_data(name=f"toy{reason}", item_path=True, reason=reason, item_epochs=2)
        model, rows = toy.model.train(), next(iter(toy.data.train))
        found = []
        for epoch in range(3):
            model.begin_epoch(epoch)
            found.append(len(model.calculate_loss(rows)))
        assert found == counts
        model.begin_epoch(0)
        assert len(model.calculate_loss(rows)) == counts[0], "an epoch alone decides, so that resuming is the same"


def test_the_control_is_a_second_item_path_with_the_weight_of_reasoning(toy_data: Any) -> None:
    toy = toy_data(item_path=True, reason=False, control=True, reason_weight=0.3)
    model, rows = toy.model.train(), batch(toy)
    losses = model.calculate_loss(next(iter(toy.data.train)))
    assert len(losses) == 2 and losses[0].item() != losses[1].item(), "each begins from vectors of its own"
    evidence = model.eval().evidence(rows)
    with torch.no_grad():
        wanted = evidence["recognise"] + 0.3 * evidence["control"]
        assert torch.allclose(model.full_sort_predict(rows), wanted, atol=1e-5)
    with pytest.raises(UserError, match="setting control"):
        _ = toy_data(name="both", item_path=True, control=True).model


def test_nothing_to_train_is_refused(toy_data: Any) -> None:
    with pytest.raises(UserError, match="reason and item_path"):
        _ = toy_data(reason=False).model


def test_a_decoder_without_layers_is_refused(toy_data: Any) -> None:
    with pytest.raises(UserError, match="n_layers is 1"):
        _ = toy_data(n_layers=1).model
    assert toy_data(name="alone", n_layers=1, item_path=True, reason=False).model.reasoner is None


def test_paths_of_a_model_without_reasoning_are_refused(toy_data: Any) -> None:
    toy = toy_data(item_path=True, reason=False)
    rows = batch(toy)
    with pytest.raises(UserError, match="setting reason"):
        toy.model.reason(rows["item_id_list"], rows["item_length"])


def test_what_reasons_and_what_recognises_learn_apart(toy_data: Any) -> None:
    toy = toy_data(item_path=True, hidden_dropout_prob=0.0)
    model, interaction = toy.model.train(), next(iter(toy.data.train))
    *reasoning, recognising = model.calculate_loss(interaction)
    sum(reasoning).backward()
    touched = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert touched and not any(name.startswith("item_path") for name in touched)
    recognising.backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} - touched == {
        name for name, _ in model.named_parameters() if name.startswith("item_path")
    }


def test_weights_are_part_of_what_is_saved(toy_data: Any) -> None:
    toy = toy_data(item_path=True, memory=True, remember_weight=0.7)
    model = toy.model.eval()
    assert model.weights == model.given_weights and model.weights.remember == 0.7
    rows = batch(toy)
    with torch.no_grad():
        before = model.full_sort_predict(rows)
        model.weigh(replace(model.weights, remember=2.1, reason=0.0))
        after = model.full_sort_predict(rows)
        other = toy_data(item_path=True, memory=True, remember_weight=0.7, name="other").model.eval()
        other.load_state_dict(model.state_dict())
        assert not torch.equal(before, after)
        assert torch.equal(other.full_sort_predict(rows), after)
        assert "reason" not in other.evidence(rows)
