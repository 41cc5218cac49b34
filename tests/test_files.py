"""Files are there whole or not at all, and others may read them."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import filelock
import pytest

from recbole_reg4rec import files
from recbole_reg4rec.files import check_writable, exclusive, whole_file


def test_the_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with whole_file(path, "w", encoding="utf-8") as file:
        file.write("é")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "é"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"old")
    with pytest.raises(error), whole_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b"]


def test_machines_that_share_a_folder_do_not_write_into_each_others_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers often give their processes the same numbers."""
    path = tmp_path / "b"
    with whole_file(path) as file:
        file.write(b"first")
        monkeypatch.setattr(files.platform, "node", lambda: "another")
        with whole_file(path) as other:
            other.write(b"second, which is longer")
        assert path.read_bytes() == b"second, which is longer"
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["b"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    with whole_file(tmp_path / "ours") as file:
        file.write(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "ours")}
    assert len(modes) == 1


def test_what_cannot_be_written_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for use in (lambda: check_writable(tmp_path / "file"), lambda: whole_file(tmp_path / "file" / "x").__enter__()):
        with pytest.raises(OSError):
            use()
    check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []


@pytest.mark.parametrize("keep", [False, True])
def test_one_at_a_time(tmp_path: Path, keep: bool) -> None:
    inside, most, start = [0], [0], threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(5):
            with exclusive(tmp_path / "a.lock", keep=True):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    with exclusive(tmp_path / "a.lock", keep=keep):
        pass
    assert (tmp_path / "a.lock").exists() == keep


def test_who_does_not_wait_is_turned_away(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with exclusive(lock, keep=True), pytest.raises(filelock.Timeout), exclusive(lock, keep=True, wait=False):
        raise AssertionError("two are inside")
    with exclusive(lock, keep=True, wait=False):
        assert lock.exists()


def test_a_lock_ends_with_its_block_however_that_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a.lock"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "a.lock"):
        assert (tmp_path / "a.lock").exists()
