"""Free memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

CODE = """
import torch
from recbole_reg4rec.trainer.heap import release_free_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4 // 1024

kept = []
before = resident()
for _ in range(2000):  # a small array that stays behind every large one that goes
    large = torch.ones(25_000)
    kept.append(torch.ones(16))
    large2 = [torch.ones(25_000) for _ in range(2)]
blocks = [torch.ones(25_000) for _ in range(2000)]
kept += [torch.ones(16) for _ in range(4)]
full = resident()
del blocks, large, large2
release_free_memory()
print(full - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there the heap is trimmed")
def test_free_memory_goes_back() -> None:
    printed = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    full, left = map(int, printed.split())
    assert full > 150 and left < full / 3


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_reg4rec.trainer import heap

    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap.release_free_memory()
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("looked for a C library"))
    heap.release_free_memory()


def test_memory_is_given_back_by_what_has_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_reg4rec.trainer import heap

    given = []
    monkeypatch.setattr(heap, "_EVERY", 1000)
    monkeypatch.setattr(heap, "release_free_memory", lambda: given.append(True))
    memory = heap.ReleasesFreeMemory()
    for batch in range(1, 11):
        memory.passed(torch.zeros(10, 10))  # 400 bytes
        assert len(given) == batch // 3
    memory.passed(torch.zeros(500, dtype=torch.float64))
    assert len(given) == 4
