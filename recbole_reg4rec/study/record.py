"""The machine-readable record of a run, one JSON file under ``results/runs/``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from time import localtime, strftime
from typing import Any

import psutil
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import check_writable, whole_file


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB (2**20 bytes)."""
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def peak_gpu_memory_mb() -> float:
    """Largest GPU memory held by tensors so far, in MB; 0 without a GPU."""
    return round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_available() else 0.0


def check_results_dir(results_dir: Path, room: str = "runs") -> Path:
    """Makes ``results_dir/room`` and proves that it can be written, before hours are spent.

    Raises:
        UserError: it cannot.
    """
    folder = results_dir / room
    try:
        check_writable(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def write_record(runs: Path, name: str, record: dict[str, Any]) -> Path:
    """Writes the record whole or not at all, under a name that no earlier run has; numbers not finite become null.

    Raises:
        UserError: the folder cannot be written any more.
    """
    text = json.dumps(_plain(record), indent=1, sort_keys=False, ensure_ascii=False, allow_nan=False)
    stem = f"{name}-{strftime('%Y%m%d-%H%M%S', localtime())}"
    path, number = runs / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = runs / f"{stem}-{number}.json"
    try:
        with whole_file(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise unwritable(runs, error) from error
    return path


# Where things lie on one machine; nothing that another could repeat.
_PLACES = frozenset({"data_path", "checkpoint_dir", "tokenizer_cache", "dataset_save_path", "dataloaders_save_path"})


def portable_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without paths of this machine, so that records can be shared."""
    return {name: value for name, value in settings.items() if name not in _PLACES}


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to tell the user about a results folder that refuses a file."""
    return UserError(f"results folder {folder} cannot be written ({error.strerror}); set --results_dir")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)
