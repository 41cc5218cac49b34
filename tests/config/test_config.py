import json
import os
import sys

import numpy as np
import pytest
import torch
import yaml
from recbole.config import Config
from recbole.model.sequential_recommender import FPMC, GRU4Rec, SASRec
from recbole.utils import ModelType, argument_list

from recbole_reg4rec.config import Reg4RecConfig, resolved_settings
from recbole_reg4rec.config import config as config_module
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.recbole_whole import SASRecWhole


@pytest.fixture(autouse=True)
def _own_properties(properties, monkeypatch):
    return properties


def make(model=SASRec, dataset="some", **command_line):
    return Reg4RecConfig(model, dataset, command_line={name: str(value) for name, value in command_line.items()})


def refused(said, model=SASRec, dataset="some", files=None, settings=None, **command_line):
    with pytest.raises(UserError, match=said) as caught:
        Reg4RecConfig(model, dataset, files, settings, {name: str(value) for name, value in command_line.items()})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_precedence(properties, tmp_path):
    names = [f"level_{n}" for n in range(7)]

    def page(path, level):
        path.write_text("".join(f"{name}: {level}\n" for name in names[level:]))
        return str(path)

    page(properties / "overall.yaml", 0)
    page(properties / "model" / "SASRec.yaml", 1)
    page(properties / "dataset" / "some.yaml", 2)
    files = [page(tmp_path / "a.yaml", 3), page(tmp_path / "b.yaml", 4)]
    config = Reg4RecConfig(SASRec, "some", files, dict.fromkeys(names[5:], 5), {names[6]: "6"})
    assert [config[name] for name in names] == list(range(7))


def test_our_files_win_over_recboles_and_lose_to_the_user(properties):
    (properties / "overall.yaml").write_text("epochs: 7\nstopping_step: 3\n")
    config = make(stopping_step=4)
    assert (config["epochs"], config["stopping_step"], config["eval_step"]) == (7, 4, 1)


def test_inherited_property_files(properties):
    whole = type("Whole", (SASRec,), {})
    assert make(whole)["n_layers"] == 2
    (properties / "model" / "SASRec.yaml").write_text("n_layers: 3\nn_heads: 1\n")
    (properties / "model" / "Whole.yaml").write_text("n_layers: 4\n")
    config = make(whole)
    assert (config["model"], config["n_layers"], config["n_heads"], config["hidden_size"]) == ("Whole", 4, 1, 64)


def test_no_property_files_at_all(properties, monkeypatch):
    from recbole_reg4rec.config import settings

    monkeypatch.setattr(settings, "properties_dir", lambda: properties / "missing")
    assert make()["hidden_size"] == 64


def test_model_by_name():
    config = make("GRU4Rec", epochs=2)
    assert config.model_class is GRU4Rec and config["model"] == "GRU4Rec" and config["num_layers"] == 1
    assert config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    refused("no model `sasrec`; did you mean SASRec", model="sasrec")
    refused("no model `Qqqqq`", model="Qqqqq")


@pytest.mark.parametrize("dataset", ["", "a/b", "../ml-100k", ".."])
def test_dataset_must_be_a_name(dataset):
    refused("data set", dataset=dataset)


def test_sys_argv_is_never_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=77", "--nonsense=1", "stray"])
    assert make()["epochs"] == 300
    assert "nonsense" not in make()


def test_nothing_is_evaluated(tmp_path):
    trap = "__import__('os').environ.setdefault('REG4REC_TRAP', '1')"
    (tmp_path / "a.yaml").write_text(f'wandb_project: "{trap}"\n')
    for config in (
        make(wandb_project=trap),
        Reg4RecConfig(SASRec, "some", None, {"wandb_project": trap}),
        Reg4RecConfig(SASRec, "some", [str(tmp_path / "a.yaml")]),
    ):
        assert config["wandb_project"] == trap
    assert "REG4REC_TRAP" not in os.environ


def test_command_line_text_becomes_values():
    config = make(
        learning_rate="1e-2", use_gpu="false", topk="[5,10]", transform="None", user_inter_num_interval="[5,inf)"
    )
    assert (config["learning_rate"], config["use_gpu"], config["topk"]) == (0.01, False, [5, 10])
    assert config["transform"] is None
    assert config["user_inter_num_interval"] == "[5,inf)"
    # An interval that is also a list stays the text that RecBole parses.
    assert make(user_inter_num_interval="[5,10]")["user_inter_num_interval"] == "[5,10]"


def test_dictionary_is_not_changed_and_texts_stay():
    given = {"eval_args": {"mode": "uni5"}, "wandb_project": "12"}
    config = Reg4RecConfig(SASRec, "some", None, given)
    assert given == {"eval_args": {"mode": "uni5"}, "wandb_project": "12"}
    assert config["wandb_project"] == "12"


def test_unknown_settings_are_refused_with_their_place(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epoch: 3\n")
    assert f"in {path}" in refused("`epoch`.*did you mean `epochs`", files=[str(path)])
    refused("`epoch` .in the dictionary.*`epochs`", settings={"epoch": 3})
    refused("`epoch` .on the command line.*`epochs`", epoch=3)
    refused("`num_layers`", num_layers=3)  # GRU4Rec's, not SASRec's
    assert make(GRU4Rec, num_layers=3)["num_layers"] == 3
    refused("`oder`.*eval_args.*`order`", eval_args="{'oder': 'TO'}")
    refused("`sample_nums`.*`sample_num`", FPMC, train_neg_sample_args="{sample_nums: 2}")


def test_rules_of_our_own_settings(properties):
    (properties / "model" / "SASRec.yaml").write_text("history: fused # (str) in [fused, flat] How.\n")
    assert make(history="flat")["history"] == "flat"
    assert "fused, flat" in refused("`history` is 'flatt'", history="flatt")


def test_rules_of_recboles_settings(tmp_path):
    refused("`epochs` is 'ten'.*whole number", epochs="ten")
    refused("`use_gpu`.*True or False", use_gpu="maybe")
    (tmp_path / "a.yaml").write_text("user_inter_num_interval: [5, 10]\n")
    refused("`user_inter_num_interval`.*text", files=[str(tmp_path / "a.yaml")])


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("topk", "0", "topk must be a positive"),
        ("topk", "ten", "topk"),
        ("topk", "[]", "`topk` is .*at least one"),
        ("metrics", "[]", "`metrics` is .*at least one"),
        ("loss_type", "XX", "`loss_type` is 'XX'.*BPR, CE"),
        ("hidden_act", "foo", "`hidden_act` is 'foo'.*gelu"),
        ("n_layers", "0", "`n_layers` is 0.*>= 1"),
        ("clip_grad_norm", "{maxnorm: 1}", "`maxnorm`.*`max_norm`"),
        ("metrics", "[Recal]", "no metric named 'Recal'"),
        ("metrics", "[Recall, AUC]", "can not be used at the same time"),
        ("repeatable", "False", "repeatable"),
        ("eval_args", "5", "eval_args"),
        ("eval_args", "{mode: everything}", "everything"),
        ("train_neg_sample_args", "{distribution: uniform}", "should be None when the loss_type is CE"),
        ("valid_metric", "NDCG@7", "`valid_metric` is 'NDCG@7'.*`topk`"),
        ("valid_metric", "ndgc@10", "`valid_metric`"),
        ("save_dataset", "True", "no pickled data"),
        ("dataset_save_path", "x.pth", "no pickled data"),
        ("nproc", "2", "several processes"),
        ("device", "cuda", "`gpu_id`"),
    ],
)
def test_refused_as_one_sentence(setting, value, said):
    refused(said, **{setting: value})


def test_valid_metric_in_any_case_and_for_value_metrics():
    assert make(valid_metric="recall@5", topk="[5]")["topk"] == [5]
    config = make(metrics="[AUC]", valid_metric="AUC", eval_args="{mode: labeled}")
    assert config["valid_metric"] == "AUC"


def test_missing_or_broken_config_file(tmp_path):
    refused("none.yaml does not exist", files=[str(tmp_path / "none.yaml")])
    (tmp_path / "a.yaml").write_text("a: [1\n")
    refused("a.yaml line", files=[str(tmp_path / "a.yaml")])


def test_cross_entropy_needs_no_negatives_unless_asked():
    assert make(SASRec)["train_neg_sample_args"]["distribution"] == "none"
    assert make(SASRec, loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"
    assert make(FPMC)["train_neg_sample_args"]["distribution"] == "uniform"


def test_whole_sequence_models_need_no_negatives():
    whole = type("Whole", (SASRec,), {"whole_sequence": True})
    assert make(whole, loss_type="BPR")["train_neg_sample_args"]["distribution"] == "none"


def test_the_packages_own_files_leave_negatives_to_models_that_need_them(monkeypatch):
    from recbole_reg4rec.config import settings

    monkeypatch.undo()  # the property files that ship
    assert settings.properties_dir().name == "properties"
    assert make(FPMC)["train_neg_sample_args"]["distribution"] == "uniform"
    assert make(SASRec, loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"


def test_a_data_sets_file_does_not_narrow_a_rule(properties):
    (properties / "overall.yaml").write_text("column: auto # (str or None) Column.\n")
    (properties / "dataset" / "some.yaml").write_text("column: genre # (str) Column.\nother: 1 # (int) Other.\n")
    assert make()["column"] == "genre"
    assert make(column="None")["column"] is None
    refused("`other`.*whole number", other="x")


def test_eval_args_keep_what_the_user_does_not_name():
    eval_args = make(eval_args="{mode: uni5}")["eval_args"]
    assert eval_args["split"] == {"LS": "valid_and_test"}
    assert eval_args["order"] == "TO"
    assert eval_args["mode"] == {"valid": "uni5", "test": "uni5"}


def test_device_is_the_cpu_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make(gpu_id="3")
    assert config["device"] == torch.device("cpu")
    assert (config["single_spec"], config["local_rank"]) == (True, 0)


@pytest.mark.parametrize(
    ("settings", "device"),
    [
        ({}, "cuda:0"),
        ({"gpu_id": "1"}, "cuda:1"),
        ({"gpu_id": 1}, "cuda:1"),
        ({"gpu_id": "1,0"}, "cuda:1"),
        ({"gpu_id": [1, 0]}, "cuda:1"),
        ({"use_gpu": False}, "cpu"),
        ({"use_gpu": False, "gpu_id": "9"}, "cpu"),
    ],
)
def test_device_with_two_gpus(monkeypatch, settings, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    assert Reg4RecConfig(SASRec, "some", None, settings)["device"] == torch.device(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,6"


def test_batches_of_evaluation_go_by_the_device_where_they_are_auto(properties, monkeypatch):
    comment = "(int or str) in [auto] >= 1 Users."
    (properties / "model" / "SASRec.yaml").write_text(f"eval_batch_size: auto  # {comment}\n")

    def users(**settings):
        return Reg4RecConfig(SASRec, "some", None, settings)["eval_batch_size"]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (users(), users(eval_batch_size=7)) == (96, 7)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert (users(), users(eval_batch_size=7), users(use_gpu=False)) == (256, 7, 96)


@pytest.mark.parametrize("gpu_id", ["2", "", "first", "-1"])
def test_a_gpu_that_is_not_there(monkeypatch, gpu_id):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refused("`gpu_id`.*0 to 1.*`use_gpu`", gpu_id=gpu_id)


def test_ml_100k_comes_from_recbole_unless_the_user_has_it(tmp_path):
    bundled = make(dataset="ml-100k", data_path=tmp_path)["data_path"]
    assert bundled.endswith(os.path.join("recbole", "dataset_example", "ml-100k"))
    assert os.path.isfile(os.path.join(bundled, "ml-100k.inter"))
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "ml-100k.inter").write_text("")
    assert make(dataset="ml-100k", data_path=tmp_path)["data_path"] == str(tmp_path / "ml-100k")


def test_data_path_of_any_other_data_set(tmp_path):
    assert make(data_path=tmp_path)["data_path"] == str(tmp_path / "some")
    assert make()["data_path"] == os.path.join("dataset", "some")
    refused("data_path", data_path="None")


def test_shared_state_is_left_alone():
    before = {name: list(getattr(argument_list, name)) for name in dir(argument_list) if name.endswith("_arguments")}
    full = yaml.FullLoader.yaml_implicit_resolvers
    counts = {first: len(pairs) for first, pairs in full.items()}
    make(GRU4Rec, dataset="ml-100k")
    assert before == {name: getattr(argument_list, name) for name in before}
    assert counts == {first: len(pairs) for first, pairs in full.items()}


def test_numpy_aliases_only_where_missing(monkeypatch):
    mark = object()
    monkeypatch.setitem(vars(np), "float", mark)
    monkeypatch.delitem(vars(np), "int", raising=False)
    make()
    assert vars(np)["float"] is mark
    assert vars(np)["int"] is np.int_


def test_is_recboles_config_with_its_printing():
    config = make(epochs=3)
    assert isinstance(config, Config)
    assert "epochs" in str(config) and "Training Hyper Parameters" in str(config)


def test_resolved_settings_are_plain(monkeypatch):
    config = make(topk="(5, 10)")
    config["odd"] = {"t": (1, np.float32(2)), 3: torch.device("cpu"), "s": {"b", "a"}, "k": SASRec}
    plain = resolved_settings(config)
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["device"], plain["MODEL_TYPE"], plain["eval_type"]) == ("cpu", "SEQUENTIAL", "RANKING")
    assert plain["odd"]["t"] == [1, 2.0] and plain["odd"]["3"] == "cpu" and plain["odd"]["s"] == ["a", "b"]


def test_resolved_settings_of_two_equal_runs_are_equal():
    assert resolved_settings(make(epochs=3)) == resolved_settings(make(epochs=3))
    assert resolved_settings(make(epochs=3)) != resolved_settings(make(epochs=4))


def test_recboles_internal_errors_keep_their_cause(monkeypatch):
    def fail(*_):
        raise KeyError("two\n lines.")

    monkeypatch.setattr(config_module.Config, "_set_train_neg_sample_args", fail)
    assert refused("fit together: two lines$").count("'") == 0


def test_what_suits_one_model_on_a_data_set_is_its_own(properties):
    (properties / "dataset" / "toy.yaml").write_text("hidden_dropout_prob: 0.3  # (float) Of all models.\n")
    (properties / "dataset" / "toy.SASRec.yaml").write_text("hidden_dropout_prob: 0.2  # (float) Of one.\n")
    assert Reg4RecConfig(SASRec, "toy")["hidden_dropout_prob"] == 0.2
    assert Reg4RecConfig(SASRecWhole, "toy")["hidden_dropout_prob"] == 0.2, "built on it"
    assert Reg4RecConfig(GRU4Rec, "toy")["hidden_dropout_prob"] == 0.3
    assert Reg4RecConfig(SASRec, "other")["hidden_dropout_prob"] == 0.5
    assert Reg4RecConfig(SASRec, "toy", config_dict={"hidden_dropout_prob": 0.1})["hidden_dropout_prob"] == 0.1


def test_a_setting_of_one_model_on_a_data_set_is_unknown_to_others(properties):
    (properties / "dataset" / "toy.SASRec.yaml").write_text("inner_size: 32  # (int) Of one.\n")
    with pytest.raises(UserError, match="inner_size"):
        Reg4RecConfig(GRU4Rec, "toy", config_dict={"inner_size": 8})


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("seed", "-1", "`seed` is -1.*range"),
        ("seed", "4294967296", "`seed` is 4294967296.*range"),
        ("MAX_ITEM_LIST_LENGTH", "0", "`MAX_ITEM_LIST_LENGTH` is 0.*>= 1"),
        ("clip_grad_norm", "1", "`clip_grad_norm` is 1.*a dictionary or None"),
        ("learner", "sparse_adam", "`learner` is 'sparse_adam'"),
    ],
)
def test_what_would_fail_later_is_refused_by_the_files_that_ship(monkeypatch, setting, value, said):
    monkeypatch.undo()  # the property files that ship
    refused(said, **{setting: value})


_OFF = {"item_path": False, "memory": False, "repeat": False}


@pytest.fixture
def _with_reason_only(properties):
    """A model of four switches, and a data set on which it takes other epochs where reasoning is alone."""
    (properties / "model" / "SASRec.yaml").write_text(
        "".join(f"{name}: True  # (bool) A switch.\n" for name in _OFF) + "epochs: 20  # (int) >= 0 Passes.\n"
    )
    file = properties / "dataset" / "toy.SASRec.yaml"
    file.write_text("epochs: 6  # (int) Passes.\nreason_only: {epochs: 18}  # (dict) Of the paper's model.\n")
    return file


@pytest.mark.usefixtures("_with_reason_only")
def test_the_papers_model_may_have_settings_of_its_own():
    def epochs(**settings):
        config = Reg4RecConfig(SASRec, "toy", config_dict=settings)
        assert "reason_only" not in config.final_config_dict, "it is no setting of the run"
        return config["epochs"]

    assert epochs() == 6
    assert epochs(**_OFF) == 18
    assert [epochs(**{**_OFF, name: True}) for name in _OFF] == [6, 6, 6]
    assert epochs(**_OFF, epochs=3) == 3, "what the user gives wins"
    assert make(dataset="toy", **_OFF)["epochs"] == 18, "from the command line too"
    assert make(dataset="other", **_OFF)["epochs"] == 20


@pytest.mark.usefixtures("_with_reason_only")
def test_reason_only_is_for_property_files():
    refused("`reason_only`.*cannot be chosen.*properties/dataset", dataset="toy", reason_only="{'epochs': 1}")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{epoch: 1}", "unknown setting `epoch`.*reason_only"), ("{epochs: -1}", "`epochs` is -1.*reason_only.*>= 0")],
)
def test_reason_only_obeys_the_rules_of_settings(_with_reason_only, text, said):
    _with_reason_only.write_text(f"reason_only: {text}  # (dict) Of the paper's model.\n")
    refused(said, dataset="toy")
