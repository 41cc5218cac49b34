"""The item memory against sums written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction

from recbole_reg4rec.data.sequences import TrainingSequences
from recbole_reg4rec.model.memory import Memory, MemoryRule, memory_table

# Two users: 1 2 3 and 2 3 1 3.
SEQUENCES = TrainingSequences(np.array([1, 2, 3, 2, 3, 1, 3]), np.array([0, 3, 7]))


def rule(**given: float) -> MemoryRule:
    plain = {"window": 1, "decay": 0.0, "backward": 0.0, "popularity": 0.0, "strength": 1.0, "content": 0.0}
    return MemoryRule(**{**plain, **given})


def test_table_by_hand() -> None:
    table = memory_table(SEQUENCES, 5, rule(window=2, decay=1.0, backward=0.5, popularity=1.0)).toarray()
    count = {1: 2, 2: 2, 3: 3}
    forward = {(1, 2): 1.0, (1, 3): 0.5 + 1.0, (2, 3): 1.0 + 1.0, (2, 1): 0.5, (3, 1): 1.0}
    for i in range(1, 5):
        for j in range(1, 5):
            weight = forward.get((i, j), 0.0) + 0.5 * forward.get((j, i), 0.0)
            expected = weight / (count[i] * count[j]) if i != j and weight else 0.0
            assert table[i, j] == pytest.approx(expected), (i, j)


def test_direction_distance_and_popularity_can_be_switched_off() -> None:
    one_way = memory_table(SEQUENCES, 5, rule()).toarray()
    assert one_way[2, 3] == pytest.approx(2 / 2)
    assert one_way[3, 2] == 0.0
    both = memory_table(SEQUENCES, 5, rule(backward=1.0)).toarray()
    assert both[3, 2] == pytest.approx(2 / 3)
    far = memory_table(SEQUENCES, 5, rule(window=3)).toarray()
    assert far[2, 1] == pytest.approx(1 / 2)
    plain = memory_table(SEQUENCES, 5, rule(strength=0.0)).toarray()
    assert plain[2, 3] == pytest.approx(2.0)


def test_likeness_counts_as_so_many_interactions() -> None:
    alike = sp.csr_matrix(([0.5, 0.25, 1.0], ([2, 4, 4], [4, 3, 2])), shape=(5, 5))
    table = memory_table(SEQUENCES, 5, rule(content=4.0, strength=0.5), alike).toarray()
    # Item 2 was taken twice: two transitions to 3, and 4 is half like it.
    assert table[2, 3] == pytest.approx(2.0 * (2 + 4) ** -0.5)
    assert table[2, 4] == pytest.approx(4.0 * 0.5 * (2 + 4) ** -0.5)
    # Nobody took item 4: content alone speaks for what may follow.
    assert table[4, 2] == pytest.approx(4.0 * 4**-0.5) and table[4, 3] == pytest.approx(4.0 * 0.25 * 4**-0.5)
    off = memory_table(SEQUENCES, 5, rule(content=0.0, strength=0.5), alike).toarray()
    assert off[2, 4] == 0.0 and off[4].sum() == 0.0


def dense_rows(memory: Memory) -> torch.Tensor:
    """The table as it is read: row the item of the history, column the next one."""
    rows = torch.zeros(memory.size, memory.size)
    for item in range(memory.size):
        part = slice(int(memory.starts[item]), int(memory.starts[item + 1]))
        rows[item, memory.items[part]] = memory.weights[part]
    return rows


@pytest.fixture
def model(toy_data: Any) -> Any:
    return toy_data(model="ItemMemory", MAX_ITEM_LIST_LENGTH=5, memory_recency=0.5).model


def test_scores_are_recency_weighted_rows_and_single_equals_batch(model: Any) -> None:
    items = torch.tensor([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [2, 2, 5, 1, 3]])
    lengths = torch.tensor([3, 1, 5])
    batch = Interaction({"item_id_list": items, "item_length": lengths, "item_id": torch.tensor([1, 2, 3])})
    scores = model.full_sort_predict(batch)
    dense = dense_rows(model.memory)
    for row in range(3):
        history = items[row, : lengths[row]].tolist()
        expected = sum(0.5 ** (len(history) - 1 - at) * dense[item] for at, item in enumerate(history))
        assert torch.allclose(scores[row], expected + model.popularity, atol=1e-6)
        alone = {name: value[row : row + 1] for name, value in batch.interaction.items()}
        assert torch.allclose(model.full_sort_predict(Interaction(alone))[0], scores[row], atol=1e-6)
    assert torch.equal(model.predict(batch), scores[torch.arange(3), batch["item_id"]])
    assert scores.isfinite().all()


def test_popularity_orders_only_what_memory_leaves_open(model: Any) -> None:
    weakest = model.memory.weights.min()
    assert float(model.popularity.max()) < 0.01 * float(weakest)
    assert float(model.popularity[0]) == 0.0


def test_it_runs_without_training_and_refuses_to_train(toy_data: Any) -> None:
    from recbole_reg4rec.errors import UserError

    with pytest.raises(UserError, match="epochs"):
        toy_data(model="ItemMemory", epochs=3)


def test_no_held_out_interaction_is_remembered(toy_data: Any) -> None:
    rows = [*zip(["u0"] * 4, "abcd", range(4), strict=True), *zip(["u1"] * 3, "abe", range(3), strict=True)]
    toy = toy_data(rows, model="ItemMemory")
    ids = toy.data.dataset.field2token_id["item_id"]
    dense = dense_rows(toy.model.memory)
    assert dense[ids["a"], ids["b"]] > 0 and dense[ids["b"], ids["a"]] > 0
    for held_out in ("c", "d", "e"):
        assert dense[ids[held_out]].abs().sum() == 0
        assert dense[:, ids[held_out]].abs().sum() == 0


def test_a_full_table_and_a_sparse_one_are_read_alike() -> None:
    generator = np.random.default_rng(1)
    values = generator.random((9, 9)).astype(np.float32)
    full = Memory(sp.csr_matrix(values), 0.7)
    sparse = Memory(sp.csr_matrix(values), 0.7)
    assert full.dense is not None
    sparse.dense = None
    items, lengths = torch.randint(1, 9, (4, 6), generator=torch.Generator().manual_seed(1)), torch.tensor([6, 3, 1, 5])
    items = items * (torch.arange(6) < lengths.unsqueeze(1))
    assert torch.allclose(full(items, lengths), sparse(items, lengths), atol=1e-6)
    assert Memory(sp.csr_matrix(values * (values > 0.95)), 0.7).dense is None


def test_old_items_are_read_until_their_weight_is_next_to_nothing() -> None:
    table = sp.csr_matrix(np.ones((3, 3), dtype=np.float32))
    history = torch.full((1, 30), 2)
    for recency, expected in ((1.0, 30.0), (0.5, 2.0)):
        read = Memory(table, recency)(history, torch.tensor([30]))
        assert read[0].tolist() == pytest.approx([expected] * 3, rel=2e-4)


def test_a_sparse_product_and_gathering_rows_give_the_same() -> None:
    generator = np.random.default_rng(3)
    values = generator.random((40, 40)).astype(np.float32)
    values[:, 0] = values[0] = 0.0
    memory = Memory(sp.csr_matrix(values * (values > 0.95)), 0.8)
    assert memory.dense is None
    items = torch.from_numpy(generator.integers(1, 40, (9, 12)))
    lengths = torch.from_numpy(generator.integers(1, 13, 9))
    items = items * (torch.arange(12) < lengths.unsqueeze(1))
    ages = torch.arange(12)
    read = items.gather(1, (lengths.unsqueeze(1) - 1 - ages).clamp(min=0)) * (ages < lengths.unsqueeze(1))
    weight = (0.8 ** ages.float()).expand(read.shape)
    product = memory(items, lengths)
    assert product.shape == (9, 40) and product.dtype == torch.float32 and product.any()
    assert torch.allclose(product, memory._gathered(read, weight), atol=1e-6)
    assert not Memory(sp.csr_matrix(values * (values > 2)), 0.8)(items, lengths).any()
