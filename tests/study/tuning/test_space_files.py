import math
from functools import lru_cache

import pytest

from recbole_reg4rec.config import properties_dir
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.pipeline import configure
from recbole_reg4rec.study.registry import find_model
from recbole_reg4rec.study.tuning import space_files
from recbole_reg4rec.study.tuning.space_files import one_setting, read_space

# Reading RecBole's property files takes a tenth of a second each time.
known_for = lru_cache(space_files.known_for)
SHIPPED = sorted(path.stem for path in (properties_dir() / "tuning").glob("*.yaml"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(space_files, "known_for", known_for)


@pytest.fixture
def read(tmp_path):
    def make(text, name="space.yaml", model="SASRec"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_space(str(path), model, find_model(model), "ml-100k")

    return make


def test_there_is_a_space_for_every_model_of_this_package():
    own = {path.stem for path in (properties_dir() / "model").glob("*.yaml")}
    assert own | {"SASRec", "GRU4Rec", "BERT4Rec", "FDSA"} <= set(SHIPPED)


@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_spaces_fit_their_models(model):
    """Reading has checked every end and choice against the settings' rules."""
    space = read_space(None, model, find_model(model), "ml-100k")
    config = configure(model, "ml-100k", None, space.fixed)
    assert not [parameter.name for parameter in space.parameters if parameter.name not in config]
    assert {parameter.name for parameter in space.parameters} >= set(space.symbols.values())
    for parameter in space.parameters:
        assert all(condition.setting in config for condition in parameter.when)


def test_a_yaml_space(read):
    space = read(
        "search:\n  learning_rate: {float: [1e-3, 0.1], log: True}\n  n_layers: {int: [2, 6], step: 2}\n"
        "  hidden_size: {choice: [64, 128], when: {n_layers: [2, 4]}}\n"
        '  n_heads: {choice: [1, 2], when: {n_layers: {">=": 4}, hidden_size: 64}}\n'
        "fixed:\n  epochs: 3\nsymbols:\n  d: hidden_size\n"
    )
    rate, layers, hidden, heads = space.parameters
    assert (rate.kind, rate.low, rate.high, rate.log) == ("float", 0.001, 0.1, True)
    assert layers.grid() == [2, 4, 6] and hidden.choices == (64, 128)
    assert hidden.active({"n_layers": 2}) and not hidden.active({"n_layers": 6})
    assert heads.active({"n_layers": 4, "hidden_size": 64}) and not heads.active({"n_layers": 4, "hidden_size": 128})
    assert space.fixed == {"epochs": 3} and space.symbols == {"d": "hidden_size"}
    assert rate.origin.endswith("space.yaml line 2") and heads.origin.endswith("line 5")


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        ("search:\n  learning_rat: {float: [0.1, 1]}", 2, "did you mean `learning_rate`"),
        ("search:\n  n_layers: {int: [1, 2]}\n  learning_rate: {float: [1, 0.1]}", 3, "low end must be below"),
        ("search:\n  learning_rate: {float: [0, 0.1], log: True}", 2, "must begin above 0"),
        ("search:\n  learning_rate: {float: [0.01, 0.1], log: True, step: 0.01}", 2, "leave one out"),
        ("search:\n  learning_rate: {float: [0.01, .nan]}", 2, "must be a number"),
        ("search:\n  learning_rate: {float: [0.01]}", 2, "two ends"),
        ("search:\n  learning_rate: [0.01, 0.1]", 2, "must be one of"),
        ("search:\n  learning_rate: {float: [0.01, 0.1], int: [1, 2]}", 2, "must be one of"),
        ("search:\n  learning_rate: {float: [0.01, 0.1], lgo: True}", 2, "`lgo`"),
        ("search:\n  learning_rate: {float: [0.01, 0.1], step: 1}", 2, "step"),
        ("search:\n  n_layers: {int: [1.5, 2]}", 2, "whole number"),
        ("search:\n  n_layers: {float: [1, 2]}", 2, "whole number"),
        ("search:\n  n_layers: {choice: []}", 2, "at least one value"),
        ("search:\n  n_layers: {choice: [2, 2]}", 2, "twice"),
        ("search:\n  n_layers: {choice: [two]}", 2, "whole number"),
        ("search:\n  use_gpu: {choice: [True, False]}", 2, "cannot be searched"),
        ("search:\n  seed: {int: [1, 9]}", 2, "cannot be searched"),
        ("search:\n  n_layers: {int: [1, 2]}\n  n_layers: {int: [1, 3]}", 3, "twice"),
        ("search:\n  n_layers: {int: [1, 2], when: {n_heads: 1}}\n  n_heads: {int: [1, 2]}", 2, "stand above"),
        ("search:\n  n_heads: {int: [1, 2]}\n  n_layers: {int: [1, 2], when: {n_heads: 3}}", 3, "never is"),
        ("search:\n  n_layers: {int: [1, 2], when: {n_heads: {'=>': 3}}}", 2, "=>"),
        ("search:\n  n_layers: {int: [1, 2], when: {heads: 3}}", 2, "did you mean"),
        ("search:\n  n_layers: {int: [1, 2]}\nfixed:\n  n_layers: 1", 4, "fixed and searched"),
        ("search:\n  n_layers: {int: [1, 2]}\nfixed:\n  epochs: many", 4, "whole number"),
        ("search:\n  n_layers: {int: [1, 2]}\nfixd:\n  epochs: 3", 3, "`fixd`"),
        ("search:\n  n_layers: {int: [1, 2]}\nsymbols:\n  d: hiden_size", 4, "hidden_size"),
        ("search: [1, 2]", 1, "name: value"),
    ],
)
def test_nonsense_is_refused_naming_the_line(read, lines, line, said):
    with pytest.raises(UserError) as caught:
        read(lines)
    assert f"line {line}" in str(caught.value) and said in str(caught.value)
    assert "space.yaml" in str(caught.value)


def test_a_value_that_the_models_rule_forbids_is_refused(read):
    with pytest.raises(UserError, match="line 2.*hidden_dropout_prob.*range"):
        read("search:\n  hidden_dropout_prob: {float: [0.1, 1.5]}", model="REG4Rec")


def test_recboles_files(read):
    space = read(
        "learning_rate loguniform -8,0\nhidden_size choice [64, 96 , 128]\nhidden_dropout_prob uniform 0.1,0.5\n"
        "# layers\nn_layers quniform 1,4,1\n\nattn_dropout_prob quniform 0.05,0.5,0.1\n"
        "hidden_act choice ['gelu','relu']\nloss_type choice [\"CE\"]\n",
        name="sasrec.hyper",
    )
    rate, hidden, dropout, layers, attention, act, loss = space.parameters
    assert rate.log and rate.low == pytest.approx(math.exp(-8)) and rate.high == 1.0
    assert hidden.choices == (64, 96, 128) and act.choices == ("gelu", "relu") and loss.choices == ("CE",)
    assert (dropout.kind, dropout.low, dropout.high, dropout.log) == ("float", 0.1, 0.5, False)
    assert layers.kind == "int" and layers.grid() == [1, 2, 3, 4]
    assert attention.kind == "float" and attention.grid() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert layers.origin.endswith("line 5")


@pytest.mark.parametrize("suffix", ["hyper", "test"])
def test_recboles_lists_written_as_text_are_lists(read, suffix):
    space = read("selected_features choice ['[class]','[class,release_year]']", f"a.{suffix}", "FDSA")
    assert space.parameters[0].choices == (["class"], ["class", "release_year"])


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        ("n_layers choice [1,2]\nhidden_size chioce [1]", 2, "`chioce`"),
        ("n_layers choice", 1, "name type values"),
        ("n_layers choice 1,2", 1, "no list"),
        ("learning_rate uniform 0.1", 1, "2 numbers"),
        ("learning_rate uniform a,b", 1, "2 numbers"),
        ("n_layers quniform 1,4,0", 1, "step"),
        ("n_layer choice [1,2]", 1, "did you mean `n_layers`"),
        ("n_layers choice [1]\nn_layers choice [2]", 2, "twice"),
        ("n_layers choice [__import__('os').getcwd()]", 1, ""),
    ],
)
def test_nonsense_in_recboles_files_is_refused_naming_the_line(read, lines, line, said):
    with pytest.raises(UserError, match=f"a.hyper line {line}") as caught:
        read(lines, "a.hyper")
    assert said in str(caught.value)


def test_missing_spaces_are_told():
    with pytest.raises(UserError, match="no search space for FPMC.*REG4Rec.*--space"):
        read_space(None, "FPMC", find_model("FPMC"), "ml-100k")
    with pytest.raises(UserError, match="does not exist.*--space"):
        read_space("nowhere.yaml", "SASRec", find_model("SASRec"), "ml-100k")


def test_a_space_that_searches_nothing_is_told(read):
    for text, name in (("fixed:\n  epochs: 3\n", "a.yaml"), ("\n", "a.hyper")):
        with pytest.raises(UserError, match="searches nothing"):
            read(text, name)


def test_one_setting():
    model_class = find_model("REG4Rec")
    space, known = read_space(None, "REG4Rec", model_class, "ml-100k"), known_for(model_class, "ml-100k")
    assert one_setting("M", None, space, known).parameters[0].choices == (4, 8, 12, 16)
    given = one_setting("beam_width", [5, 50], space, known)
    assert given.parameters[0].choices == (5, 50) and given.fixed == space.fixed
    assert one_setting("stopping_step", [1, 2], space, known).fixed == {}
    assert one_setting("seed", [1, 2], None, known).parameters[0].choices == (1, 2)
    for name, values, said in (
        ("beamwidth", [1], "did you mean `beam_width`"),
        ("mpq_dim", None, "--values"),
        ("beam_width", [0], "--values: `beam_width`.*>= 1"),
        ("metrics", [1], "cannot be searched"),
    ):
        with pytest.raises(UserError, match=said):
            one_setting(name, values, space, known)
