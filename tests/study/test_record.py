import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.record import check_results_dir, peak_memory_mb, portable_settings, write_record


def test_plain_json_whatever_comes_in(tmp_path):
    value = {
        "score": float("-inf"),
        "nested": [{"nan": float("nan")}, (1, 2.5)],
        "numpy": np.float64(0.25),
        "path": tmp_path,
        "flag": True,
        "none": None,
        3: "Ünïcode",
    }
    path = write_record(tmp_path, "run", value)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {
        "score": None,
        "nested": [{"nan": None}, [1, 2.5]],
        "numpy": 0.25,
        "path": str(tmp_path),
        "flag": True,
        "none": None,
        "3": "Ünïcode",
    }
    assert "NaN" not in text and "Infinity" not in text and "Ünïcode" in text


def test_every_record_has_a_file_of_its_own(tmp_path):
    paths = [write_record(tmp_path, "run", {"number": number}) for number in range(3)]
    assert [json.loads(path.read_text())["number"] for path in paths] == [0, 1, 2]
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in paths)
    assert all(re.fullmatch(r"run-\d{8}-\d{6}(-\d+)?\.json", path.name) for path in paths)


def test_runs_that_end_together_get_a_record_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda number: write_record(tmp_path, "run", {"number": number}), range(40)))
    assert [json.loads(path.read_text())["number"] for path in paths] == list(range(40))
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in paths)


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, "run", {})
    assert os.listdir(tmp_path) == []


def test_a_folder_that_vanished_is_made_again_so_that_no_run_is_lost(tmp_path):
    assert write_record(tmp_path / "gone", "run", {}).is_file()


def test_a_folder_that_cannot_be_written_any_more(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--results_dir"):
        write_record(tmp_path / "file", "run", {})


def test_the_folder_is_made_and_proved(tmp_path):
    assert check_results_dir(tmp_path / "a" / "b") == tmp_path / "a" / "b" / "runs"
    assert os.listdir(tmp_path / "a" / "b" / "runs") == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written.*--results_dir"):
            check_results_dir(folder)


def test_peak_memory_is_this_process_in_megabytes():
    before = peak_memory_mb()
    block = np.ones(2**27, dtype=np.uint8)  # 128 MB
    assert 10 < before <= peak_memory_mb() < 100_000 and peak_memory_mb() > 128
    assert block[-1] == 1


def test_peak_memory_is_not_that_of_the_parent():
    block = np.ones(900 * 2**20, dtype=np.uint8)
    code = "from recbole_reg4rec.study.record import peak_memory_mb; print(peak_memory_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_memory_mb() > 900 and float(child.stdout) < 800
    assert block[-1] == 1


def test_settings_of_a_record_name_no_place_of_this_machine():
    settings = {"data_path": "/home/me/data", "checkpoint_dir": "saved", "tokenizer_cache": None, "epochs": 3}
    assert portable_settings(settings) == {"epochs": 3}
