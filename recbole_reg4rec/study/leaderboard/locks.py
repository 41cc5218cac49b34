"""Locks that several processes or machines share through a folder, without a server.

A lock is a file made with ``O_EXCL``, which is atomic on local disks and on NFS. Its owner touches it every few
seconds. A lock whose owner is known to be dead, or that nobody has touched for long, may be taken over. Ages are
differences of the folder's own clock, so that clocks of machines need not agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

BEAT_SECONDS = 15.0
STALE_SECONDS = 300.0


def folder_time(folder: Path) -> float:
    """What the clock of the folder's file system says now, in seconds."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b".")
        probe.flush()
        os.fsync(probe.fileno())
        return os.fstat(probe.fileno()).st_mtime


class CellLock:
    """The right to work on one cell; a context manager that gives it back.

    Args:
        path: the lock's file.
        stale: seconds without a touch after which anybody may take it.
        beat: seconds between touches.

    Attributes:
        lost: set when somebody else has taken the lock over, after this process was stopped for long, say.
    """

    def __init__(self, path: Path, stale: float = STALE_SECONDS, beat: float = BEAT_SECONDS) -> None:
        self.path, self._stale, self._beat = path, stale, beat
        self._token = uuid.uuid4().hex
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = False

    def acquire(self) -> bool:
        """Takes the lock if it is free or its owner is gone; False where somebody else works."""
        if not self._create() and not (self._is_abandoned() and self._take_over()):
            return False
        self._thread = threading.Thread(target=self._touch, name=f"lock {self.path.name}", daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Gives the lock back, unless it was lost."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if self._read().get("token") == self._token:
            self.path.unlink(missing_ok=True)

    def is_taken(self) -> bool:
        """Whether somebody who is alive holds it."""
        return self.path.exists() and not self._is_abandoned()

    def __enter__(self) -> CellLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"token": self._token, **_owner()}, file)
        return True

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # gone, or not written to its end yet
            return {}
        return content if isinstance(content, dict) else {}

    def _is_abandoned(self) -> bool:
        try:
            touched = self.path.stat().st_mtime
        except OSError:  # given back in between: try again
            return False
        owner = self._read()
        if owner.get("place") == _place() and not _is_alive(owner):
            return True
        return folder_time(self.path.parent) - touched > self._stale

    def _take_over(self) -> bool:
        """One at a time, and only if the lock is abandoned still: another may have been quicker."""
        guard = self.path.with_suffix(".takeover")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            # Held for milliseconds; an old one is left from a process that was killed just then.
            with contextlib.suppress(OSError):
                if folder_time(guard.parent) - guard.stat().st_mtime > self._stale:
                    guard.unlink()
            return False
        try:
            if not self._is_abandoned():
                return False
            self.path.unlink(missing_ok=True)
            return self._create()
        finally:
            guard.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._end.wait(self._beat):
            found = self._read()
            if found.get("token") != self._token:
                self.lost = bool(found) or not self.path.exists()
                if self.lost:
                    return
                continue
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _place() -> str:
    """Names the set of processes whose numbers can be looked up here: machine, boot and process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return " ".join(parts)


def _owner() -> dict[str, Any]:
    return {"place": _place(), "process": os.getpid(), "started": psutil.Process().create_time()}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process that wrote the lock runs; a later process of the same number is another."""
    try:
        process = psutil.Process(int(owner["process"]))
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return not zombie and abs(process.create_time() - float(owner["started"])) < 1.0
    except psutil.NoSuchProcess:
        return False
    except (KeyError, TypeError, ValueError, psutil.Error):
        return True
