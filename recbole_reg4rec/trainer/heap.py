"""Gives memory that is free back to the system, where the C library keeps it."""

from __future__ import annotations

import contextlib
import ctypes
import sys

from torch import Tensor

# Bytes of scores after which memory is given back: seldom, since taking it again costs as much as scoring a few users.
_EVERY = 256 << 20


def release_free_memory() -> None:
    """Has glibc hand back free pages of its heap; nothing elsewhere.

    Batches of ever other shapes leave holes in the heap: without this a process grows epoch by epoch (on Amazon Beauty
    to three times its size in fifteen).
    """
    if sys.platform == "linux":
        # Another C library, such as musl, has no such function.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


class ReleasesFreeMemory:
    """Counts batches of scores, and has free memory handed back after every 256 MiB of them.

    What is kept of a batch holds the place of its scores in the heap, so that the holes grow with these.
    """

    def __init__(self) -> None:
        self._bytes = 0

    def passed(self, scores: Tensor) -> None:
        """One more batch of scores, of any shape, is done with."""
        self._bytes += scores.numel() * scores.element_size()
        if self._bytes >= _EVERY:
            self._bytes = 0
            release_free_memory()
