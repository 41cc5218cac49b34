"""TIGER: its probabilities are products along the digits, its beams spell real items, a wide one ranks them all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from recbole_reg4rec.data.sequences import TARGETS


def build(toy_data: Any, **more: Any) -> Any:
    toy = toy_data(model="TIGER", hidden_dropout_prob=0.0, n_heads=2, codebook_size=3, codebooks=2, **more)
    model, generator = toy.model, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return toy


def chances(model: Any, items: torch.Tensor, feasible: bool) -> dict[int, float]:
    """Log-probability of every item after one history ``[1, T]``, one item at a time through the decoder."""
    codes = model.catalogue.codes
    history = model.encoder(items)
    out = {}
    for item in range(1, len(codes)):
        session = model.reasoner.session(history, history.last[:, -1:], None, causal=False)
        hidden, total = session.begin(), 0.0
        alike = list(range(1, len(codes)))
        for book, token in enumerate(codes[item].tolist()):
            logits = model.reasoner.token_logits(hidden)[0, 0, book].detach()
            if feasible:
                allowed = {int(codes[other, book]) for other in alike}
                logits[[word for word in range(len(logits)) if word not in allowed]] = -math.inf
            total += float(logits.log_softmax(-1)[token])
            alike = [other for other in alike if int(codes[other, book]) == token]
            hidden = session.take(model.reasoner.table.tokens(torch.tensor([[book]]), torch.tensor([[token]])))
        out[item] = total
    return out


@pytest.mark.parametrize("form", ["flat", "fused"])
@pytest.mark.parametrize("softmax", ["all", "feasible"])
def test_a_beam_as_wide_as_the_catalogue_ranks_all_items_exactly(toy_data: Any, softmax: str, form: str) -> None:
    toy = build(toy_data, softmax=softmax, beam_width=27, history_form=form)
    model = toy.model.eval()
    batch = next(iter(toy.data.test))[0]
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        for row in range(len(batch)):
            items = batch["item_id_list"][[row], : int(batch["item_length"][row])]
            expected = chances(model, items, softmax == "feasible")
            assert {item: float(scores[row, item]) for item in expected} == pytest.approx(expected, abs=1e-4)
            total = sum(math.exp(value) for value in expected.values())
            assert total == pytest.approx(1.0) if softmax == "feasible" else total < 0.999


@pytest.mark.parametrize("softmax", ["all", "feasible"])
def test_the_loss_is_the_negative_log_probability_of_the_targets(toy_data: Any, softmax: str) -> None:
    toy = build(toy_data, softmax=softmax)
    model, batch = toy.model.eval(), next(iter(toy.data.train))
    with torch.no_grad():
        found = [
            -chances(model, batch["item_id_list"][[row], : place + 1], softmax == "feasible")[
                int(batch[TARGETS][row, place])
            ]
            for row, place in torch.nonzero(batch[TARGETS] > 0).tolist()
        ]
        assert float(model.calculate_loss(batch)) == pytest.approx(sum(found) / len(found), rel=1e-4)


@pytest.mark.parametrize("softmax", ["all", "feasible"])
def test_a_narrow_beam_spells_real_items_and_the_rest_follow_by_their_first_token(toy_data: Any, softmax: str) -> None:
    toy = build(toy_data, softmax=softmax, beam_width=4)
    model = toy.model.eval()
    batch = next(iter(toy.data.test))[0]
    codes = model.catalogue.codes
    with torch.no_grad():
        paths = model.spell(batch["item_id_list"], batch["item_length"])
        scores = model.full_sort_predict(batch)
        first = model.reasoner.book_logits
        assert paths.books.shape[2] == 3 and (paths.books == torch.arange(3)).all(), "coarse to fine"
        for row in range(len(batch)):
            spelled = paths.items[row].amax(-1)
            assert torch.equal(codes[spelled], paths.tokens[row]), "an item's tokens, in order"
            rest = [item for item in range(1, len(codes)) if item not in spelled.tolist()]
            assert scores[row, spelled].min() > scores[row, rest].max()
            state = model.encoder(batch["item_id_list"][[row], : int(batch["item_length"][row])])
            begin = model.reasoner.session(state, state.last[:, -1:], None, causal=False).begin()
            expected = first(begin, 0)[0, 0][codes[rest, 0]]
            assert torch.allclose(scores[row, rest] - scores[row, rest].max(), expected - expected.max(), atol=1e-4), (
                "ordered by their first token"
            )


def test_product_quantisation_does_as_well(toy_data: Any) -> None:
    toy = toy_data(model="TIGER", tokenizer="opq", codebooks=3, n_heads=2)
    assert toy.tokenized.codes.codes.shape == (13, 3) and toy.tokenized.codes.report["collisions"] == 0
    model = toy.model.eval()
    with torch.no_grad():
        assert model.full_sort_predict(next(iter(toy.data.test))[0]).isfinite().all()


def test_no_category_head(toy_data: Any) -> None:
    assert not [name for name, _ in build(toy_data).model.named_parameters() if "category" in name]
