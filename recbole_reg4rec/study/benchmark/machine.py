"""What this machine can do at best: matrix products and copies by torch, on the processor and on a GPU."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

# Squares, and the shape of a batch of states against a catalogue: rows, inner, columns.
_PRODUCTS = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 64, 4096))
_COPY_FLOATS = 1 << 24  # 64 MiB, more than a processor's cache
_GPU_PRODUCTS = ((1024, 1024, 1024), (8192, 8192, 8192), (2048, 64, 16384))
_GPU_COPY_FLOATS = 1 << 28  # 1 GiB
_GPU_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def gpu_rates(seconds: float, device: torch.device) -> dict[str, Any]:
    """As `machine_rates` on a GPU, by name of the type: ``name``, ``gemm_gflops``, ``best_gflops``, ``copy_...``.

    float32 as torch multiplies it by default, without the shorter TF32.
    """
    share = seconds / (len(_GPU_PRODUCTS) * len(_GPU_TYPES) + 1)
    wait = partial(torch.cuda.synchronize, device)
    products: dict[str, dict[str, float]] = {}
    for name, dtype in _GPU_TYPES.items():
        products[name] = {}
        for rows, inner, columns in _GPU_PRODUCTS:
            a = torch.randn(rows, inner, device=device, dtype=dtype)
            b = torch.randn(inner, columns, device=device, dtype=dtype)
            spent = _best(partial(torch.mm, a, b), share, wait)
            products[name][f"{rows}x{inner}x{columns}"] = round(2e-9 * rows * inner * columns / spent, 1)
    source = torch.rand(_GPU_COPY_FLOATS, device=device)
    spent = _best(partial(torch.empty_like(source).copy_, source), share, wait)
    return {
        "name": torch.cuda.get_device_name(device),
        "gemm_gflops": products,
        "best_gflops": {name: max(rates.values()) for name, rates in products.items()},
        "copy_gb_a_second": round(2e-9 * source.nbytes / spent, 1),
    }


def _best(work: Any, seconds: float, wait: Callable[[], object] = lambda: None) -> float:
    """Seconds of the fastest of as many calls as fit, at least two; ``wait``: until the device is done."""
    end, best, calls = perf_counter() + seconds, float("inf"), 0
    wait()
    while calls < 2 or perf_counter() < end:
        begin = perf_counter()
        work()
        wait()
        best, calls = min(best, perf_counter() - begin), calls + 1
    return best
