"""The data set: exact order, RecBole's own rows and splits, awkward input counted, mistakes named, nothing leaks."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset
from toys import INTER_COLUMNS, cyclic_rows, item_rows

from recbole_reg4rec.data.dataset import LOG_POSITION
from recbole_reg4rec.errors import UserError

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"}


def shuffled_rows(users: int = 12, items: int = 15, longest: int = 14, seed: int = 0, start: int = 0) -> list[tuple]:
    """Random histories of random length, all times different, lines in random order."""
    generator = random.Random(seed)
    rows = [
        (f"u{u}", f"i{generator.randrange(items)}") for u in range(users) for _ in range(generator.randint(1, longest))
    ]
    times = generator.sample(range(len(rows)), len(rows))
    return [(*row, start + time) for row, time in zip(rows, times, strict=True)]


def histories(rows) -> dict[str, list[str]]:
    """Items of each user by time, ties by line."""
    found = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        found[user].append(item)
    return dict(found)


def named_rows(dataset) -> list[tuple[str, tuple[str, ...], str]]:
    """Sorted ``(user, history, target)`` by name; works for RecBole's data set and for ours."""
    rows = dataset[list(range(len(dataset)))]
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    found = []
    for user, history, length, target in zip(
        rows["user_id"].tolist(),
        rows["item_id_list"].tolist(),
        rows["item_length"].tolist(),
        rows["item_id"].tolist(),
        strict=True,
    ):
        assert not any(history[length:])
        found.append((str(users[user]), tuple(str(items[i]) for i in history[:length]), str(items[target])))
    return sorted(found)


def held_out(toy) -> dict[str, tuple[str, ...]]:
    """Test target of each user by name."""
    return {user: target for user, _, target in named_rows(toy.splits[2])}


@pytest.mark.parametrize(
    "eval_args",
    [
        LEAVE_ONE_OUT,
        {**LEAVE_ONE_OUT, "split": {"LS": "test_only"}},
        {**LEAVE_ONE_OUT, "split": {"RS": [0.6, 0.2, 0.2]}},
        {**LEAVE_ONE_OUT, "split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
        {**LEAVE_ONE_OUT, "split": {"TS": [0.6, 0.2, 0.2]}},
    ],
    ids=["LS", "LS-test-only", "RS-user", "RS-all", "TS"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_rows_and_splits_are_recboles_own(toy_data, eval_args):
    # Sorted and exact in float32, so that RecBole's class does what it should.
    rows = sorted(shuffled_rows(users=20), key=lambda row: row[2])
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    toy = toy_data(rows, item_rows(15), model="SASRec", eval_args=eval_args, load_col=columns)
    theirs = SequentialDataset(toy.config).build()
    assert len(theirs) == len(toy.splits) == 3
    for our_part, their_part in zip(toy.splits, theirs, strict=True):
        assert named_rows(our_part) == named_rows(their_part)
    assert len(toy.splits[0]) > 10 and len(toy.splits[2]) > 3
    assert [len(part) for part in toy.splits] == [
        toy.dataset.statistics.train_targets,
        toy.dataset.statistics.valid_targets,
        toy.dataset.statistics.test_targets,
    ]


@pytest.mark.parametrize(
    ("start", "unit"),
    [(1_700_000_000, 1), (1_700_000_000_000, 1), (1_700_000_000_000_000_000, 1), (1.7e9, 0.25)],
    ids=["seconds", "milliseconds", "nanoseconds", "quarter-seconds"],
)
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.6, 0.2, 0.2]}, {"TS": [0.6, 0.2, 0.2]}])
def test_neighbouring_stamps_keep_exact_order(toy_data, start, unit, split):
    exact = shuffled_rows(seed=3)
    rows = [(user, item, start + unit * time) for user, item, time in exact]
    group_by = "none" if "RS" in split else "user"
    args = {**LEAVE_ONE_OUT, "split": split, "group_by": group_by}
    toy = toy_data(rows, eval_args=args)
    expected = toy_data(exact, name="small", eval_args=args)
    for part, small in zip(toy.splits, expected.splits, strict=True):
        assert named_rows(part) == named_rows(small)
    by_user = histories(exact)
    for user, history, target in (row for part in toy.splits for row in named_rows(part)):
        assert " ".join([*history, target]) in " ".join(by_user[user])
    assert toy.dataset.statistics.tied_interactions == 0


def test_ratio_split_over_everybody_cuts_at_one_exact_moment(toy_data):
    rows = shuffled_rows(seed=5, start=1_700_000_000)
    args = {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"}
    toy = toy_data(rows, eval_args=args)
    by_user = defaultdict(list)
    for user, _, time in sorted(rows, key=lambda row: row[2]):
        by_user[user].append(time)
    parts = []
    for part in toy.splits:
        users = [str(part.field2id_token["user_id"][u]) for u in part.inter_feat["user_id"].tolist()]
        position = part.inter_feat[LOG_POSITION].numpy()
        place = position - part.history_start[position]
        parts.append([by_user[user][p] for user, p in zip(users, place, strict=True)])
    assert max(parts[0]) < min(parts[1]) and max(parts[1]) < min(parts[2])


def test_times_reach_the_model_as_recbole_has_them(toy_data):
    toy = toy_data(cyclic_rows(start=100))
    for part in toy.splits:
        rows = part[[0]]
        assert rows["timestamp"].dtype == rows["timestamp_list"].dtype == torch.float32
        length = int(rows["item_length"])
        assert rows["timestamp_list"][0, length - 1] == rows["timestamp"][0] - 1


def test_ties_keep_the_order_of_the_file_and_are_counted(toy_data):
    # c, a, b at one moment, in this order; d earlier although it stands last.
    rows = [("u", "c", 5), ("u", "a", 5), ("u", "b", 5), ("v", "a", 1), ("v", "b", 2), ("v", "c", 3), ("u", "d", 1)]
    toy = toy_data(rows)
    assert named_rows(toy.splits[2]) == [("u", ("d", "c", "a"), "b"), ("v", ("a", "b"), "c")]
    statistics = toy.dataset.statistics
    assert (statistics.tied_interactions, statistics.tied_targets) == (2, 1)


@pytest.mark.parametrize("stamp", [7, 1_700_000_000_000_000_000])
@pytest.mark.parametrize(("keep", "expected"), [("first", "abc"), ("last", "bca")])
def test_removal_of_repeats_keeps_the_order_among_ties(toy_data, stamp, keep, expected):
    # Enough ties that a sort that is not stable shows.
    rows = [(f"u{u:03}", item, stamp + u % 2) for u in range(300) for item in "abca"]
    toy = toy_data(rows, rm_dup_inter=keep)
    want = tuple(expected)
    assert [(*history, target) for _, history, target in named_rows(toy.splits[2])] == [want] * 300
    assert toy.dataset.statistics.filtered_interactions == 300
    assert toy.dataset.statistics.repeated_interactions == 0


def test_short_histories_repeats_and_lonely_items_are_handled_and_counted(toy_data):
    rows = [("one", "a", 1), ("two", "a", 1), ("two", "b", 2)]
    rows += [("many", item, time) for time, item in enumerate("abacab")]
    items = [(name, "some title", "k") for name in ("a", "c", "never")]  # b has no line
    toy = toy_data(rows, items)
    assert named_rows(toy.splits[2]) == [("many", tuple("abaca"), "b")]
    assert named_rows(toy.splits[1]) == [("many", tuple("abac"), "a")]
    assert named_rows(toy.splits[0])[-1] == ("two", ("a",), "b")
    found = toy.dataset.statistics.as_dict()
    assert found == {
        "users": 3,
        "items": 4,
        "interactions": 9,
        "density": round(9 / 12, 8),
        "tied_interactions": 0,
        "tied_targets": 0,
        "repeated_interactions": 3,
        "users_without_target": 1,
        "items_without_interactions": 1,
        "filtered_interactions": 0,
        "train_targets": 4,
        "valid_targets": 1,
        "test_targets": 1,
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_ids_are_names_whatever_they_look_like(toy_data, newline):
    names = ["NA", "null", "007", "7", "1e3", "Ünï-東", "nan"]
    rows = [(user, item, time) for user in ("NA", "x y") for time, item in enumerate(names)]
    toy = toy_data(rows, [(name, "été 東", "k") for name in names], newline=newline)
    assert named_rows(toy.splits[2]) == [("NA", tuple(names[1:6]), "nan"), ("x y", tuple(names[1:6]), "nan")]
    assert list(toy.dataset.field2id_token["item_id"]) == ["[PAD]", *sorted(names)]
    assert toy.dataset.field2token_id["item_id"]["007"] == 1 + sorted(names).index("007")


def test_lines_without_user_or_item_are_passed_over_and_counted(toy_data):
    toy = toy_data([*cyclic_rows(), (None, "i1", 3), ("u1", None, 3)])
    assert toy.splits and toy.dataset.statistics.filtered_interactions == 2
    assert toy.dataset.statistics.interactions == len(cyclic_rows())


def test_ids_do_not_depend_on_the_order_of_the_file(toy_data):
    rows = shuffled_rows()
    one, other = toy_data(rows, item_rows(15)), toy_data(rows[::-1], item_rows(15)[::-1], name="back")
    for field in ("user_id", "item_id"):
        assert list(one.dataset.field2id_token[field]) == list(other.dataset.field2id_token[field])
    for part, same in zip(one.splits, other.splits, strict=True):
        for field in ("user_id", "item_id", "item_id_list"):
            assert torch.equal(part[list(range(len(part)))][field], same[list(range(len(same)))][field])


def test_core_filter(toy_data):
    # i9 and u9 fall out one after the other: i9 has 2 interactions, without them u9 has 2.
    lonely = [("u9", item, time) for time, item in enumerate(["i9", "i9", "i1", "i2"])]
    rows = [*cyclic_rows(users=6, items=6, length=6), *lonely]
    toy = toy_data(rows, user_inter_num_interval="[3,inf)", item_inter_num_interval="[3,inf)")
    assert toy.splits and "u9" not in toy.dataset.field2token_id["user_id"]
    assert "i9" not in toy.dataset.field2token_id["item_id"]
    assert toy.dataset.statistics.filtered_interactions == 4
    assert toy.dataset.statistics.interactions == 36


@pytest.mark.parametrize(
    "settings",
    [
        {"user_inter_num_interval": "[100,inf)"},
        {"item_inter_num_interval": "[100,inf)"},
        {"val_interval": {"timestamp": "[1000,inf)"}},
    ],
)
@pytest.mark.parametrize("items", [None, item_rows()])
def test_everything_filtered_away(toy_data, settings, items):
    with pytest.raises(UserError, match="none of its 48 interactions is left after filtering"):
        _ = toy_data(item=items, **settings).splits


def test_values_are_filtered_by_the_times_of_the_file(toy_data):
    start = 1_700_000_000_000_000_000
    toy = toy_data(cyclic_rows(start=start), val_interval={"timestamp": f"[{start},{start + 10_000}]"})
    assert toy.splits and toy.dataset.statistics.filtered_interactions == 0


def test_item_file_whose_lines_are_all_filtered_away_is_no_file(toy_data):
    toy = toy_data(item=[("other", "x", "y")], item_inter_num_interval="[2,inf)")
    assert toy.splits and toy.dataset.item_feat is None and toy.dataset.item_num == 13


def test_item_file_with_nothing_but_a_header_is_no_file(toy_data):
    toy = toy_data(item=[])
    assert toy.splits and toy.dataset.item_feat is None


@pytest.mark.parametrize(
    ("data", "settings", "expected"),
    [
        ({"inter_columns": ("user_id:token", "item_id:token", "when:float")}, {}, "no column 'timestamp'.*TIME_FIELD"),
        ({"inter_columns": ("user_id:token", "item:token", "timestamp:float")}, {}, "no column 'item_id'"),
        ({"inter_columns": ("user_id:token", "item_id:token", "timestamp:token")}, {}, "must be of type float"),
        ({"inter": []}, {}, "holds no interactions"),
        ({"inter": [*cyclic_rows(), ("u1", "i1", None)]}, {}, "'timestamp' of .*toy.inter is empty in 1 lines"),
        ({"inter": [("u", "i", "noon")]}, {}, "'noon', which is not a finite number"),
        ({}, {"TIME_FIELD": None}, "TIME_FIELD is empty"),
        ({}, {"load_col": {"inter": ["user_id", "item_id"]}}, "load_col leaves out column 'timestamp'"),
        ({}, {"load_col": {"item": "*"}}, "load_col leaves out column 'user_id'"),
        ({"item": [("a", "b")], "item_columns": ("id:token", "title:token_seq")}, {}, "toy.* item"),
        ({}, {"additional_feat_suffix": ["emb"]}, "toy.emb.* not found"),
        ({"inter": [("u", "i1", 1), ("u", "i2", 2)]}, {}, "no user is left to test on .*1 training"),
        ({}, {"eval_args": {"order": "RO"}}, "setting eval_args .*'TO'"),
        ({}, {"eval_args": {"split": {"LS": "all"}}}, "setting eval_args .*all"),
        ({}, {"eval_args": {"split": {"RS": "half"}}}, "setting eval_args .*list"),
    ],
)
def test_mistakes_are_named(toy_data, data, settings, expected):
    with pytest.raises(UserError, match=expected) as caught:
        _ = toy_data(**data, **settings).splits
    assert "\n" not in str(caught.value)


def test_benchmark_files_are_refused_before_anything_is_read(toy_data, monkeypatch):
    toy = toy_data(benchmark_filename=["train", "valid", "test"])
    for name in ("ensure_dataset", "read_header", "read_atomic"):
        monkeypatch.setattr(f"recbole_reg4rec.data.dataset.{name}", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(UserError, match="benchmark_filename"):
        _ = toy.dataset


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_seen_items_are_the_whole_history(toy_data, longest):
    rows = shuffled_rows(seed=8, longest=20)
    toy = toy_data(rows, MAX_ITEM_LIST_LENGTH=longest)
    by_user = histories(rows)
    for part, back in zip(toy.splits[1:], (2, 1), strict=True):
        order = np.random.default_rng(0).permutation(len(part))
        batch = part[order]
        row, item = part.seen_items(batch)
        assert row.dtype == item.dtype == torch.int64
        users, items = part.field2id_token["user_id"], part.field2id_token["item_id"]
        seen = defaultdict(list)
        for r, i in zip(row.tolist(), item.tolist(), strict=True):
            seen[r].append(str(items[i]))
        for r, user in enumerate(batch["user_id"].tolist()):
            name = str(users[user])
            cut = len(by_user[name]) - (back if len(by_user[name]) > 2 else 1)
            assert seen[r] == by_user[name][:cut]


def test_user_columns_come_through_load_col(toy_data):
    users = {"user": (("user_id:token", "age:token", "weight:float"), [("u1", "25", 3.5), ("u0", "31", None)])}
    fields = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "age"]}
    toy = toy_data(files=users, load_col=fields)
    part = toy.splits[2]
    rows = part[list(range(len(part)))]
    names, ages = part.field2id_token["user_id"], part.field2id_token["age"]
    pairs = zip(rows["user_id"].tolist(), rows["age"].tolist(), strict=True)
    found = {str(names[user]): str(ages[age]) for user, age in pairs}
    assert found["u0"] == "31" and found["u1"] == "25" and found["u2"] == "[PAD]"
    assert "weight" not in rows and part.item_feat is None
    assert toy_data(files=users, name="plain").splits[0].user_feat is None


def test_interaction_columns_become_histories_too(toy_data):
    columns = (*INTER_COLUMNS, "where:token", "tags:token_seq", "v:float_seq")
    rows = [(*row, f"shop{n % 3}", f"a{n} b", f"{n} 0.5") for n, row in enumerate(cyclic_rows())]
    toy = toy_data(rows, inter_columns=columns, load_col={"inter": "*"})
    rows = toy.splits[2][[0]]
    length = int(rows["item_length"])
    assert length == 5 and rows["v_list"].shape == (1, 5, 2) and rows["tags_list"].shape[:2] == (1, 5)
    # User u0 takes rows 0 to 7; the test target is row 7, its history rows 2 to 6.
    assert rows["v_list"][0, :, 0].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]
    shops = toy.dataset.field2id_token["where"]
    assert [str(shops[i]) for i in rows["where_list"][0].tolist()] == ["shop2", "shop0", "shop1", "shop2", "shop0"]


def test_repeatable_and_equal_rows_whatever_the_batch(toy_data):
    toy = toy_data(shuffled_rows(), item_rows(15))
    part = toy.splits[1]
    together = part[list(range(len(part)))]
    for index in range(len(part)):
        single = part[[index]]
        for field in single.columns:
            assert torch.equal(single[field][0], together[field][index]), field


# No leakage: what is held out is seen by nothing that training builds on.


def replaced(rows, replacement, count: int = 2):
    """Rows whose last ``count`` items of every user are others."""
    by_user = defaultdict(list)
    for row in rows:
        by_user[row[0]].append(row)
    changed = []
    for n, own in enumerate(by_user.values()):
        changed += own[:-count] + [(user, replacement(n, user), time) for user, _, time in own[-count:]]
    return changed


def same_to_the_bit(one, other) -> None:
    assert list(one.data.dataset.field2id_token["item_id"]) == list(other.data.dataset.field2id_token["item_id"])
    assert list(one.data.dataset.field2id_token["user_id"]) == list(other.data.dataset.field2id_token["user_id"])
    assert one.features.matrix.tobytes() == other.features.matrix.tobytes()
    assert one.features.parts == other.features.parts and one.features.counts == other.features.counts
    assert one.categories.members.tobytes() == other.categories.members.tobytes()
    assert one.categories.names == other.categories.names
    assert one.tokenized.codes.codes.tobytes() == other.tokenized.codes.codes.tobytes()
    assert one.tokenized.codes.fingerprint == other.tokenized.codes.fingerprint


@pytest.mark.parametrize("with_items", [True, False])
def test_other_held_out_items_change_nothing(toy_data, with_items):
    rows = cyclic_rows(users=10)
    changed = replaced(rows, lambda n, user: f"i{(7 * n + 3) % 12}")
    assert rows != changed
    items = item_rows() if with_items else None
    category = {} if with_items else {"pseudo_categories": 3}
    one = toy_data(rows, items, **category, tokenizer_cache="one")
    other = toy_data(changed, items, **category, name="other", tokenizer_cache="two")
    assert held_out(one) != held_out(other)
    same_to_the_bit(one, other)


def test_a_log_without_its_held_out_part_gives_the_same(toy_data):
    rows = cyclic_rows(users=10)
    one, other = toy_data(rows, item_rows(), tokenizer_cache="one"), toy_data(rows, item_rows(), tokenizer_cache="two")
    train = other.data.train._dataset
    keep = torch.zeros(len(train.log), dtype=torch.bool)
    keep[train.inter_feat[LOG_POSITION]] = True
    keep[torch.from_numpy(train.history_start)] = True
    assert int((~keep).sum()) == 20
    train.log["item_id"] = torch.where(keep, train.log["item_id"], 1)
    same_to_the_bit(one, other)


def test_held_out_item_that_occurs_nowhere_else_changes_no_other(toy_data):
    rows = cyclic_rows(users=10)
    # "a..." sorts before, so that every other item's number changes; 11 of 12 items share their class with another.
    items = [(name, title, kind, f"brand{int(name[1:]) // 2}") for name, title, kind in item_rows()]
    columns = ("item_id:token", "title:token_seq", "class:token_seq", "brand:token")
    new = [*rows[:-1], (rows[-1][0], "a-new-one", rows[-1][2])]
    one = toy_data(rows, items, item_columns=columns, tokenizer_cache="one")
    other = toy_data(new, items, item_columns=columns, name="other", tokenizer_cache="two")
    assert other.data.dataset.item_num == one.data.dataset.item_num + 1
    numbers = [other.data.dataset.field2token_id["item_id"][one.item(i)] for i in range(one.data.dataset.item_num)]
    assert numbers[1:] == list(range(2, 14))
    assert one.features.parts == other.features.parts
    assert one.features.matrix.tobytes() == other.features.matrix[numbers].tobytes()
    assert one.categories.members.tobytes() == other.categories.members[numbers].tobytes()
    assert one.tokenized.codes.codes.tobytes() == other.tokenized.codes.codes[numbers].tobytes()
    assert other.tokenized.codes.report["collisions"] == 0
    assert not other.features.known[other.data.dataset.field2token_id["item_id"]["a-new-one"]]
