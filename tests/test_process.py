"""Threads beside other programs: when they are told to sleep while they wait; and large pages of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_reg4rec.process import use_huge_pages, wait_without_spinning

ROOT = Path(__file__).resolve().parents[1]


def say(code, environment):
    """What a new process prints that runs this code in this environment."""
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "environment, busy, wanted",
    [
        ({}, 0.1, None),
        ({}, 0.9, "passive"),
        ({"OMP_NUM_THREADS": "2"}, 3.0, "passive"),
        ({"OMP_NUM_THREADS": "1"}, 3.0, None),
        ({"OMP_WAIT_POLICY": "active"}, 3.0, "active"),
        ({"GOMP_SPINCOUNT": "500"}, 3.0, None),
    ],
)
def test_threads_sleep_beside_others_unless_the_user_has_decided(environment, busy, wanted):
    changed = wait_without_spinning(environment, busy)
    assert environment.get("OMP_WAIT_POLICY") == wanted and changed == (wanted == "passive")


def test_a_process_beside_a_busy_program_is_set_up_for_it():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = (
        "from recbole_reg4rec.process import look_around, process_setup\n"
        "look_around(); print(process_setup()['waiting'])"
    )
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        answers = [say(code, environment), say(code, {**environment, "OMP_NUM_THREADS": "1"})]
    finally:
        busy.kill()
        busy.wait()
    assert answers == ["passive", "default"]


@pytest.mark.parametrize(("said", "wanted"), [({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")])
def test_large_pages_are_asked_for_unless_the_user_has_decided(said, wanted):
    environment = dict(said)
    use_huge_pages(environment)
    assert environment == {"THP_MEM_ALLOC_ENABLE": wanted}


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="this system has no large pages to ask for"
)
def test_torch_asks_for_large_pages():
    code = (
        "import os; from recbole_reg4rec.process import use_huge_pages; use_huge_pages(os.environ)\n"
        "import torch; table = torch.ones(64, 1 << 16)\n"
        "print(any('hg' in line.split() for line in open('/proc/self/smaps') if line.startswith('VmFlags')))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    assert say(code, environment) == "True"
    assert say(code, {**environment, "THP_MEM_ALLOC_ENABLE": "0"}) == "False"
