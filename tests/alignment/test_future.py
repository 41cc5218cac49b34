"""The window of MSRA over real training batches."""

from __future__ import annotations

import pytest
import torch

from recbole_reg4rec.alignment.future import check_window, future_items
from recbole_reg4rec.data.sequences import FUTURE, TARGETS
from recbole_reg4rec.errors import UserError


def test_shares_fall_geometrically_shrink_at_the_end_and_sum_to_one():
    ahead = torch.tensor([[11, 12, 13, 0, 0], [21, 0, 0, 0, 0]])
    trained = torch.tensor([[True, True, True], [True, False, False]])
    window = future_items(ahead, trained, 3, 0.5)
    assert window.items.tolist() == [[11, 12, 13], [12, 13, 0], [13, 0, 0], [21, 0, 0]]
    expected = torch.tensor([[4 / 7, 2 / 7, 1 / 7], [2 / 3, 1 / 3, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert torch.allclose(window.shares, expected)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_batches_look_ahead_within_the_training_part_of_the_user(toy_data, number):
    """Windows that overlap included: what is ahead of a position does not end where its window does."""
    # No item occurs twice, so the last item of a history tells whose it is and where.
    rows = [(f"u{u}", f"i{100 * u + t}", t) for u in range(6) for t in range(6 + 4 * u)]
    toy = toy_data(rows, MAX_ITEM_LIST_LENGTH=5, train_batch_size=40)
    loader, sequences = toy.data.train, toy.sequences
    assert FUTURE not in next(iter(loader)).interaction
    loader.future = number
    histories = [
        sequences.items[begin:end].tolist()
        for begin, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    ]
    # The last two items of each user are held out.
    assert sorted(map(len, histories)) == [4 + 4 * u for u in range(6)]
    seen = 0
    for batch in loader:
        trained = batch[TARGETS] > 0
        window = future_items(batch[FUTURE], trained, number, 0.7)
        assert torch.equal(window.items[:, 0], batch[TARGETS][trained])
        assert torch.allclose(window.shares.sum(1), torch.ones(len(window.shares)))
        rows_, places = trained.nonzero(as_tuple=True)
        for row, place, items, shares in zip(rows_, places, window.items, window.shares, strict=True):
            last = int(batch["item_id_list"][row, place])
            (owner,) = [history for history in histories if last in history]
            at = owner.index(last) + 1
            rest = owner[at : at + number]
            assert items.tolist() == rest + [0] * (number - len(rest)) and (shares > 0).sum() == len(rest)
            seen += 1
    assert seen == loader.targets


def test_one_item_ahead_is_the_target_alone(toy_data):
    toy = toy_data()
    toy.data.train.future = 1
    for batch in toy.data.train:
        assert torch.equal(batch[FUTURE] * (batch[TARGETS] > 0), batch[TARGETS])


def test_a_window_longer_than_any_history_is_refused(toy_data):
    sequences = toy_data().sequences
    longest = int(sequences.lengths.max()) - 1
    check_window(sequences, longest)
    with pytest.raises(UserError, match=f"align_future is {longest + 1}.*at most {longest}"):
        check_window(sequences, longest + 1)
