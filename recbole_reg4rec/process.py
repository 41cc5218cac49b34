"""How this process waits and takes memory, which has to be said before torch is loaded (our choice).

OpenMP's threads wait by spinning. Where another program has one of their cores, the thread that is behind waits for the
core that the others spin on, and all of them nearly stand still (docs/performance.md, "Beside other work").

Memory comes in pages of 4 KB, each of which the system clears when it is first written to. Tables of all items are made
anew for every batch, and where they are large, this takes longer than to fill them, unless pages are large too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

import psutil

# Whoever sets one of these has said it already.
_SAID = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Makes torch ask the system for pages of 2 MB for tensors of that size and more; without Linux nobody reads it.
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
# Seconds to look at the processors for, and how many of them others may use.
_LOOK, _FREE = 0.2, 0.5


def wait_without_spinning(environment: MutableMapping[str, str], busy: float) -> bool:
    """Makes threads sleep while they wait where that helps; results stay the same.

    Args:
        environment: of this process, which its children inherit.
        busy: how many processors other programs use.

    Returns:
        whether it was done: not with one thread, on a machine of its own, or where the user has decided.
    """
    if busy < _FREE or any(name in environment for name in _SAID):
        return False
    if environment.get("OMP_NUM_THREADS", "").strip() == "1":
        return False
    environment["OMP_WAIT_POLICY"] = "passive"
    return True


def look_around() -> None:
    """Looks how busy the machine is, and sets this process up for it; nothing once torch is loaded."""
    if "torch" not in sys.modules:
        busy = psutil.cpu_percent(interval=_LOOK) / 100.0 * (psutil.cpu_count() or 1)
        wait_without_spinning(os.environ, busy)


def use_huge_pages(environment: MutableMapping[str, str]) -> None:
    """Has torch ask for large pages, unless the ``environment`` of this process says whether; results stay the same."""
    environment.setdefault(_HUGE_PAGES, "1")


def process_setup() -> dict[str, str | bool]:
    """For a record: how threads wait (``OMP_WAIT_POLICY``, or ``default``), and whether large pages are asked for."""
    return {
        "waiting": os.environ.get("OMP_WAIT_POLICY", "default").lower(),
        "huge_pages": os.environ.get(_HUGE_PAGES) == "1",
    }
