from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from recbole_reg4rec.study.leaderboard import locks
from recbole_reg4rec.study.leaderboard.locks import CellLock, folder_time


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cell.lock"


def foreign(path, age, **owner):
    """A lock of another machine, untouched for ``age`` seconds."""
    path.write_text(json.dumps({"token": "theirs", "place": "elsewhere", "process": 1, "started": 0.0, **owner}))
    now = folder_time(path.parent)
    os.utime(path, (now - age, now - age))


def test_one_at_a_time(path):
    first, second = CellLock(path), CellLock(path)
    assert first.acquire() and not second.acquire() and first.is_taken() and second.is_taken()
    second.release()
    assert path.exists(), "only the owner gives it back"
    first.release()
    assert not path.exists() and CellLock(path).acquire()


def test_the_living_are_not_robbed_the_silent_are(path):
    foreign(path, age=290)
    assert not CellLock(path).acquire()
    foreign(path, age=310)
    assert CellLock(path).acquire() and json.loads(path.read_text())["token"] != "theirs"


def test_an_owner_that_ended_here_is_known_to_be_gone_at_once(path):
    code = "import os; from recbole_reg4rec.study.leaderboard.locks import CellLock; from pathlib import Path\n"
    code += f"assert CellLock(Path({str(path)!r})).acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.exists()
    assert CellLock(path).acquire()


def test_a_living_owner_here_is_kept(path):
    foreign(path, age=0, **locks._owner())
    assert not CellLock(path).acquire()
    foreign(path, age=0, **{**locks._owner(), "started": 5.0})
    assert CellLock(path).acquire(), "the number belongs to another process now"


def test_a_lock_cut_short_waits_until_it_is_stale(path):
    path.write_text("")
    assert not CellLock(path).acquire()
    foreign(path, age=310)
    path.write_text("{")
    os.utime(path, (0, 0))
    assert CellLock(path).acquire()


def test_only_one_takes_an_abandoned_lock_over(path):
    for _ in range(20):
        foreign(path, age=1000)
        contenders = [CellLock(path) for _ in range(8)]
        barrier, won = threading.Barrier(8), []

        def contend(lock, barrier=barrier, won=won):
            barrier.wait()
            if lock.acquire():
                won.append(lock)

        threads = [threading.Thread(target=contend, args=(lock,)) for lock in contenders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) <= 1
        if not won:  # the guard was seen by all but its owner, who was too late: the next round gets it
            assert CellLock(path).acquire()
        for lock in won:
            lock.release()
        path.unlink(missing_ok=True)


def test_the_owner_touches_it_and_notices_when_it_is_lost(path):
    lock = CellLock(path, beat=0.02)
    assert lock.acquire()
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 5
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 0
    foreign(path, age=0)
    while not lock.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lock.lost
    lock.release()
    assert json.loads(path.read_text())["token"] == "theirs"
