"""RecBole's networks trained on whole sequences compute what they compute on prefixes, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import FDSA, BERT4Rec, GRU4Rec, SASRec
from toys import item_rows

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.errors import UserError

LONGEST = 12
CAUSAL = {
    "SASRecWhole": (SASRec, {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    "GRU4RecWhole": (GRU4Rec, {"dropout_prob": 0.0}),
    "FDSAWhole": (FDSA, {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "selected_features": ["class"]}),
}


def build(toy_data: Any, name: str, **more: Any) -> Any:
    return toy_data(item=item_rows(), model=name, MAX_ITEM_LIST_LENGTH=LONGEST, **CAUSAL[name][1], **more)


@pytest.mark.parametrize("name", CAUSAL)
def test_loss_and_states_equal_recboles_on_prefixes(toy_data: Any, name: str) -> None:
    toy = build(toy_data, name)
    model, original = toy.model.train(), CAUSAL[name][0]
    total, count = 0.0, 0
    for batch in toy.data.train:
        items, targets = batch["item_id_list"], batch[TARGETS]
        states = model.encode(items)
        for row in range(len(items)):
            for position in torch.nonzero(targets[row] > 0).squeeze(1).tolist():
                prefix = torch.zeros(1, LONGEST, dtype=torch.int64)
                prefix[0, : position + 1] = items[row, : position + 1]
                alone = original.forward(model, prefix, torch.tensor([position + 1]))
                assert torch.allclose(states[row, position], alone[0], atol=1e-5)
                interaction = Interaction(
                    {
                        "item_id_list": prefix,
                        "item_length": torch.tensor([position + 1]),
                        "item_id": targets[row, position].view(1),
                    }
                )
                total += float(original.calculate_loss(model, interaction).detach())
                count += 1
    whole = sum(
        float(model.calculate_loss(batch).detach()) * int((batch[TARGETS] > 0).sum()) for batch in toy.data.train
    )
    assert count == toy.data.train.targets
    assert whole == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_position_is_trained_on_its_own_target(toy_data: Any, name: str) -> None:
    toy = build(toy_data, name)
    batch = next(iter(toy.data.train))
    trained = batch[TARGETS] > 0
    logits = toy.model.encode(batch["item_id_list"])[trained] @ toy.model.item_embedding.weight.T
    assert torch.allclose(toy.model.calculate_loss(batch), F.cross_entropy(logits, batch[TARGETS][trained]), atol=1e-6)


def some_histories(items: int) -> Interaction:
    """More than are read together, of every length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, LONGEST + 1, (150,), generator=generator)
    histories = torch.randint(1, items, (150, LONGEST), generator=generator)
    histories *= torch.arange(LONGEST) < lengths.unsqueeze(1)
    return Interaction({"item_id_list": histories, "item_length": lengths})


@pytest.mark.parametrize("name", CAUSAL)
def test_scores_in_lots_of_like_length_are_recboles(toy_data: Any, name: str) -> None:
    model, original = build(toy_data, name).model.eval(), CAUSAL[name][0]
    histories = some_histories(model.n_items)
    scores = model.full_sort_predict(histories)
    assert torch.allclose(scores, original.full_sort_predict(model, histories), atol=1e-6)
    alone = model.full_sort_predict(histories[7:8])
    assert torch.allclose(scores[7], alone[0], atol=1e-6)


@pytest.mark.parametrize("name", [*CAUSAL, "BERT4RecWhole"])
def test_another_loss_is_refused(toy_data: Any, name: str) -> None:
    more = CAUSAL[name][1] if name in CAUSAL else {}
    with pytest.raises(UserError, match="loss_type.*'BPR'"):
        _ = toy_data(item=item_rows(), model=name, loss_type="BPR", **more).model


def bert(toy_data: Any, **more: Any) -> Any:
    more = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": LONGEST, **more}
    return toy_data(model="BERT4RecWhole", **more).model.train()


def batch_of(inputs: list[list[int]], last: list[int]) -> Interaction:
    """Rows of inputs, of which position ``i``'s target is input ``i + 1`` and the last one's is ``last``."""
    width = max(len(row) for row in inputs)
    items = torch.tensor([row + [0] * (width - len(row)) for row in inputs])
    targets = [row[1:] + [end] + [0] * (width - len(row)) for row, end in zip(inputs, last, strict=True)]
    lengths = torch.tensor([len(row) for row in inputs])
    return Interaction({"item_id_list": items, "item_length": lengths, TARGETS: torch.tensor(targets)})


def test_masked_sequences_end_with_the_last_target_and_fit_the_model(toy_data: Any) -> None:
    model = bert(toy_data)
    full = list(range(1, LONGEST + 1))
    items = model.sequences(batch_of([full, [1, 2, 3]], last=[13, 4]))
    assert items.tolist() == [[*full[1:], 13], [1, 2, 3, 4] + [0] * (LONGEST - 4)]
    assert model.sequences(batch_of([[5, 6], [7]], last=[8, 9])).tolist() == [[5, 6, 8], [7, 9, 0]]


@pytest.mark.parametrize(("share", "ratio"), [(1.0, 0.9), (0.0, 0.0)])
def test_only_the_last_item_is_masked(toy_data: Any, share: float, ratio: float) -> None:
    model = bert(toy_data, ft_ratio=share, mask_ratio=ratio)
    assert model.draw_masks(torch.tensor([[5, 6, 8], [7, 9, 0]])).tolist() == [
        [False, False, True],
        [False, True, False],
    ]


def test_everything_real_is_masked_at_ratio_1(toy_data: Any) -> None:
    items = torch.tensor([[5, 6, 8], [7, 9, 0]])
    assert bert(toy_data, ft_ratio=0.0, mask_ratio=1.0).draw_masks(items).tolist() == (items > 0).tolist()


def test_loss_of_the_last_item_is_that_of_its_score_in_evaluation(toy_data: Any) -> None:
    model = bert(toy_data, ft_ratio=1.0, mask_copies=3)
    with torch.no_grad():
        model.output_bias.normal_()
        batch = batch_of([[1, 2, 3], [4, 5]], last=[6, 7])
        # RecBole shifts a history to make room for the mask; one place of padding in front undoes it.
        history = torch.tensor([[0, 1, 2, 3], [0, 4, 5, 0]])
        asked = Interaction({"item_id_list": history, "item_length": torch.tensor([4, 3])})
        scores = model.full_sort_predict(asked)
        assert float(model.calculate_loss(batch)) == pytest.approx(
            float(F.cross_entropy(scores, torch.tensor([6, 7]))), rel=1e-5
        )


def test_bert4rec_scores_in_lots_of_like_length_are_recboles(toy_data: Any) -> None:
    model = bert(toy_data).eval()
    with torch.no_grad():
        model.output_bias.normal_()
        histories = some_histories(model.n_items)
        scores = model.full_sort_predict(histories)
        assert torch.allclose(scores, BERT4Rec.full_sort_predict(model, histories), atol=1e-5)
