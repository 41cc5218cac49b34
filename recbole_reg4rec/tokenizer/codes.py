"""From features to cached codes: the tokenizer's one entry for everybody else."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_reg4rec.data.categories import ItemCategories
from recbole_reg4rec.data.features import ItemFeatures
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import check_writable, exclusive, whole_file
from recbole_reg4rec.tokenizer.collisions import Resolved, count_collisions, resolve_collisions
from recbole_reg4rec.tokenizer.digits import append_digits
from recbole_reg4rec.tokenizer.fit import TokenizerSettings, default_codewords, fit_mpq
from recbole_reg4rec.tokenizer.health import health_report
from recbole_reg4rec.tokenizer.neighbours import WordNeighbours
from recbole_reg4rec.tokenizer.opq import OPQSettings, fit_opq
from recbole_reg4rec.tokenizer.rqvae import RQVAE, RQVAESettings, fit_rqvae

AnySettings = TokenizerSettings | OPQSettings | RQVAESettings

# Distances to codewords that are held in memory at once; and items, where the codebooks are small.
_DISTANCES, _ROWS = 1 << 24, 4096
# Catalogues of more items are large: their collisions are resolved by the codewords next to each, so many, alone.
_LARGE, _NEIGHBOURS = 1 << 15, 16
# Raise when the algorithm changes, so that codes of an older version are never taken for these.
ALGORITHM = 3


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


class ParallelQuantiser(Protocol):
    """A fitted quantiser whose codebooks know nothing of each other: MPQ, product quantisation."""

    def distances(self, features: Tensor) -> Tensor:
        """Squared distances of items to codewords: float32 ``[B, F]`` to ``[B, M, K]``."""

    def codebook(self) -> Tensor:
        """Codewords, float32 ``[M, K, w]``, among which squared distances mean what they do for `distances`."""

    def reconstruct(self, features: Tensor, codes: Tensor) -> Tensor:
        """The features that codes int64 ``[B, M]`` of items ``[B, F]`` stand for, float32 ``[B, F]``."""


def tokenizer_settings(config: Any, items: int) -> AnySettings:
    """Reads the settings of the chosen ``tokenizer``; ``codebook_size: auto`` is resolved for ``items`` items."""
    size = config["codebook_size"]
    codebooks, codewords = int(config["codebooks"]), default_codewords(items) if size == "auto" else int(size)
    if config["tokenizer"] == "opq":
        return OPQSettings(codebooks, codewords, rounds=int(config["opq_rounds"]), seed=int(config["seed"]))
    if config["tokenizer"] == "rqvae":
        return RQVAESettings(
            levels=codebooks,
            codewords=codewords,
            hidden=tuple(int(width) for width in config["rqvae_hidden"]),
            dim=int(config["rqvae_dim"]),
            epochs=int(config["rqvae_epochs"]),
            batch_size=int(config["rqvae_batch_size"]),
            learning_rate=float(config["rqvae_learning_rate"]),
            commitment=float(config["rqvae_commitment"]),
            seed=int(config["seed"]),
        )
    return TokenizerSettings(
        codebooks=codebooks,
        codewords=codewords,
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
    settings: AnySettings,
    cache_dir: Path,
    show_progress: bool = False,
    device: torch.device | str = "cpu",
) -> ItemCodes:
    """Codes of all items, from the cache when features, categories and settings are the same to the last bit.

    On another kind of ``device`` they were trained with other roundings, so that each kind has its own in the cache.

    Of several processes that want the same codes at the same time one makes them, and the others wait.

    Raises:
        UserError: more codewords than items, or the cache folder cannot be written.
    """
    device = torch.device("cpu") if isinstance(settings, OPQSettings) else torch.device(device)
    fingerprint = _fingerprint(features, categories, settings, device.type)
    path = cache_dir / f"codes-{fingerprint}.npz"
    cached = _load(path, fingerprint, (len(features.matrix), settings.codebooks))
    if cached is not None:
        return cached
    _check_folder(cache_dir)
    before = _stamp(path)
    with exclusive(path.with_suffix(".lock")):
        # Another process may have made them while this one waited.
        cached = (
            _load(path, fingerprint, (len(features.matrix), settings.codebooks)) if _stamp(path) != before else None
        )
        if cached is not None:
            return cached
        begin = perf_counter()
        codes, report = _fit(features, categories, settings, show_progress, device)
        result = ItemCodes(codes, settings.codewords, report, perf_counter() - begin, False, fingerprint)
        _save(path, result)
    return result


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _fit(
    features: ItemFeatures,
    categories: ItemCategories,
    settings: AnySettings,
    show_progress: bool,
    device: torch.device,
) -> tuple[np.ndarray, dict[str, Any]]:
    rows, known = torch.from_numpy(features.matrix[1:]), features.known[1:]
    model = _fit_quantiser(features, settings, show_progress, device)
    with torch.no_grad():
        assign = _assign_levels if isinstance(model, RQVAE) else _assign_parallel
        first, resolved = assign(model, rows, known, settings)
        codes = torch.from_numpy(resolved.codes)
        parts = [model.reconstruct(*part) for part in zip(rows.split(_ROWS), codes.split(_ROWS), strict=True)]
        reconstruction = torch.cat(parts).numpy()
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


def _fit_quantiser(features: ItemFeatures, settings: AnySettings, show_progress: bool, device: torch.device) -> Any:
    if isinstance(settings, RQVAESettings):
        return fit_rqvae(features.matrix, features.known, settings, show_progress, device)
    if isinstance(settings, OPQSettings):
        return fit_opq(features.matrix, features.known, settings, show_progress)
    return fit_mpq(features.matrix, features.known, settings, show_progress, device)


def _groups(known: np.ndarray, at_once: int) -> Iterator[np.ndarray]:
    """Items in lots; those without features last and apart: one that only held-out interactions have moves no other."""
    for group in (np.flatnonzero(known), np.flatnonzero(~known)):
        for items in np.split(group, range(at_once, len(group), at_once)):
            if len(items):
                yield items


def _assign_parallel(
    model: ParallelQuantiser, rows: Tensor, known: np.ndarray, settings: AnySettings
) -> tuple[np.ndarray, Resolved]:
    """The nearest codewords, int64 ``[items, M]``, and the codes after items that share a tuple have been moved."""
    at_once = max(1, min(_ROWS, _DISTANCES // (settings.codebooks * settings.codewords)))

    def distances(items: np.ndarray) -> np.ndarray:
        return torch.cat([model.distances(part) for part in rows[torch.from_numpy(items)].split(at_once)]).numpy()

    first = np.zeros((len(rows), settings.codebooks), dtype=np.int64)
    for items in _groups(known, at_once):
        # Not by `distances`: laying millions of them out anew would take longer than working them out.
        first[items] = model.distances(rows[torch.from_numpy(items)]).argmin(2).numpy()

    def alike(items: np.ndarray) -> np.ndarray:
        return np.unique(rows[torch.from_numpy(items)].numpy(), axis=0, return_inverse=True)[1].reshape(-1)

    if len(rows) <= _LARGE:
        return first, resolve_collisions(first, distances, last=~known, alike=alike)
    near = WordNeighbours.of(model.codebook(), min(_NEIGHBOURS, settings.codewords))
    return first, resolve_collisions(first, distances, last=~known, around=near.around)


def _assign_levels(model: RQVAE, rows: Tensor, known: np.ndarray, settings: AnySettings) -> tuple[np.ndarray, Resolved]:
    """The codes of all levels, int64 ``[items, M - 1]``, and these with the digit that tells items apart."""
    first = np.zeros((len(rows), settings.codebooks - 1), dtype=np.int64)
    for items in _groups(known, _ROWS):
        first[items] = model.assign(rows[torch.from_numpy(items)]).numpy()

    def distances(items: np.ndarray) -> np.ndarray:
        return model.last_distances(rows[torch.from_numpy(items)]).numpy()

    return first, append_digits(first, settings.codewords, distances, last=~known)


def _fingerprint(features: ItemFeatures, categories: ItemCategories, settings: AnySettings, device: str) -> str:
    """Of everything that codes and report depend on."""
    digest = hashlib.sha256()
    arrays = [features.matrix, features.known, categories.members]
    kind = [] if isinstance(settings, TokenizerSettings) else [settings.kind]
    kind += [device] if device != "cpu" else []
    head = [ALGORITHM, *kind, asdict(settings), features.parts, features.counts, [array.shape for array in arrays]]
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
