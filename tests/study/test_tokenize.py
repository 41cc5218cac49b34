import csv

import pytest

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.tokenize import tokenize


def run(toy, results=None, **more):
    settings = {name: str(value) for name, value in toy.settings(**more).items() if name != "topk"}
    return tokenize("toy", command_line=settings, results_dir=str(results or toy.results))


def test_codes_are_written_and_reported(toy, capsys):
    report = run(toy)
    path = toy.results / "tokenizer" / "toy.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["item_id"] for row in rows} == {f"i{i}" for i in range(40)}
    assert list(rows[0]) == ["item_id", "token_0", "token_1", "token_2", "categories"]
    tuples = {tuple(int(row[f"token_{book}"]) for book in range(3)) for row in rows}
    assert len(tuples) == 40 and all(0 <= token < 8 for codes in tuples for token in codes)
    for row in rows:
        assert row["categories"] == f"class{int(row['item_id'][1:]) % 4}"
    assert report["collisions"] == 0 and report["codebooks"] == 3
    printed = capsys.readouterr().out
    assert "codes (fit" in printed and "codes (cache" not in printed and str(path) in printed
    assert run(toy) == report
    assert "codes (cache" in capsys.readouterr().out


def test_more_codewords_than_items(toy):
    with pytest.raises(UserError, match="codebook_size.*41|41.*codebook_size"):
        run(toy, codebook_size=41)


def test_unwritable_results(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--results_dir"):
        run(toy, results=tmp_path / "file")
    assert not toy.saved.exists(), "told before anything is fitted"
