"""The gate as a part of a model: what it may change and what it must not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_reg4rec.model.gate import Gate


def random_gate(items: int = 4, seed: int = 0) -> Gate:
    generator = torch.Generator().manual_seed(seed)
    gate = Gate(["reason", "remember"], items, 3)
    for name in ("inner", "inner_bias", "outer"):
        getattr(gate, name).copy_(5.0 * torch.randn(getattr(gate, name).shape, generator=generator))
    gate.fitted.fill_(True)
    return gate


def evidence(users: int = 6, items: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {kind: torch.randn(users, items + 1, generator=generator) for kind in ("reason", "remember")}


def test_before_it_is_fitted_it_changes_nothing() -> None:
    given = evidence()
    gate = random_gate()
    gate.fitted.fill_(False)
    assert gate(given["reason"], given) is given["reason"]


def test_the_first_items_are_put_in_order_and_all_others_stay_where_they_were() -> None:
    given, gate = evidence(), random_gate(items=4)
    scores = given["reason"] + given["remember"]
    scores[:, 0] = -100.0
    found = gate(scores, given)
    assert found.isfinite().all()
    before, after = scores.argsort(1, descending=True), found.argsort(1, descending=True)
    assert not torch.equal(before[:, :4], after[:, :4])
    assert torch.equal(before[:, :4].sort(1).values, after[:, :4].sort(1).values)
    assert torch.equal(before[:, 4:], after[:, 4:])


def test_its_correction_is_what_a_few_hidden_units_add() -> None:
    given, gate = evidence(), random_gate()
    gate.trust.fill_(0.5)
    first, items = gate.first(given["reason"])
    corrected = gate.correct(first, gate.look(given, items))
    for row, place in ((0, 0), (3, 2)):
        item = int(items[row, place])
        values = torch.stack([given["reason"][row, item], given["remember"][row, item]])
        hidden = torch.nn.functional.gelu(gate.inner @ values + gate.inner_bias)
        wanted = 0.5 * given["reason"][row, item] + gate.outer[0] @ hidden
        assert torch.allclose(corrected[row, place], wanted, atol=1e-4)


def test_more_items_than_there_are_and_a_kind_that_is_missing() -> None:
    given, gate = evidence(), random_gate(items=500)
    del given["remember"]
    found = gate(given["reason"].index_fill(1, torch.tensor([0]), -100.0), given)
    assert found.isfinite().all() and bool((found.argmin(1) == 0).all())


def test_a_user_alone_is_ranked_as_in_a_batch() -> None:
    given, gate = evidence(), random_gate()
    whole = gate(given["reason"], given)
    for row in range(len(whole)):
        alone = {kind: values[row : row + 1] for kind, values in given.items()}
        assert torch.allclose(gate(alone["reason"], alone)[0], whole[row], atol=1e-5)


def test_a_model_has_one_where_there_is_something_to_weigh(toy_data: Any) -> None:
    assert toy_data().model.gate is None
    assert toy_data(name="off", memory=True, gate=False).model.gate is None
    toy = toy_data(name="on", memory=True, item_path=True, reason_weight=0.0)
    assert toy.model.gate.kinds == ("recognise", "remember")
    model, rows = toy.model.eval(), next(iter(toy.data.test))[0]
    with torch.no_grad():
        before, _ = model.summed(rows)
        assert torch.equal(model.full_sort_predict(rows), before)
        model.gate.outer.fill_(3.0)
        model.gate.inner.fill_(1.0)
        model.gate.fitted.fill_(True)
        assert not torch.equal(model.full_sort_predict(rows), before)
        assert torch.equal(model.summed(rows)[0], before)
    assert {"gate.fitted", "gate.outer", "gate.mean"} <= set(model.state_dict())
