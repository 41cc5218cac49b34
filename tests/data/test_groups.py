"""Groups of targets, on data whose groups can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_reg4rec.data.groups import (
    canonical_positions,
    data_and_split_fingerprint,
    describe_groups,
    popularity_percentiles,
    target_groups,
    training_counts,
)

# Training parts: a: i0 i1 i2, b: i1 i2, c: i3 i1 i2 i0; then the validation item, then the test item.
ROWS = [
    *(("a", item, time) for time, item in enumerate(["i0", "i1", "i2", "i1", "i2"])),  # i1 -> i2 stands in training
    *(("b", item, time) for time, item in enumerate(["i1", "i2", "i2", "i1"])),  # i2 -> i1 does not, i1 -> i2 does
    *(("c", item, time) for time, item in enumerate(["i3", "i1", "i2", "i0", "i2", "i3"])),
]


def parts(toy):
    return toy.data.train._dataset, toy.data.test._dataset


def test_known_groups(toy_data):
    toy = toy_data(ROWS, model="SASRecWhole")
    train, test = parts(toy)
    counts = training_counts(train)
    assert {toy.item(i): int(counts[i]) for i in range(1, 5)} == {"i0": 2, "i1": 3, "i2": 3, "i3": 1}
    found = target_groups(train, test)
    seen, unseen = found["transition"]
    assert (seen.members.tolist(), unseen.members.tolist()) == ([True, False, False], [False, True, True])
    # Targets i2, i1, i3 with 3, 3 and 1 training interactions; histories of 4, 3 and 5 items.
    popularity = {group.name: (group.members.tolist(), group.lowest, group.highest) for group in found["popularity"]}
    assert popularity["rare"] == ([False, False, True], 1, 1)
    assert popularity["middling"] == ([True, True, False], 3, 3) and set(popularity) == {"rare", "middling"}
    history = {group.name: (group.lowest, group.highest, group.members.tolist()) for group in found["history"]}
    assert history["short"] == (3, 3, [False, True, False])
    described = describe_groups(found)["history"][0]
    assert described == {"name": "short", "n": 1, "from": 3, "to": 3}


def test_every_grouping_is_a_partition(toy_data):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{rng.integers(30)}", t) for u in range(40) for t in range(int(rng.integers(3, 15)))]
    toy = toy_data(rows, model="SASRecWhole")
    train, test = parts(toy)
    for groups in target_groups(train, test).values():
        assert np.sum([group.members for group in groups], axis=0).tolist() == [1] * 40


def test_percentiles():
    found = popularity_percentiles(np.array([9, 0, 5, 5, 7]))  # the first is padding
    assert found.tolist() == pytest.approx([0.0, 1 / 8, 4 / 8, 4 / 8, 7 / 8])
    assert popularity_percentiles(np.array([0, 3, 3]))[1:].tolist() == [0.5, 0.5]


def test_the_fingerprint_names_data_and_split_and_nothing_else(toy_data):
    def fingerprint(rows=ROWS, **settings):
        return data_and_split_fingerprint(*parts(toy_data(rows, **settings)))

    same = fingerprint(model="SASRecWhole")
    assert same == fingerprint(model="SASRec") == fingerprint(model="REG4Rec", hidden_size=16)
    assert same == fingerprint([(user, item, time + 100) for user, item, time in ROWS])
    others = {
        fingerprint(ROWS[:-1]),
        fingerprint([("x" if user == "a" else user, item, time) for user, item, time in ROWS]),
        fingerprint(eval_args={"split": {"LS": "test_only"}, "order": "TO", "mode": "full"}),
    }
    assert len(others | {same}) == 4


def test_the_canonical_order_is_by_user_name(toy_data):
    toy = toy_data(list(reversed(ROWS)), model="SASRecWhole")
    _, test = parts(toy)
    users = test.log[test.uid_field].numpy()[canonical_positions(test)]
    assert [toy.user(number) for number in users] == ["a", "b", "c"]
