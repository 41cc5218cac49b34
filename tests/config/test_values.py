import os

import pytest
import yaml

from recbole_reg4rec.config.values import PropertyLoader, is_plain, load_yaml, parse_value
from recbole_reg4rec.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", float("inf")),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("None", None),
        ("null", None),
        ("~", None),
        ("[5,10]", [5, 10]),
        ("[1e-3, abc]", [1e-3, "abc"]),
        ("['a','b']", ["a", "b"]),
        ("[a, None]", ["a", None]),
        ("[(1,2)]", [(1, 2)]),
        ("(1,2)", (1, 2)),
        ("{'LS':'valid_and_test'}", {"LS": "valid_and_test"}),
        ("{LS: valid_and_test}", {"LS": "valid_and_test"}),
        ("{'RS':[0.8,0.1,0.1]}", {"RS": [0.8, 0.1, 0.1]}),
        ("'3'", "3"),
        ("", ""),
        ("abc", "abc"),
        ("007", "007"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("2020-01-01", "2020-01-01"),
        ("[0,inf)", "[0,inf)"),
        ("a: b", "a: b"),
        ("# no comment", "# no comment"),
        ("{1, 2}", {1: None, 2: None}),
        ("[", "["),
    ],
)
def test_parse_value(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[__import__('os').getpid()]",
        "!!python/object/apply:os.getpid []",
        "[!!python/object/apply:os.getpid []]",
        "(lambda: 1)()",
        "1+1",
        "print",
    ],
)
def test_parse_value_never_evaluates(text, monkeypatch):
    called = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setattr(os, "getpid", lambda: called.append("getpid"))
    found = parse_value(text)
    assert is_plain(found) and not isinstance(found, int)
    assert called == []


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "some.yaml"
    path.write_bytes(text.encode(encoding))
    return path


def test_load_yaml_values(tmp_path):
    path = write(tmp_path, "a: 1e-3\nb: None\nc: 2020-01-01\nd: [1, x]\ne: {f: true}\ng: 1.0e5\n")
    assert load_yaml(path) == {
        "a": 1e-3,
        "b": None,
        "c": "2020-01-01",
        "d": [1, "x"],
        "e": {"f": True},
        "g": 1e5,
    }


def test_load_yaml_awkward_but_fine(tmp_path):
    assert load_yaml(write(tmp_path, "")) == {}
    assert load_yaml(write(tmp_path, "# only a comment\n")) == {}
    assert load_yaml(write(tmp_path, "\ufeffa: 1\r\nb: ü\r\n")) == {"a": 1, "b": "ü"}
    assert load_yaml(write(tmp_path, "x: &x {a: 1}\ny:\n  <<: *x\n  b: 2\n"))["y"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1\nc: 2\n", r"line \d"),
        ("a: 1\nb: 2\na: 3\n", "line 3.*`a` is given twice, first in line 1"),
        ("o:\n  a: 1\n  a: 2\n", "line 3.*`a` is given twice"),
        ("- 1\n- 2\n", "list"),
        ("just text\n", "str"),
        ("on: 1\n", "key True"),
        ("a: !!python/object/apply:os.getpid []\n", "line 1"),
        ("a: 1\n\tb: 2\n", "line 2"),
    ],
)
def test_load_yaml_refuses(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=said) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_yaml_unreadable(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_yaml(tmp_path)
    with pytest.raises(UserError, match="UTF-8"):
        load_yaml(write(tmp_path, "a: ü\n", "latin-1"))


def test_yaml_itself_is_left_alone():
    assert yaml.load("1e-3", Loader=PropertyLoader) == 1e-3
    assert yaml.load("1e-3", Loader=yaml.SafeLoader) == "1e-3"
