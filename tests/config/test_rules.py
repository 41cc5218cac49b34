import pytest

from recbole_reg4rec.config.rules import misplaced_constraint, parse_rule
from recbole_reg4rec.errors import UserError


@pytest.mark.parametrize(
    ("comment", "good", "bad"),
    [
        ("(int) Some number.", [0, -3], [1.0, "1", True, None, [1]]),
        ("(float) Rate.", [0, 0.5, float("inf")], ["x", True, None, float("nan")]),
        ("(bool) Whether.", [True, False], [0, 1, "True", None]),
        ("(str) Name.", ["a", ""], [1, None, ["a"]]),
        ("(int or None) >= 1 Count.", [1, None], [0, -1, 1.5]),
        ("(float) range (0, 1] Share.", [1, 0.1], [0, 1.1, -1]),
        ("(float) range [0, 1): Share.", [0, 0.9], [1]),
        ("(int) >= 1 and <= 8 Count.", [1, 8], [0, 9]),
        ("(float) > 1e-3, a text", [0.002], [1e-3]),
        ("(str) in [fused, flat] How.", ["fused", "flat"], ["Fused", "", 1]),
        ("(str) in ['1', 2]", ["1", "2"], [1, 2]),
        ("(int) in [1, 2]", [1, 2], [3, "1", True]),
        ("(bool or str) in [auto] What.", [True, False, "auto"], ["other", 1]),
        ("(int or str) in [auto] >= 2 Size.", ["auto", 2], ["atuo", 1, True]),
        ("(int or str) in [1, 2] Size.", [1, "text"], [3]),
        ("(list of str or str) in [a, b]", [["a", "b"], "a"], [["c"], "c"]),
        ("(list) Any.", [[], [1, "a"], (1,)], ["a", 1, {}]),
        ("(list of int) >= 1 Sizes.", [[], [1, 2], (3,)], [[0], [1.0], ["a"], 1]),
        ("(list of str or None) in [a, b]", [["a"], None], [["c"], "a"]),
        ("(dict) Arguments.", [{}, {"a": 1}], [[], "a", None]),
        ("(int or str) Id.", [0, "0,1"], [0.5, None]),
    ],
)
def test_rule(comment, good, bad):
    rule = parse_rule(comment)
    assert rule is not None
    assert [value for value in good if not rule.allows(value)] == []
    assert [value for value in bad if rule.allows(value)] == []


@pytest.mark.parametrize("comment", ["", "Some text.", "(number) Some.", "(int, float) x", "text (int)"])
def test_no_rule(comment):
    assert parse_rule(comment) is None


def test_misplaced_constraint_is_found():
    assert misplaced_constraint("(int) Count of things, >= 1.") == ">= 1"
    assert misplaced_constraint("(str) How, in [a, b]") == "in ["
    assert misplaced_constraint("(int) >= 1 Count of things.") is None


def test_check_names_setting_value_place_and_what_is_allowed():
    rule = parse_rule("(float) range [0, 1) Dropout.")
    with pytest.raises(UserError, match=r"`dropout` is 1.5 \(in a.yaml\).*a number in the range \[0, 1\)"):
        rule.check("dropout", 1.5, "in a.yaml")
    with pytest.raises(UserError, match="one of fused, flat"):
        parse_rule("(str) in [fused, flat]").check("history", "flatt", "here")


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("(int or None) >= 1", "a whole number >= 1 or None"),
        ("(str or None) in [a, b]", "one of a, b or None"),
        ("(int or str) in [auto] >= 2", "a whole number >= 2 or one of auto"),
        ("(list of str) in [a, b]", "a list of these: a, b"),
        ("(float) range (0, 1]", "a number in the range (0, 1]"),
        ("(list or str)", "a list or text"),
    ],
)
def test_describe(comment, words):
    assert parse_rule(comment).describe() == words


def test_check_makes_values_uniform():
    assert parse_rule("(float or None)").check("a", 1, "here") == 1.0
    assert isinstance(parse_rule("(float)").check("a", 1, "here"), float)
    assert isinstance(parse_rule("(int or float)").check("a", 1, "here"), int)
    assert parse_rule("(list of int)").check("a", (1, 2), "here") == [1, 2]


def test_text_stays_text_where_only_text_is_allowed():
    assert parse_rule("(str)").of_text("0") == "0"
    assert parse_rule("(str)").of_text("[5,10]") == "[5,10]"
    assert parse_rule("(str or None)").of_text("None") is None
    assert parse_rule("(str)").of_text("None") == "None"
    assert parse_rule("(int or str)").of_text("0") == 0
    assert parse_rule("(str)").of_text("'quoted'") == "quoted"
