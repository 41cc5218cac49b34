from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.files import check_tables, texts, update_tables
from recbole_reg4rec.study.leaderboard.rows import COLUMNS, build_board

DATA = "f" * 16


def update(records, *files, fingerprint=DATA):
    return update_tables(records.results, "toy", records.shown(*files), records.book(), fingerprint)


@pytest.fixture(autouse=True)
def locks(records):
    (records.results / "locks").mkdir()


def lines_of(records):
    return list(csv.DictReader(io.StringIO((records.results / "toy.csv").read_text())))


def test_the_columns_are_those_that_others_read():
    names = "model,variant,masked,seeds,recall@5,ndcg@5,recall@10,ndcg@10,recall@20,ndcg@20,mrr"
    deviations = ",".join(f"{name}_std" for name in names.split(",")[4:])
    assert ",".join(COLUMNS) == f"{names},{deviations},train_seconds,evaluate_seconds,parameters,peak_memory_mb,runs"


def test_a_row_by_hand(records):
    files = [
        records.write(seed=1, ranks=[(1, 1), (3, 2), (15, 10), (9, 0)]),
        records.write(seed=3, ranks=[(2, 1), (3, 2), (30, 21), (40, 0)]),
    ]
    update(records, files[0])
    unmasked, masked = lines_of(records)
    assert [line["masked"] for line in (unmasked, masked)] == ["false", "true"]
    assert unmasked["runs"] == " ".join(files) == masked["runs"], "all seeds of these settings"
    first = {"recall@5": 2 / 4, "ndcg@5": (1 + 1 / 2) / 4, "recall@10": 3 / 4, "recall@20": 1.0}
    first["ndcg@10"] = first["ndcg@5"] + 1 / math.log2(10) / 4
    second = {"recall@5": 2 / 4, "ndcg@5": (1 / math.log2(3) + 1 / 2) / 4, "recall@10": 2 / 4, "recall@20": 2 / 4}
    second["ndcg@10"] = second["ndcg@5"]
    for name in first:
        pair = [first[name], second[name]]
        assert float(unmasked[name]) == pytest.approx(np.mean(pair), abs=1e-6), name
        assert float(unmasked[f"{name}_std"]) == pytest.approx(np.std(pair, ddof=1), abs=1e-6), name
    assert float(unmasked["mrr"]) == pytest.approx(
        np.mean([1, 1 / 3, 1 / 15, 1 / 9, 1 / 2, 1 / 3, 1 / 30, 1 / 40]), abs=1e-6
    )
    assert float(masked["recall@10"]) == pytest.approx((3 / 4 + 2 / 4) / 2, abs=1e-6)
    costs = [unmasked[name] for name in ("seeds", "train_seconds", "evaluate_seconds", "parameters", "peak_memory_mb")]
    assert costs == ["2", "20.0", "1.0", "7", "103.0"]


def test_one_seed_has_no_deviation(records):
    update(records, records.write())
    assert {lines_of(records)[0][name] for name in COLUMNS if name.endswith("_std")} == {""}
    assert "Rows of one seed" in (records.results / "toy.md").read_text()


def test_rows_of_another_model_stay_and_the_best_comes_first(records):
    update(records, records.write("A", ranks=[1, 20, 20, 20]))
    update(records, records.write("B", ranks=[1, 1, 20, 20]))
    assert [(line["model"], line["masked"]) for line in lines_of(records)] == [
        *(("B", "false"), ("A", "false"), ("B", "true"), ("A", "true"))
    ]


def test_other_settings_of_a_row_take_its_place_and_are_never_mixed(records):
    old, new = records.write(ranks=[20, 20]), records.write(seed=2, ranks=[1, 1], learning_rate=0.5)
    update(records, old)
    update(records, new)
    assert {line["runs"] for line in lines_of(records)} == {new}


def test_a_protocol_takes_the_runs_validated_under_it(records):
    unmasked, masked = records.write(ranks=[(5, 4), (9, 7)]), records.write(ranks=[(6, 3), (9, 7)], masked=True)
    update(records, unmasked)
    text = (records.results / "toy.md").read_text()
    assert "A\\*" in text and "under the other protocol" in text
    update(records, masked)
    assert [line["runs"] for line in lines_of(records)] == [unmasked, masked]
    assert "A\\*" not in (records.results / "toy.md").read_text()


def test_level_and_different_rows_are_marked(records):
    rng = np.random.default_rng(0)
    best = rng.integers(1, 12, 400)
    swapped = best.copy()
    swapped[:40] = best[40:80]
    swapped[40:80] = best[:40]
    for model, ranks in (("Best", best), ("Level", swapped + (np.arange(400) == 399)), ("Worse", best + 5)):
        update(records, records.write(model, ranks=ranks.tolist()))
    accuracy = (records.results / "toy.md").read_text().split("### Accuracy")[1].split("###")[0]
    marks = {
        line.split("|")[1].strip(): line.split("|")[6].strip()[-1] for line in accuracy.splitlines() if "0." in line
    }
    assert marks["Level"] == "≈" and marks["Worse"].isdigit() and "**" in accuracy


def test_records_of_other_data_are_left_out_and_tables_of_other_data_refused(records):
    file = records.write()
    records.write(seed=2, fingerprint="0" * 16)
    board = update(records, file)
    assert [len(row.records) for row in board.rows] == [1, 1]
    before = (records.results / "toy.csv").read_text()
    with pytest.raises(UserError, match="other data.*move toy.csv away"):
        update(records, file, fingerprint="0" * 16)
    assert (records.results / "toy.csv").read_text() == before


def test_no_finished_cell_no_table(records):
    assert update_tables(records.results, "toy", {("A", "default", False): "key"}, records.book(), DATA) is None
    assert not list(records.results.glob("toy.*"))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", ",".join(COLUMNS) + "\nA,default\n"])
def test_a_file_that_is_no_table_is_not_overwritten(records, text):
    (records.results / "toy.csv").write_text(text)
    with pytest.raises(UserError, match="toy.csv"):
        update(records, records.write())
    assert (records.results / "toy.csv").read_text() == text


def test_tables_say_what_was_given_and_link_their_records(records):
    file = records.write(epochs=1, learning_rate=0.25)
    update(records, file)
    text = (records.results / "toy.md").read_text()
    assert "epochs=1, learning\\_rate=0.25" in text and f"[seed 1](runs/{file})" in text
    assert f'href="runs/{file}"' in (records.results / "toy.html").read_text()


def test_ranks_that_do_not_pair_are_refused(records):
    a, b = records.write("A", ranks=[1, 2]), records.write("B", ranks=[1, 2, 3])
    with pytest.raises(UserError, match="different numbers of ranks"):
        build_board("toy", records.shown(a, b), records.book(), DATA)


# ---- --check


@pytest.fixture
def written(records):
    files = [records.write(seed=seed, ranks=[seed, 7, 30]) for seed in (1, 2)] + [records.write("B", ranks=[4, 5, 0])]
    update(records, *files[1:])
    assert check_tables(records.results) == []
    return files


def test_tables_repeat_to_the_byte(records, written):
    before = {path.name: path.read_bytes() for path in records.results.glob("toy.*")}
    update(records, written[0])
    assert {path.name: path.read_bytes() for path in records.results.glob("toy.*")} == before and len(before) == 3


@pytest.mark.parametrize("ending", ["csv", "md", "html"])
def test_a_changed_number_is_found(records, written, ending):
    path = records.results / f"toy.{ending}"
    text = path.read_text()
    number = "0.666667" if ending == "csv" else "0.6667"
    assert number in text
    path.write_text(text.replace(number, number.replace("0.6", "0.7"), 1))
    (found,) = check_tables(records.results)
    assert str(path) in found and number.replace("0.6", "0.7") in found and number in found


def test_a_seed_left_out_is_found(records, written):
    path = records.results / "toy.csv"
    path.write_text(path.read_text().replace(f"{written[0]} {written[1]}", written[1]))
    assert any("toy.csv" in line for line in check_tables(records.results))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda records, files: (records.runs / files[0]).unlink(), "is not in"),
        (lambda records, files: (records.runs / files[0]).write_text("{"), "cannot be read"),
        (lambda records, files: next(records.runs.glob("B*.ranks.csv")).unlink(), "cannot be read"),
        (lambda records, files: (records.results / "toy.html").unlink(), "toy.html cannot be read"),
        (lambda records, files: records.change(files[2], fingerprint="0" * 16), "different data or splits"),
        (lambda records, files: records.change(files[0], seed=2), "two runs of one seed"),
        (lambda records, files: records.change(files[2], model="C"), "is of C on toy"),
    ],
)
def test_what_is_missing_or_mixed_is_said(records, written, change, said):
    change(records, written)
    (found,) = check_tables(records.results)
    assert said in found, found


def test_runs_of_two_configurations_in_one_row(records, written):
    other = records.write(seed=9, learning_rate=0.5)
    path = records.results / "toy.csv"
    path.write_text(path.read_text().replace(written[1], f"{written[1]} {other}"))
    (found,) = check_tables(records.results)
    assert other in found and "settings" in found


def test_nothing_to_check(records):
    (records.results / "theirs.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="no table"):
        check_tables(records.results)
    with pytest.raises(UserError, match="no table.*gone"):
        check_tables(records.results, ["gone"])


def test_texts_are_of_the_whole_board(records, written):
    board = build_board("toy", records.shown(*written[1:]), records.book(), DATA)
    assert {ending: (records.results / f"toy.{ending}").read_text() for ending in ("csv", "md", "html")} == texts(board)
