import datetime
import io
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.trainer import checkpoint
from recbole_reg4rec.trainer.checkpoint import (
    check_checkpoint_path,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
    settings_hash,
)

SETTINGS = {
    "learning_rate": 0.001,
    "hidden_size": 16,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"},
    "metrics": ["Recall"],
    "none": None,
}


def state(**more):
    return {
        "model": "REG4Rec",
        "settings": SETTINGS,
        "state_dict": {"weight": torch.arange(6.0).view(2, 3)},
        "epochs_log": [{"epoch": 0, "loss": (0.5, 0.25), "valid": {"recall@5": 0.1}}],
        **more,
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "folder" / "best.pth"
    save_checkpoint(path, state())
    return path


def test_round_trip_without_pickled_classes(saved):
    raw = torch.load(saved, weights_only=True)
    found = load_checkpoint(saved, "REG4Rec", SETTINGS)
    for loaded in (raw, found):
        assert torch.equal(loaded["state_dict"]["weight"], torch.arange(6.0).view(2, 3))
        assert loaded["epochs_log"] == [{"epoch": 0, "loss": (0.5, 0.25), "valid": {"recall@5": 0.1}}]
        assert loaded["settings"] == SETTINGS
    assert os.listdir(saved.parent) == ["best.pth"]


def test_random_state_is_restored_exactly(tmp_path):
    def draw():
        return [torch.rand(3).tolist(), torch.randn(1).item(), np.random.rand(3).tolist(), np.random.randn()] + [
            random.random(),
            random.gauss(0, 1),
        ]

    kept = random_state()
    try:
        # An odd number of normal draws leaves a spare one in numpy's and Python's state.
        torch.manual_seed(3), np.random.seed(3), random.seed(3), np.random.randn(), random.gauss(0, 1)
        save_checkpoint(tmp_path / "c.pth", state(random=random_state()))
        expected = draw()
        torch.manual_seed(4), np.random.seed(4), random.seed(4)
        assert draw() != expected
        set_random_state(load_checkpoint(tmp_path / "c.pth", "REG4Rec", SETTINGS)["random"])
        assert draw() == expected
    finally:
        set_random_state(kept)


def plain_zip():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    return data.getvalue()


def saved_bytes(value):
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


FOREIGN = {
    "random bytes": random.Random(0).randbytes(500),
    "text": b"user_id:token\titem_id:token\n",
    "empty file": b"",
    "tensor": saved_bytes(torch.zeros(3)),
    "other dictionary": saved_bytes({"state_dict": {}, "epoch": 3}),
    "object in torch's format": saved_bytes({"config": datetime.timedelta(3)}),
    "plain pickle": pickle.dumps({"format": checkpoint.FORMAT, "model": "REG4Rec"}),
    "pickle of an object": pickle.dumps(datetime.timedelta(3)),
    "zip": plain_zip(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused(tmp_path, kind):
    path = tmp_path / "foreign.pth"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(UserError, match="foreign.pth"):
        load_checkpoint(path, "REG4Rec", SETTINGS)


def test_a_pickle_is_never_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    for name, data in (("plain", pickle.dumps(Evil())), ("torch", saved_bytes({"format": Evil()}))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError):
            load_checkpoint(tmp_path / name, "REG4Rec", SETTINGS)
    assert not (tmp_path / "executed").exists()


def test_damaged_files_are_refused_or_whole(tmp_path, saved):
    data, path = saved.read_bytes(), tmp_path / "damaged.pth"
    generator, refused = random.Random(1), 0
    for attempt in range(300):
        broken = bytearray(data)
        if attempt % 3:
            broken[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        else:
            del broken[generator.randrange(len(data)) :]
        path.write_bytes(bytes(broken))
        try:
            found = load_checkpoint(path, "REG4Rec", SETTINGS)
        except UserError:
            refused += 1
        else:  # a bit of padding between the parts
            assert torch.equal(found.pop("state_dict")["weight"], torch.arange(6.0).view(2, 3))
            found.pop("format")
            assert found == {key: value for key, value in state().items() if key != "state_dict"}
    assert refused > 150


def test_a_damaged_pickle_is_refused_whatever_torch_raises(tmp_path, saved):
    """Checksums set right again, so that torch gets to read it."""
    with zipfile.ZipFile(saved) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in content if name.endswith("data.pkl"))
    for cut in range(0, len(content[pickled]) - 1, 7):
        path = tmp_path / "damaged.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data[cut:] if name == pickled else data)
        if cut:
            with pytest.raises(UserError):
                load_checkpoint(path, "REG4Rec", SETTINGS)
        else:
            load_checkpoint(path, "REG4Rec", SETTINGS)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "folder"])
def test_missing_file_or_folder(tmp_path, make):
    make(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="nothing.pth"):
        load_checkpoint(tmp_path / "nothing.pth", "REG4Rec", SETTINGS)


def test_other_model_names_both(saved):
    with pytest.raises(UserError, match="REG4Rec.*SASRec"):
        load_checkpoint(saved, "SASRec", SETTINGS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 32}, "hidden_size=16.*hidden_size=32"),
        ({"eval_args": {"split": {"LS": "test_only"}, "order": "TO"}}, "eval_args"),
        ({"new_setting": 1}, "new_setting=None.*new_setting=1"),
    ],
)
def test_other_configuration_names_the_setting(saved, change, said):
    with pytest.raises(UserError, match=said):
        load_checkpoint(saved, "REG4Rec", {**SETTINGS, **change})
    assert settings_hash({**SETTINGS, **change}) != settings_hash(SETTINGS)


@pytest.mark.parametrize("setting", ["epochs", "stopping_step", "eval_batch_size", "topk", "show_progress"])
def test_free_settings_may_differ(saved, setting):
    load_checkpoint(saved, "REG4Rec", {**SETTINGS, setting: 77})
    assert settings_hash({**SETTINGS, setting: 77}) == settings_hash(SETTINGS)


def test_the_order_of_settings_does_not_matter(saved):
    turned = dict(reversed(SETTINGS.items()))
    load_checkpoint(saved, "REG4Rec", turned)
    assert settings_hash(turned) == settings_hash(SETTINGS)


@pytest.mark.parametrize("where", ["save", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(saved, monkeypatch, where):
    before = saved.read_bytes()

    def interrupt(*arguments):
        if where == "save":
            arguments[1].write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(*((torch, "save") if where == "save" else (os, "replace")), interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, state(epoch=2))
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["best.pth"]


@pytest.mark.parametrize("write", [lambda path: save_checkpoint(path, state()), check_checkpoint_path])
def test_unwritable_folder(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "best.pth")


def test_a_folder_in_the_place_of_the_file(tmp_path):
    with pytest.raises(UserError, match="folder"):
        check_checkpoint_path(tmp_path)
    check_checkpoint_path(tmp_path / "new" / "best.pth")
    assert (tmp_path / "new").is_dir() and not os.listdir(tmp_path / "new")


def test_mixed_precision_tells_runs_apart_where_there_is_any() -> None:
    def name(device: str, amp: bool) -> str:
        return settings_hash({"device": device, "enable_amp": amp, "seed": 1})

    assert name("cpu", True) == name("cpu", False) == name("cuda:0", False) != name("cuda:0", True)


class OnGpu:
    """A tensor as it is read back on a GPU: nothing can be done with it before it is brought here."""

    def __init__(self, tensor):
        self._tensor = tensor

    def cpu(self):
        return self._tensor


def test_the_state_of_randomness_is_the_same_when_read_back_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state = random_state()
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    name, keys, *more = state["numpy"]
    set_random_state({**state, "torch": OnGpu(state["torch"]), "numpy": [name, OnGpu(keys), *more]})
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == expected
