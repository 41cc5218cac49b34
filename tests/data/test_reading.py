"""The reader of atomic files: awkward but real input is read, mistakes are named with file, line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recbole.utils.enum_type import FeatureType

from recbole_reg4rec.data.reading import (
    AtomicTable,
    Column,
    check_columns,
    check_vectors,
    read_atomic,
    read_exact_times,
    read_header,
)
from recbole_reg4rec.data.rows import Rows, read_rows
from recbole_reg4rec.errors import UserError


def write(folder: Path, text: str | bytes, name: str = "toy.inter") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(path: Path, **options) -> AtomicTable:
    return read_atomic(path, **{"separator": "\t", "seq_separator": " ", "encoding": "utf-8"} | options)


def message(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def times(path: Path) -> np.ndarray | None:
    return read_exact_times(path, "t", "\t", "utf-8")


def test_header_gives_names_types_and_places(tmp_path):
    path = write(tmp_path, "user_id:token\tt:float\ttags:token_seq\tv:float_seq\n")
    assert read_header(path, "\t", "utf-8") == [
        Column("user_id", FeatureType.TOKEN, 0),
        Column("t", FeatureType.FLOAT, 1),
        Column("tags", FeatureType.TOKEN_SEQ, 2),
        Column("v", FeatureType.FLOAT_SEQ, 3),
    ]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("", "empty"),
        ("\n1\t2\n", "empty"),
        ("user_id\titem_id:token\n", "Column 1 .* 'user_id', but must be name:type"),
        ("a:token\t\n", "Column 2 .* ''"),
        ("a:token,b:token\n", "field_separator"),
        ("a:number\n", "unknown type 'number'.* token, float, token_seq, float_seq"),
        ("a:token\tb:float\ta:float\n", "'a' twice"),
        (b"\xff\xfea\x00:\x00", "not text in 'utf-8'.*setting encoding"),
        (b"a\x00:\x00t\x00", "not text in 'utf-8'.*setting encoding"),
    ],
)
def test_bad_headers(tmp_path, head, expected):
    path = write(tmp_path, head)
    with pytest.raises(UserError, match=expected) as caught:
        read_header(path, "\t", "utf-8")
    assert str(path) in str(caught.value)


def test_missing_file_says_what_is_needed_where(tmp_path):
    with pytest.raises(UserError) as caught:
        read_header(tmp_path / "toy.inter", "\t", "utf-8")
    for part in ("toy.inter", "toy.item", "toy.user", str(tmp_path)):
        assert part in str(caught.value)


def test_folder_instead_of_file_and_unknown_encoding_and_separators(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_header(tmp_path, "\t", "utf-8")
    path = write(tmp_path, "a:token\n1\n")
    with pytest.raises(UserError, match="'utf-99'"):
        read_header(path, "\t", "utf-99")
    assert "field_separator" in message(path, separator="::")
    assert "seq_separator" in message(path, seq_separator="")


def test_ids_stay_what_they_are_and_only_the_empty_field_is_missing(tmp_path):
    ids = ["NA", "null", "nan", "None", "007", "1e5", "True", "Ünïcode-東", "#x", " y "]
    path = write(tmp_path, "u:token\tbrand:token\n" + "".join(f"{name}\t{name}\n" for name in ids) + "z\t\n")
    frame = read(path).frame
    assert frame["u"].tolist() == [*ids, "z"]
    assert frame["brand"].tolist()[:-1] == ids
    assert frame["brand"].isna().tolist() == [False] * len(ids) + [True]
    assert frame["u"].dtype == object


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_byte_order_mark(tmp_path, line_end, bom, last):
    lines = ["u:token\tt:float\tw:token_seq", "a\t1\tx y", "b\t2.5\té"]
    path = write(tmp_path, bom + line_end.join(lines) + line_end * last)
    table = read(path)
    assert list(table.frame.columns) == ["u", "t", "w"]
    assert table.frame["u"].tolist() == ["a", "b"]
    assert table.frame["t"].tolist() == [1.0, 2.5]
    assert [row.tolist() for row in table.frame["w"]] == [["x", "y"], ["é"]]


def test_quotes_and_other_characters_in_titles_are_ordinary(tmp_path):
    titles = ['"The', 'A "quoted" word', "Amélie l'été", '"', "東京 物語", "a,b;c|d", "x\u00a0y", "back\\slash"]
    path = write(tmp_path, "i:token\ttitle:token_seq\n" + "".join(f"{n}\t{t}\n" for n, t in enumerate(titles)))
    table = read(path)
    assert [" ".join(row) for row in table.frame["title"]] == titles
    assert table.sequence_lengths == {"title": 3}
    assert table.types == {"i": FeatureType.TOKEN, "title": FeatureType.TOKEN_SEQ}


def test_sequences(tmp_path):
    path = write(tmp_path, "i:token\ts:token_seq\tv:float_seq\n1\ta  b \t1  2.5 \n2\t\t\n3\tc\t-3e2\n")
    table = read(path)
    assert [row.tolist() for row in table.frame["s"]] == [["a", "b"], [], ["c"]]
    assert all(row.dtype.kind == "U" for row in table.frame["s"])
    assert [row.tolist() for row in table.frame["v"]] == [[1.0, 2.5], [], [-300.0]]
    assert all(row.dtype == np.float64 for row in table.frame["v"])
    assert table.sequence_lengths == {"s": 2, "v": 2}


def test_equally_long_sequences_and_another_separator(tmp_path):
    path = write(tmp_path, "i:token|v:float_seq\n1|1,2\n2|3, 4\n")
    table = read(path, separator="|", seq_separator=",")
    assert [row.tolist() for row in table.frame["v"]] == [[1.0, 2.0], [3.0, 4.0]]
    assert table.frame["v"].dtype == object
    assert "' '" in message(write(tmp_path, "v:float_seq\n1, ,2\n"), seq_separator=",")


def test_sequences_beyond_one_part(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_reg4rec.data.reading._CHUNK_ROWS", 3)
    rows = [" ".join(str(number) for number in range(row % 4)) for row in range(11)]
    path = write(tmp_path, "i:token\tv:float_seq\n" + "".join(f"i\t{row}\n" for row in rows))
    assert [row.tolist() for row in read(path).frame["v"]] == [[float(n) for n in row.split()] for row in rows]
    path = write(tmp_path, "i:token\tv:float_seq\n" + "i\t1 2\n" * 7 + "i\t1 x\n")
    assert "Line 9 " in message(path)


def test_columns_and_skip(tmp_path):
    path = write(tmp_path, "a:token\tb:float\tc:token_seq\n1\t2\tx\n")
    assert list(read(path, columns={"c", "a", "unknown"}).frame.columns) == ["a", "c"]
    assert list(read(path, skip={"b"}).frame.columns) == ["a", "c"]
    none = read(path, columns=set())
    assert none.frame.shape == (1, 0) and none.types == {}
    bad = write(tmp_path, "a:token\tb:float\n1\tx\n")
    assert read(bad, skip={"b"}).frame["a"].tolist() == ["1"], "a column that is not read is not checked"


def test_header_without_rows(tmp_path):
    table = read(write(tmp_path, "a:token\tb:float\tc:token_seq\tv:float_seq"))
    assert table.frame.shape == (0, 4)
    assert table.frame["b"].dtype == np.float64
    assert table.sequence_lengths == {"c": 0, "v": 0}
    assert len(times(write(tmp_path, "t:float\n"))) == 0


def test_floats_are_exactly_those_of_python(tmp_path):
    texts = ["0.1", "1e-300", "123456789.123456789", "9007199254740991", "-7", "+3", ".5", "5.", "9" * 30, " 4 "]
    path = write(tmp_path, "t:float\tu:token\n" + "".join(f"{text}\tx\n" for text in texts) + "\tx\n")
    found = read(path).frame["t"].to_numpy()
    assert found[:-1].tolist() == [float(text) for text in texts]
    assert np.isnan(found[-1])


@pytest.mark.parametrize(
    "value", ["x", "nan", "NaN", "inf", "-Infinity", "1e999", "1,5", "0x10", "1_0", "True", "NA", "१", "1 2", "  "]
)
@pytest.mark.parametrize("rows_before", [0, 2])
def test_no_number_in_a_float_column(tmp_path, value, rows_before):
    path = write(tmp_path, "u:token\tt:float\tq:float\n" + "a\t1\t\n" * rows_before + f"b\t{value}\t1\nc\ty\tz\n")
    text = message(path)
    assert f"Line {rows_before + 2} of {path}" in text
    assert "'t'" in text and repr(value) in text and "float" in text


def test_a_column_of_booleans_is_no_float_column(tmp_path):
    assert "Line 3 " in message(write(tmp_path, "t:float\tu:token\n\ta\nTrue\ta\nFalse\ta\n"))
    assert read(write(tmp_path, "t:float\n0\n1\n")).frame["t"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("value", ["x", "nan", "inf", "1,5", "1e999"])
def test_no_number_in_a_float_sequence(tmp_path, value):
    text = message(write(tmp_path, f"i:token\tv:float_seq\na\t1 2\nb\t1 {value}\n"))
    assert "Line 3 " in text and "'v'" in text and repr(value) in text and "float_seq" in text


@pytest.mark.parametrize(("line", "count"), [("a\t1\t2", "3 fields"), ("a", "1 field,"), ("   ", "1 field,")])
def test_rows_with_too_many_or_too_few_fields(tmp_path, line, count):
    text = message(write(tmp_path, f"u:token\tt:float\nb\t1\n{line}\nc\t2\n"))
    assert "Line 3 " in text and count in text and "2 columns (u, t)" in text


def test_too_few_and_too_many_do_not_cancel_out(tmp_path):
    assert "Line 2 " in message(write(tmp_path, "u:token\tt:float\na\nb\t1\t2\n"))


def test_line_numbers_in_a_file_of_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_reg4rec.data.rows._CHUNK_BYTES", 16)
    good = "".join(f"u{row}\t{row}\n" for row in range(40))
    assert read(write(tmp_path, "u:token\tt:float\n" + good)).frame["t"].tolist() == list(range(40))
    assert "Line 42 " in message(write(tmp_path, "u:token\tt:float\n" + good + "x\n" + good))
    assert "Line 43 " in message(write(tmp_path, "u:token\tt:float\n" + good + "\nx\ty\n"))


def test_empty_lines_are_passed_over_but_counted(tmp_path):
    path = write(tmp_path, "u:token\tt:float\n\na\t1\n\n\nb\t2\n\n")
    assert read(path).frame["u"].tolist() == ["a", "b"]
    assert times(path).tolist() == [1, 2]
    rows: Rows = read_rows(path, "\t", "utf-8", read_header(path, "\t", "utf-8"))
    assert [rows.line(row) for row in range(rows.count)] == [3, 6]
    assert "Line 6 " in message(write(tmp_path, "u:token\tt:float\n\na\t1\n\n\nb\tx\n\n"))
    assert "Line 5 " in message(write(tmp_path, "u:token\r\n\r\na\r\n\r\nb\tx\r\n"))


def test_other_encodings(tmp_path):
    text = "i:token\ttitle:token_seq\n1\tAmélie ß\n"
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        path = write(tmp_path, text.encode(encoding))
        assert [row.tolist() for row in read(path, encoding=encoding).frame["title"]] == [["Amélie", "ß"]]
    path = write(tmp_path, ("i:token\n" + "1\n" * 9000 + "é\n").encode("latin-1"))
    text = message(path)
    assert "Line 9002 " in text and "'utf-8'" in text and "encoding" in text
    assert "Line 3 " in message(write(tmp_path, "i:token\n1\n2\0\n"))


def test_exact_times_keep_the_order_that_float64_loses(tmp_path):
    stamps = [1_700_000_000_000_000_001, 1_700_000_000_000_000_000, -5, 2**53 + 1]
    path = write(tmp_path, "u:token\tt:float\n" + "".join(f"a\t{stamp}\n" for stamp in stamps))
    found = times(path)
    assert found is not None and found.dtype == np.int64
    assert found.tolist() == stamps
    as_float = read(path).frame["t"]
    assert as_float[0] == as_float[1], "otherwise this test shows nothing"


@pytest.mark.parametrize("value", ["1.5", "", "1700000000000000001.0", "1e18", "18446744073709551615", "1e300", "x"])
def test_no_exact_times_unless_all_are_integers(tmp_path, value):
    assert times(write(tmp_path, f"t:float\tu:token\n1700000000000000003\ta\n{value}\ta\n")) is None


def test_exact_times_of_a_missing_column(tmp_path):
    with pytest.raises(UserError, match="TIME_FIELD"):
        times(write(tmp_path, "u:token\n1\n"))


def test_check_columns(tmp_path):
    path = tmp_path / "toy.inter"
    header = [
        Column("user", FeatureType.TOKEN, 0),
        Column("item", FeatureType.FLOAT, 1),
        Column("t", FeatureType.TOKEN, 2),
    ]
    check_columns(path, header, {"USER_ID_FIELD": "user", "LABEL_FIELD": "t"})
    with pytest.raises(UserError, match=r"toy\.inter has no column 'uid', only user, item, t; .*USER_ID_FIELD"):
        check_columns(path, header, {"USER_ID_FIELD": "uid"})
    with pytest.raises(UserError, match=r"'item' .*toy\.inter has the type float.*ITEM_ID_FIELD.*token"):
        check_columns(path, header, {"USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item"})
    with pytest.raises(UserError, match=r"'t' .* has the type token.*TIME_FIELD.*float"):
        check_columns(path, header, {"TIME_FIELD": "t"})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "no rows"),
        ([[], []], "empty in every row"),
        ([[1, 2], [1, 2], [1]], "data row 3 has 1 values .* 2 .*1, 2"),
        ([[1], [1, 2], [1, 2]], "data row 1 has 1 values"),
        ([[1, 2], [1, np.nan], [np.inf, 2]], "data row 2"),
    ],
)
def test_bad_vectors(rows, expected):
    column = pd.Series([np.array(row, dtype=np.float64) for row in rows], dtype=object)
    with pytest.raises(UserError, match=expected) as caught:
        check_vectors(column, "v", Path("toy.item"))
    assert "toy.item" in str(caught.value) and "'v'" in str(caught.value)


def test_good_vectors_some_missing(tmp_path):
    check_vectors(read(write(tmp_path, "v:float_seq\n1 2\n3 4\n")).frame["v"], "v", tmp_path)
    check_vectors(read(write(tmp_path, "i:token\tv:float_seq\na\t1 2\nb\t\nc\t3 4\n")).frame["v"], "v", tmp_path)
