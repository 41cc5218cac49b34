"""From features to cached codes: the tokenizer's one entry for everybody else."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
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
from recbole_reg4rec.tokenizer.collisions import count_collisions, resolve_collisions
from recbole_reg4rec.tokenizer.fit import TokenizerSettings, default_codewords, fit_mpq
from recbole_reg4rec.tokenizer.health import health_report

# Raise when the algorithm changes, so that codes of an older version are never taken for these.
ALGORITHM = 1


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
    """Codes of all items, from the cache when features and settings are the same to the last bit.

    Raises:
        UserError: more codewords than items, or the cache folder cannot be written.
    """
    fingerprint = _fingerprint(features, settings)
    path = cache_dir / f"codes-{fingerprint}.npz"
    cached = _load(path, fingerprint)
    if cached is not None:
        return cached
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
    with torch.no_grad():
        distances = torch.cat([model.distances(part) for part in rows.split(4096)]).numpy()
        first = distances.argmin(axis=2).astype(np.int64)
        resolved = resolve_collisions(first, distances)
        reconstruction = model.reconstruct(rows, torch.from_numpy(resolved.codes)).numpy()
    known = features.known[1:]
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


def _fingerprint(features: ItemFeatures, settings: TokenizerSettings) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([ALGORITHM, asdict(settings), features.parts], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(features.matrix).tobytes())
    digest.update(np.ascontiguousarray(features.known).tobytes())
    return digest.hexdigest()[:16]


def _save(path: Path, codes: ItemCodes) -> None:
    """Writes beside and renames, so that a cut-off write is never read."""
    meta = {"report": codes.report, "seconds": codes.seconds, "codewords": codes.codewords}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.savez(file, codes=codes.codes, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8))
        os.replace(file.name, path)
    except OSError as error:
        raise UserError(f"the tokenizer's cache folder {path.parent} cannot be written ({error.strerror})") from error


def _load(path: Path, fingerprint: str) -> ItemCodes | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            meta = json.loads(archive["meta"].tobytes())
            codes = archive["codes"]
        return ItemCodes(codes, int(meta["codewords"]), meta["report"], float(meta["seconds"]), True, fingerprint)
    except (OSError, ValueError, KeyError, EOFError) as error:
        getLogger(__name__).warning("cached codes %s are unreadable (%s); fitting again", path, error)
        return None
