"""Peak memory of a part of a process's life."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch


def restart_peak() -> bool:
    """Lets `study.record.peak_memory_mb` begin anew from what is held now; False where the system cannot.

    The GPU's, `study.record.peak_gpu_memory_mb`, in any case.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        # 5: forget the highest resident size (Linux, proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_mb() -> float:
    """What this process holds now, in MB (2**20 bytes)."""
    return round(psutil.Process().memory_info().rss / 2**20, 1)
