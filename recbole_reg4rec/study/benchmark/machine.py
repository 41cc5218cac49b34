"""What this machine can do at best: matrix products and copies by torch, at the number of threads in use."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

# Squares, and the shape of a batch of states against a catalogue: rows, inner, columns.
_PRODUCTS = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 64, 4096))
_COPY_FLOATS = 1 << 24  # 64 MiB, more than a processor's cache


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def load() -> float | None:
    """Mean number of processes at work over the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def machine_rates(seconds: float) -> dict[str, Any]:
    """Times matrix products and a copy.

    Args:
        seconds: to spend, over all of them.

    Returns:
        ``gemm_gflops``: by shape, 10**9 float32 operations a second, a multiplication and an addition being two;
        ``best_gflops``: the best of these; ``copy_gb_a_second``: 10**9 bytes read and written a second.
    """
    share = seconds / (len(_PRODUCTS) + 1)
    products = {}
    for rows, inner, columns in _PRODUCTS:
        a, b, out = torch.rand(rows, inner), torch.rand(inner, columns), torch.empty(rows, columns)
        spent = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), share)  # type: ignore[misc]
        products[f"{rows}x{inner}x{columns}"] = round(2e-9 * rows * inner * columns / spent, 2)
    source, target = torch.rand(_COPY_FLOATS), torch.empty(_COPY_FLOATS)
    spent = _best(lambda: target.copy_(source), share)
    return {
        "gemm_gflops": products,
        "best_gflops": max(products.values()),
        "copy_gb_a_second": round(2e-9 * source.nbytes / spent, 2),
    }


def _best(work: Any, seconds: float) -> float:
    """Seconds of the fastest of as many calls as fit, at least two."""
    end, best, calls = perf_counter() + seconds, float("inf"), 0
    while calls < 2 or perf_counter() < end:
        begin = perf_counter()
        work()
        best, calls = min(best, perf_counter() - begin), calls + 1
    return best
