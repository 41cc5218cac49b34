"""Gives memory that is free back to the system, where the C library keeps it."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def release_free_memory() -> None:
    """Has glibc hand back free pages of its heap; nothing elsewhere.

    Batches of ever other shapes leave holes in the heap: without this a process grows epoch by epoch (on Amazon Beauty
    to three times its size in fifteen).
    """
    if sys.platform == "linux":
        # Another C library, such as musl, has no such function.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
