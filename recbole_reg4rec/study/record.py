"""The machine-readable record of a run, one JSON file under ``results/runs/``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import localtime, strftime
from typing import Any

import psutil
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import check_writable, whole_file
from recbole_reg4rec.trainer.protocols import PROTOCOLS, TestReport


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB (2**20 bytes)."""
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux hands getrusage's figure on to a new program: a child would report its parent's peak.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
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


def write_record(runs: Path, name: str, record: dict[str, Any], report: TestReport | None = None) -> Path:
    """Writes the record whole or not at all, under a name that no earlier run has; numbers not finite become null.

    With a ``report`` the record gets its metrics and groups under both protocols (``test_protocols``,
    ``test_groups``), the ``fingerprint`` of data and split, and ``ranks``, which names a file beside it:
    ``<name>.ranks.csv`` with a line a test target, its rank counted from 1 under each protocol, 0 where ruled out.

    Returns:
        the record's path; ``record`` itself has what was added.

    Raises:
        UserError: the folder cannot be written any more.
    """
    stem = f"{name}-{strftime('%Y%m%d-%H%M%S', localtime())}"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with _free_name(runs, stem) as path:
            if report is not None:
                record.update(fingerprint=report.fingerprint, test_protocols=report.metrics, test_groups=report.groups)
                record["ranks"] = _write_ranks(path.with_suffix(".ranks.csv"), report)
            text = json.dumps(plain(record), indent=1, sort_keys=False, ensure_ascii=False, allow_nan=False)
            # The record last: where it stands, its ranks do.
            with whole_file(path, "w", encoding="utf-8") as file:
                file.write(text + "\n")
    except OSError as error:
        raise unwritable(runs, error) from error
    return path


@contextmanager
def _free_name(runs: Path, stem: str) -> Iterator[Path]:
    """A record's path that no other has or is about to take; runs may end in the same second."""
    number = 1
    while True:
        path = runs / f"{stem}{f'-{number}' if number > 1 else ''}.json"
        claim = path.with_name(f".{path.name}.claim")
        with suppress(FileExistsError):
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            # Only now, since who had the claim before has written by then.
            if not path.exists():
                break
            claim.unlink()
        number += 1
    try:
        yield path
    finally:
        claim.unlink(missing_ok=True)


def _write_ranks(path: Path, report: TestReport) -> dict[str, Any]:
    lines = [",".join(PROTOCOLS), *(",".join(map(str, row)) for row in report.ranks.tolist())]
    content = ("\n".join(lines) + "\n").encode()
    with whole_file(path) as file:
        file.write(content)
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "targets": len(report.ranks)}


# Where things lie on one machine; nothing that another could repeat.
_PLACES = frozenset(
    {"data_path", "checkpoint_dir", "tokenizer_cache", "dataset_save_path", "dataloaders_save_path", "align_from"}
)


def portable_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without paths of this machine, so that records can be shared."""
    return {name: value for name, value in settings.items() if name not in _PLACES}


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to tell the user about a results folder that refuses a file."""
    return UserError(f"results folder {folder} cannot be written ({error.strerror}); set --results_dir")


def plain(value: Any) -> Any:
    """The value as JSON will give it back: texts as keys, lists, numbers not finite as None, the rest as text."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)
