import subprocess
import sys

import pytest
import yaml

from recbole_reg4rec.config import settings
from recbole_reg4rec.config.rules import misplaced_constraint
from recbole_reg4rec.config.settings import (
    describe_settings,
    known_settings,
    properties_dir,
    recbole_properties_dir,
    recbole_rules,
    recbole_settings,
    refuse_pickles,
    refuse_processes,
    refuse_unknown,
)
from recbole_reg4rec.config.values import PropertyLoader
from recbole_reg4rec.errors import UserError

PAGE = """# Property file.
# Two lines of prose are no heading.

# Training
rate: 1e-3      # (float) > 0 Rate # of steps.
name: "a # b"   # (str) A name
                # that goes on
                #
plain:
bare: 7
# Data

columns:        # (dict) Columns.
  inter: [a]    # inner
lists: [1,
        2]      # (list of int) Numbers.
empty:          # (int or None) Nothing.
"""


def test_describe_settings(tmp_path):
    path = tmp_path / "page.yaml"
    path.write_text(PAGE)
    found = {item.name: item for item in describe_settings(path)}
    assert list(found) == ["rate", "name", "plain", "bare", "columns", "lists", "empty"]
    assert (found["rate"].value, found["rate"].comment) == (1e-3, "(float) > 0 Rate # of steps.")
    assert (found["name"].value, found["name"].comment) == ("a # b", "(str) A name that goes on")
    assert (found["plain"].value, found["plain"].comment, found["plain"].rule) == (None, "", None)
    assert (found["columns"].value, found["columns"].comment) == ({"inter": ["a"]}, "(dict) Columns.")
    assert (found["lists"].value, found["lists"].comment) == ([1, 2], "(list of int) Numbers.")
    assert found["empty"].comment == "(int or None) Nothing."
    assert [found[name].section for name in ("rate", "bare", "columns")] == ["Training", "Training", "Data"]


def test_describe_settings_of_an_empty_file(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert describe_settings(tmp_path / "a.yaml") == []


def test_own_property_files_obey_their_own_comments():
    """Every setting says what it may be, in a place where it is read, and its default is that."""
    wrong = []
    for path in sorted(properties_dir().rglob("*.yaml")):
        for item in describe_settings(path):
            where = f"{path.name}: {item.name}"
            if misplaced_constraint(item.comment):
                wrong.append(f"{where}: move `{misplaced_constraint(item.comment)}` right behind the type")
            if item.rule is not None and not item.rule.allows(item.value):
                wrong.append(f"{where}: default {item.value!r} is not {item.rule.describe()}")
            if item.rule is None and path.parent.name != "dataset":
                wrong.append(f"{where}: the comment does not begin with a type in brackets")
    assert wrong == []


def test_every_recbole_property_file_can_be_read():
    for path in recbole_properties_dir().rglob("*.yaml"):
        yaml.load(path.read_text(encoding="utf-8"), Loader=PropertyLoader)


def test_properties_dir_is_the_checkouts_or_the_packages(tmp_path, monkeypatch):
    package = tmp_path / "recbole_reg4rec"
    (package / "config").mkdir(parents=True)
    (tmp_path / "properties").mkdir()
    monkeypatch.setattr(settings, "__file__", str(package / "config" / "settings.py"))
    # In site-packages a folder of that name is somebody else's.
    assert properties_dir() == package / "properties"
    (tmp_path / "run_recbole_reg4rec.py").write_text("")
    assert properties_dir() == tmp_path / "properties"


def test_known_settings(properties):
    from recbole.model.sequential_recommender import SASRec

    (properties / "overall.yaml").write_text("our_own: 1\n")
    (properties / "model" / "SASRec.yaml").write_text("our_models: 1\n")
    (properties / "model" / "Other.yaml").write_text("another_models: 1\n")
    (properties / "dataset" / "some.yaml").write_text("our_datas: 1\n")
    known = known_settings(SASRec)
    assert {"epochs", "MAX_ITEM_LIST_LENGTH", "eval_args", "n_layers", "encoding", "benchmark_filename"} <= known
    assert {"our_own", "our_models", "our_datas"} <= known
    assert known.isdisjoint({"another_models", "embedding_size", "device", "single_spec", "neg_sampling"})


class ReadsItsOwn:
    """A model that reads ``config["width_of_mine"]`` and ``config.get('depth_of_mine')``."""


class Derived(ReadsItsOwn):
    pass


def test_names_that_the_model_reads_are_known(properties):
    assert {"width_of_mine", "depth_of_mine"} <= known_settings(Derived)
    made = type("Made", (), {"__module__": "no.such.module"})
    assert "width_of_mine" not in known_settings(made)


def test_settings_of_a_base_class_are_known(properties):
    from recbole.model.sequential_recommender import SASRec

    (properties / "model" / "Whole.yaml").write_text("whole: 1\n")
    whole = type("Whole", (SASRec,), {})
    assert {"n_layers", "whole"} <= known_settings(whole)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("epoch", "did you mean `epochs`"),
        ("learning-rate", "did you mean `learning_rate`"),
        ("user_id_field", "did you mean `USER_ID_FIELD`"),
        ("qqqqq", "--help"),
        ("device", "`use_gpu` and `gpu_id`"),
    ],
)
def test_refuse_unknown(name, said):
    known = {"epochs", "learning_rate", "USER_ID_FIELD", "eval_step"}
    refuse_unknown({"epochs": "here"}, known)
    with pytest.raises(UserError, match=said) as caught:
        refuse_unknown({"epochs": "here", name: "in my.yaml"}, known)
    assert f"`{name}` (in my.yaml)" in str(caught.value)


@pytest.mark.parametrize("name", ["save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path"])
def test_refuse_pickles(name):
    refuse_pickles({"save_dataset": False, "dataset_save_path": None}, {})
    with pytest.raises(UserError, match=f"`{name}`.*no pickled data"):
        refuse_pickles({name: True}, {name: "in my.yaml"})


def test_refuse_processes():
    refuse_processes({"nproc": 1, "world_size": -1}, {})
    for name, value in {"nproc": 2, "world_size": 2, "local_rank": 0, "ip": "10.0.0.1"}.items():
        with pytest.raises(UserError, match=f"`{name}`.*several processes"):
            refuse_processes({name: value}, {})


def test_recbole_rules(properties):
    from recbole.model.sequential_recommender import SASRec

    rules = recbole_rules(recbole_settings(SASRec))
    assert not rules["epochs"].allows("ten") and rules["epochs"].allows(10)
    assert not rules["use_gpu"].allows("no")
    assert rules["user_inter_num_interval"].allows(None) and not rules["user_inter_num_interval"].allows([5, 10])
    assert "gpu_id" not in rules and "topk" not in rules


def test_importing_settings_is_quick():
    code = (
        "import sys, recbole_reg4rec.config, recbole_reg4rec.config.help; "
        "print([m for m in ('torch', 'recbole', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
