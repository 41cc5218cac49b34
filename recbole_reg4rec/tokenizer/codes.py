"""From features to cached codes: the tokenizer's one entry for everybody else."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from recbole_reg4rec.data.categories import ItemCategories
from recbole_reg4rec.data.features import ItemFeatures
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import check_writable, whole_file
from recbole_reg4rec.tokenizer.collisions import count_collisions, resolve_collisions
from recbole_reg4rec.tokenizer.fit import TokenizerSettings, default_codewords, fit_mpq
from recbole_reg4rec.tokenizer.health import health_report

# Items whose distances to all codewords are held in memory at once.
_ROWS = 4096
# Raise when the algorithm changes, so that codes of an older version are never taken for these.
ALGORITHM = 2


@dataclass
class ItemCodes:
    """``codes``: int64 ``[items + 1, M]``, row 0 (padding) is all zero and means nothing; ``codewords``: K.

    ``report``: health figures; ``seconds``: what fitting took, also when it came from the cache; ``cached``: it did.
    """

    codes: np.ndarray
    codewords: int
    report: dict[str, Any]
    seconds: float
    cached: bool
    fingerprint: str


def tokenizer_settings(config: Any, items: int) -> TokenizerSettings:
    """Reads the tokenizer's part of the settings; ``codebook_size: auto`` is resolved for ``items`` items."""
    size = config["codebook_size"]
    return TokenizerSettings(
        codebooks=int(config["codebooks"]),
        codewords=default_codewords(items) if size == "auto" else int(size),
        hidden=int(config["mpq_hidden"]),
        dim=int(config["mpq_dim"]),
        epochs=int(config["mpq_epochs"]),
        batch_size=int(config["mpq_batch_size"]),
        learning_rate=float(config["mpq_learning_rate"]),
        expert_rate=float(config["mpq_expert_rate"]),
        commitment=float(config["mpq_commitment"]),
        orthogonality=float(config["mpq_orthogonality"]),
        route=bool(config["mpq_router"]),
        seed=int(config["seed"]),
    )


def tokenize_items(
    features: ItemFeatures,
    categories: ItemCategories,
    settings: TokenizerSettings,
    cache_dir: Path,
    show_progress: bool = False,
) -> ItemCodes:
    """Codes of all items, from the cache when features, categories and settings are the same to the last bit.

    Raises:
        UserError: more codewords than items, or the cache folder cannot be written.
    """
    fingerprint = _fingerprint(features, categories, settings)
    path = cache_dir / f"codes-{fingerprint}.npz"
    cached = _load(path, fingerprint, (len(features.matrix), settings.codebooks))
    if cached is not None:
        return cached
    _check_folder(cache_dir)
    begin = perf_counter()
    codes, report = _fit(features, categories, settings, show_progress)
    result = ItemCodes(codes, settings.codewords, report, perf_counter() - begin, False, fingerprint)
    _save(path, result)
    return result


def _fit(
    features: ItemFeatures, categories: ItemCategories, settings: TokenizerSettings, show_progress: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    model = fit_mpq(features.matrix, features.known, settings, show_progress)
    rows = torch.from_numpy(features.matrix[1:])
    known = features.known[1:]

    def distances(items: np.ndarray) -> np.ndarray:
        return torch.cat([model.distances(part) for part in rows[torch.from_numpy(items)].split(_ROWS)]).numpy()

    with torch.no_grad():
        first = np.zeros((len(rows), settings.codebooks), dtype=np.int64)
        # Items without features come last and apart: one that occurs in held-out interactions alone moves no other.
        for group in (np.flatnonzero(known), np.flatnonzero(~known)):
            for items in np.split(group, range(_ROWS, len(group), _ROWS)):
                if len(items):
                    first[items] = distances(items).argmin(axis=2)
        resolved = resolve_collisions(first, distances, last=~known)
        reconstruction = model.reconstruct(rows, torch.from_numpy(resolved.codes)).numpy()
    report = {
        "codebooks": settings.codebooks,
        "codewords": settings.codewords,
        "features": dict(features.parts),
        **features.counts,
        "collisions_before": count_collisions(first),
        "moved": resolved.moved,
        "collisions": count_collisions(resolved.codes),
        **health_report(
            resolved.codes[known],
            settings.codewords,
            features.matrix[1:][known],
            reconstruction[known],
            categories.members[1:][known],
        ),
    }
    return np.concatenate([np.zeros((1, settings.codebooks), dtype=np.int64), resolved.codes]), report


def _fingerprint(features: ItemFeatures, categories: ItemCategories, settings: TokenizerSettings) -> str:
    """Of everything that codes and report depend on."""
    digest = hashlib.sha256()
    arrays = [features.matrix, features.known, categories.members]
    head = [ALGORITHM, asdict(settings), features.parts, features.counts, [array.shape for array in arrays]]
    digest.update(json.dumps(head, sort_keys=True).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _check_folder(folder: Path) -> None:
    """Before the work is done, not after."""
    try:
        check_writable(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the tokenizer's cache folder {folder} cannot be written ({error.strerror}); name another by tokenizer_cache"
    )


def _save(path: Path, codes: ItemCodes) -> None:
    """Writes beside and renames, so that a cut-off write is never read."""
    meta = {"report": codes.report, "seconds": codes.seconds, "codewords": codes.codewords}
    try:
        with whole_file(path) as file:
            np.savez(file, codes=codes.codes, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8))
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _load(path: Path, fingerprint: str, shape: tuple[int, int]) -> ItemCodes | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            meta = json.loads(archive["meta"].tobytes())
            codes = archive["codes"]
        if codes.dtype != np.int64 or codes.shape != shape:
            raise ValueError(f"codes are {codes.dtype} {codes.shape}")
        return ItemCodes(codes, int(meta["codewords"]), meta["report"], float(meta["seconds"]), True, fingerprint)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        getLogger(__name__).warning("cached codes %s are unreadable (%s); fitting again", path, error)
        return None
