"""How the threads of a computation wait for each other, which has to be said before torch is loaded (our choice).

OpenMP's threads wait by spinning. Where another program has one of their cores, the thread that is behind waits for the
core that the others spin on, and all of them nearly stand still (docs/performance.md, "Beside other work").
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

import psutil

# Whoever sets one of these has said it already.
_SAID = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
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


def wait_policy() -> str:
    """How threads wait, for a record: as ``OMP_WAIT_POLICY`` says, or ``default``."""
    return os.environ.get("OMP_WAIT_POLICY", "default").lower()
