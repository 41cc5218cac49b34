"""Whole sequences: every target once, the right context, nothing held out, batches within their limit."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from toys import cyclic_rows

from recbole_reg4rec.data.dataset import LOG_POSITION
from recbole_reg4rec.data.sequences import TARGETS, TrainingSequences, WholeSequenceLoader, cut_windows

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def sequences_of(lengths) -> TrainingSequences:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TrainingSequences(items=np.arange(1, offsets[-1] + 1), offsets=offsets)


@given(LENGTHS, st.integers(1, 12), st.floats(0, 0.99))
@example([13], 5, 0.0)
@example([5, 6, 7, 1, 0], 5, 0.5)
def test_every_target_once_with_its_context(lengths, longest, overlap):
    sequences = sequences_of(lengths)
    windows = cut_windows(sequences, longest, overlap)
    trained: Counter[int] = Counter()
    owner = sequences.users
    for start, length, skip in zip(windows.start, windows.length, windows.skip, strict=True):
        assert 1 <= length <= longest and 0 <= skip < length
        last = start + length  # the target behind the last input
        assert owner[start] == owner[last]
        first_of_user = sequences.offsets[owner[start]]
        for position in range(start + skip, last):
            trained[position + 1] += 1
            context = position - start + 1
            assert context == position - first_of_user + 1 or context >= int(overlap * longest)
        if start == first_of_user:
            assert skip == 0
    expected = [p for p in range(len(owner)) if p > 0 and owner[p] == owner[p - 1]]
    assert trained == Counter(expected)
    assert windows.targets == len(expected)


def test_known_windows():
    windows = cut_windows(sequences_of([12]), longest=5, overlap=0.4)
    # 11 inputs in steps of 3, the last window full: ends 5, 8, 11.
    assert windows.start.tolist() == [0, 3, 6]
    assert windows.length.tolist() == [5, 5, 5]
    assert windows.skip.tolist() == [0, 2, 2]
    short = cut_windows(sequences_of([7]), longest=5, overlap=0.4)
    assert (short.start.tolist(), short.length.tolist(), short.skip.tolist()) == ([0, 1], [3, 5], [0, 2])


def items_by_user(rows) -> dict[str, list[str]]:
    found = defaultdict(list)
    for user, item, _ in rows:
        found[user].append(item)
    return dict(found)


def random_rows(users: int = 9, longest: int = 30) -> list[tuple[str, str, int]]:
    generator = random.Random(4)
    return [
        (f"u{u}", f"i{generator.randrange(20)}", t) for u in range(users) for t in range(generator.randint(3, longest))
    ]


def test_training_part_ends_before_what_is_held_out(toy_data):
    rows = [*random_rows(), ("single", "i3", 1), ("pair", "i1", 1), ("pair", "i2", 2)]
    toy = toy_data(rows, model="SASRecWhole")
    expected = items_by_user(rows)
    by_user = {user: items[:-2] if len(items) > 3 else items[:2] for user, items in expected.items() if len(items) > 1}
    sequences = toy.sequences
    found = [
        [toy.item(i) for i in sequences.items[a:b]]
        for a, b in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    ]
    assert sorted(found) == sorted(by_user.values())
    assert len(sequences.users) == len(sequences.items) == sequences.lengths.sum()


@pytest.mark.parametrize("limit", [1, 7, 32, 4096])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_is_every_training_target_behind_its_history(toy_data, limit, shuffle):
    rows = random_rows()
    toy = toy_data(rows, model="SASRecWhole", train_batch_size=limit, shuffle=shuffle)
    loader = toy.data.train
    assert isinstance(loader, WholeSequenceLoader)
    train = loader.dataset
    position = train.inter_feat[LOG_POSITION].numpy()
    log = train.log["item_id"].numpy()
    assert loader.targets == len(train)
    for epoch in (0, 3):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        found: Counter[tuple[int, ...]] = Counter()
        for batch in batches:
            inputs, length, targets = batch["item_id_list"], batch["item_length"], batch[TARGETS]
            assert inputs.dtype == length.dtype == targets.dtype == torch.int64
            assert inputs.shape == targets.shape
            assert inputs.shape[1] == int(length.max()) <= 5
            assert inputs.numel() <= limit or len(inputs) == 1
            for row, n, wanted in zip(inputs.tolist(), length.tolist(), targets.tolist(), strict=True):
                assert all(row[:n]) and not any(row[n:]) and not any(wanted[n:])
                for at, target in enumerate(wanted):
                    if target:
                        found[(*row[: at + 1][-3:], -1, target)] += 1
                    if target and at + 1 < n:
                        assert row[at + 1] == target
        # Every trained position sees 3 items at least (half of 5, rounded down, and its own), or all there are.
        expected = Counter((*log[max(train.history_start[p], p - 3) : p].tolist(), -1, int(log[p])) for p in position)
        assert found == expected


def test_same_seed_and_epoch_same_batches_other_epoch_others(toy_data):
    def batches(toy, epoch):
        toy.data.train.set_epoch(epoch)
        return [batch["item_id_list"].tolist() for batch in toy.data.train]

    rows = random_rows()
    one = toy_data(rows, model="SASRecWhole", seed=1)
    two = toy_data(rows, model="SASRecWhole", seed=1)
    three = toy_data(rows, model="SASRecWhole", seed=2)
    later = batches(one, 5)
    torch.manual_seed(99)
    np.random.seed(99)
    assert later == batches(two, 5)
    assert batches(two, 6) != later
    assert batches(three, 5) != later
    # Going back gives the same again, whatever came between; a loop does not change it.
    assert batches(two, 5) == later == [batch["item_id_list"].tolist() for batch in two.data.train]
    still = toy_data(rows, model="SASRecWhole", shuffle=False)
    assert batches(still, 1) == batches(still, 2)
    two.data.train.set_epoch(5, stage=1)
    staged = [batch["item_id_list"].tolist() for batch in two.data.train]
    assert staged != later and batches(two, 5) == later


def test_held_out_items_are_in_no_batch(toy_data):
    # Everybody's last two items are the user's own and occur nowhere else.
    rows = [*cyclic_rows(length=7), *((f"u{u}", f"held{u}-{n}", 100 + n) for u in range(6) for n in range(2))]
    toy = toy_data(rows, model="SASRecWhole")
    fields = [batch[field] for batch in toy.data.train for field in ("item_id_list", TARGETS)]
    seen = {toy.item(item) for field in fields for item in field.ravel().tolist()}
    assert seen == {"[PAD]", *(f"i{i}" for i in range(12))}
