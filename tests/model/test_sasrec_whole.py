"""Whole-sequence SASRec computes what RecBole's SASRec computes on prefixes, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.errors import UserError


def build(toy_data: Any, **more: Any) -> Any:
    return toy_data(
        model="SASRecWhole", MAX_ITEM_LIST_LENGTH=12, hidden_dropout_prob=0.0, attn_dropout_prob=0.0, **more
    )


def test_loss_and_states_equal_recboles_on_prefixes(toy_data: Any) -> None:
    toy = build(toy_data)
    model = toy.model.train()
    total, count = 0.0, 0
    for batch in toy.data.train:
        items, targets = batch["item_id_list"], batch[TARGETS]
        states = model.encode(items)
        for row in range(len(items)):
            for position in torch.nonzero(targets[row] > 0).squeeze(1).tolist():
                prefix = torch.zeros(1, 12, dtype=torch.int64)
                prefix[0, : position + 1] = items[row, : position + 1]
                alone = SASRec.forward(model, prefix, torch.tensor([position + 1]))
                assert torch.allclose(states[row, position], alone[0], atol=1e-5)
                interaction = Interaction(
                    {
                        "item_id_list": prefix,
                        "item_length": torch.tensor([position + 1]),
                        "item_id": targets[row, position].view(1),
                    }
                )
                total += float(SASRec.calculate_loss(model, interaction).detach())
                count += 1
    whole = sum(
        float(model.calculate_loss(batch).detach()) * int((batch[TARGETS] > 0).sum()) for batch in toy.data.train
    )
    assert count == toy.data.train.targets
    assert whole == pytest.approx(total, rel=1e-4)


def test_every_position_is_trained_on_its_own_target(toy_data: Any) -> None:
    toy = build(toy_data)
    batch = next(iter(toy.data.train))
    trained = batch[TARGETS] > 0
    logits = toy.model.encode(batch["item_id_list"])[trained] @ toy.model.item_embedding.weight.T
    assert torch.allclose(toy.model.calculate_loss(batch), F.cross_entropy(logits, batch[TARGETS][trained]))


def test_another_loss_is_refused(toy_data: Any) -> None:
    with pytest.raises(UserError, match="loss_type"):
        _ = build(toy_data, loss_type="BPR").model
