"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import filelock


@contextmanager
def whole_file(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Opens a part file beside ``path`` that takes its name only when the block ends well; folders are made.

    A part file left by a killed process of the same number, on the same machine, is overwritten.

    Raises:
        OSError: the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        with open(part, mode, **options) as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path, keep: bool = False, wait: bool = True) -> Iterator[None]:
    """Lets one process at a time into the block: the others wait or are turned away. The lock dies with its process.

    Where the file system has no locks, everybody is let in.

    Args:
        path: the lock's own file.
        keep: leave the file. Without it, who has waited may meet who comes later: it must look first whether the
            work is done.
        wait: for who is inside; otherwise they are turned away.

    Raises:
        filelock.Timeout: turned away.
    """
    lock = filelock.FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        if not keep:
            # Before the release: who comes later makes a new file, who waits has this one; both find the work done.
            with suppress(OSError):
                path.unlink()
        lock.release()


def check_writable(folder: Path) -> None:
    """Makes a folder and proves that files can be written there.

    Raises:
        OSError: they cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
