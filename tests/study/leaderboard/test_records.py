from __future__ import annotations

import json

import pytest

from recbole_reg4rec.errors import UserError


def test_ranks_come_back(records):
    file = records.write(ranks=[(1, 1), (12, 0), (3, 2)])
    assert records.book().records[file].ranks().tolist() == [[1, 1], [12, 0], [3, 2]]


def test_tampering_is_found(records):
    file = records.write()
    record = records.book().records[file]
    path = records.runs / record.content["ranks"]["file"]
    content = path.read_text()
    path.write_text(content.replace("11,11", "1,1"))
    with pytest.raises(UserError, match="checksum"):
        record.ranks()
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        record.ranks()
    path.write_text(content)
    for part in ("test", "test_protocols"):
        before = json.loads((records.runs / file).read_text())
        better = {**before["test"], "ndcg@10": 0.9}
        records.change(file, **{part: better if part == "test" else {**before[part], "masked": better}})
        with pytest.raises(UserError, match="its ranks give"):
            records.book().records[file].ranks()
        records.change(file, **{part: before[part]})
    assert len(records.book().records[file].ranks()) == 4


def test_rounded_metrics_are_no_tampering(records):
    file = records.write(ranks=[1, 3, 7], metric_decimal_place=2)
    test = {name: round(value, 2) for name, value in records.book().records[file].content["test"].items()}
    records.change(file, test=test)
    records.book().records[file].ranks()


def test_what_is_no_record_is_told_and_left_out(records):
    good = records.write()
    (records.runs / "half.json").write_text('{"model": "A", "se')
    (records.runs / "other.json").write_text('{"ranks": {}, "model": "A", "dataset": "toy"}')
    (records.runs / "older.json").write_text('{"model": "A", "dataset": "toy"}')
    (records.runs / "list.json").write_text("[]")
    book = records.book()
    assert set(book.records) == {good}
    assert set(book.unreadable) == {"half.json", "other.json", "list.json"}
    assert book.without_ranks == {"older.json": ("A", "toy")}
    for file, reason in (("half.json", "cannot be read"), ("older.json", "no ranks"), ("gone.json", "is not in")):
        with pytest.raises(UserError, match=reason):
            book.named(file, "table x")


def test_the_first_of_equal_runs_counts_whatever_its_data_say(records):
    later = records.write(time="000009")
    first = records.write(time="000003")
    other = records.write(time="000001", fingerprint="0" * 16)
    book = records.book()
    key, row_key = book.records[first].key, book.records[first].row_key
    assert book.finished(key, "f" * 16).file == first
    assert [record.file for record in book.row(row_key, "f" * 16)] == [first]
    assert book.other_data([row_key], "f" * 16) == [other] and later in book.records


def test_new_records_are_seen(records):
    book = records.book()
    file = records.write()
    assert not book.records
    book.refresh()
    assert set(book.records) == {file}


def test_a_run_of_another_rule_for_auto_is_no_run_of_todays(records):
    # 30 items have 8 codewords by today's rule.
    of_today = records.write(codebook_size="auto")
    records.change(of_today, tokenizer={"codewords": 8})
    of_old = records.write(codebook_size="auto", seed=2)
    records.change(of_old, tokenizer={"codewords": 16})
    given = records.write(codebook_size=16, seed=2)
    book = records.book()
    keys = {file: book.records[file].row_key for file in (of_today, of_old, given)}
    assert keys[of_old] == keys[given] != keys[of_today]
    assert [record.file for record in book.row(keys[of_today], "f" * 16)] == [of_today]


def test_auto_goes_by_the_items_that_have_features(records):
    # 46 items would have 16 codewords, the 45 that have features have 8.
    file = records.write(codebook_size="auto")
    data = json.loads((records.runs / file).read_text())["data"]
    before = records.book().records[file].row_key
    records.change(file, data={**data, "items": 46}, tokenizer={"codewords": 8, "items_without_features": 1})
    assert records.book().records[file].row_key == before


def test_a_run_from_before_a_setting_that_changes_nothing_there_still_counts(records):
    today = records.write(model="REG4Rec", softmax_items=20_000)
    before = records.write(model="REG4Rec", seed=2)
    large = records.write(model="REG4Rec", seed=3)
    data = json.loads((records.runs / large).read_text())["data"]
    records.change(large, data={**data, "items": 30_000})
    other = records.write(model="REG4Rec", seed=4, softmax_items=10)
    book = records.book()
    keys = {file: book.records[file].row_key for file in (today, before, large, other)}
    assert keys[before] == keys[today]
    assert len({keys[today], keys[large], keys[other]}) == 3


def test_a_setting_of_stage_2_changes_nothing_without_it(records):
    one, both = ["supervised"], ["supervised", "alignment"]
    today = records.write(model="REG4Rec", stages=one, align_kl_share=0.25)
    before = records.write(model="REG4Rec", seed=2, stages=one)
    aligned = records.write(model="REG4Rec", seed=3, stages=both)
    of_today = records.write(model="REG4Rec", seed=4, stages=both, align_kl_share=0.25)
    book = records.book()
    keys = {file: book.records[file].row_key for file in (today, before, aligned, of_today)}
    assert keys[before] == keys[today]
    assert len({keys[today], keys[aligned], keys[of_today]}) == 3
