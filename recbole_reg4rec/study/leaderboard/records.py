"""Records as the tables read them: checked against their ranks, known again by their settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.grid import cell_keys
from recbole_reg4rec.tokenizer.fit import default_codewords
from recbole_reg4rec.trainer.measures import measure
from recbole_reg4rec.trainer.protocols import PROTOCOLS

_NEEDED = (
    *("model", "dataset", "seed", "settings", "protocol", "data", "test", "seconds", "parameters", "peak_memory_mb"),
    *("epochs", "given", "versions", "fingerprint", "test_protocols", "test_groups", "ranks"),
)


@dataclass(frozen=True)
class RunRecord:
    """One record. ``file`` is its name in ``runs/``; keys as in `grid.Cell`."""

    file: str
    folder: Path
    content: Mapping[str, Any]
    key: str
    row_key: str

    @property
    def seed(self) -> int:
        return int(self.content["seed"])

    @property
    def validated_masked(self) -> bool:
        """Whether the epoch was chosen with the history's items ruled out."""
        return bool(self.content["protocol"]["masked"])

    @property
    def fingerprint(self) -> str:
        return str(self.content["fingerprint"])

    def ranks(self) -> np.ndarray:
        """int64 ``[targets, 2]``, see `trainer.protocols.TestReport`; the file is checked against the record.

        Raises:
            UserError: the file is missing, was changed, or does not give the record's own metrics.
        """
        named = self.content["ranks"]
        path = self.folder / Path(str(named["file"])).name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"record {self.file} names its ranks in {path}, which cannot be read ({error.strerror}); put the file "
                "back, or move the record away"
            ) from error
        if hashlib.sha256(content).hexdigest() != named["sha256"]:
            raise UserError(f"file {path} is not what record {self.file} was written with (its checksum differs)")
        head, _, body = content.decode().partition("\n")
        ranks = np.array(body.replace(",", " ").split(), dtype=np.int64).reshape(-1, len(PROTOCOLS))
        if head != ",".join(PROTOCOLS) or len(ranks) != int(named["targets"]):
            raise UserError(f"file {path} has other columns or lines than record {self.file} says")
        self._check_metrics(ranks)
        return ranks

    def _check_metrics(self, ranks: np.ndarray) -> None:
        """The metrics that training printed, those of both protocols, and the ranks must tell the same."""
        decimals = self.content["settings"].get("metric_decimal_place")
        slack = 10.0 ** -(4 if decimals is None else min(int(decimals), 6)) + 1e-9
        for column, protocol in enumerate(PROTOCOLS):
            from_ranks = measure(ranks[:, column])
            stated = [self.content["test_protocols"][protocol]]
            if self.validated_masked == (protocol == "masked"):
                stated.append({name: self.content["test"].get(name) for name in from_ranks})
            for part in stated:
                for name, value in from_ranks.items():
                    said = part.get(name)
                    if said is not None and abs(float(said) - value) > slack:
                        raise UserError(
                            f"record {self.file} says {name} {said} ({protocol}), but its ranks give {value:.6f}; it "
                            "was changed after it was written, so no table can show it"
                        )


# Settings of REG4Rec that came later, and change nothing in catalogues of no more items than this value of theirs.
_ADDED = {"softmax_items": 20_000}
# The same, of stage 2: runs without it took no notice of them.
_ADDED_TO_ALIGNMENT = {"align_kl_share": 0.25}
# What there was not before, and what is the same as that.
_NONE_BEFORE: dict[str, Any] = {
    "item_stopping_step": 0,
    "reason_identity": False,
    "encoder_layers": "auto",
    "judge_by_fitted": False,
}
# What there was not before, and what it needs to say anything.
_NEEDS = {"reason_repeats": ("reason", "repeat")}


def _as_trained(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a run as they would be given today.

    ``codebook_size: auto`` becomes a number where it would come to another one. Settings added since that could not
    have changed the run are taken to be there.
    """
    settings, tokenizer = dict(content["settings"]), content.get("tokenizer", {})
    items = int(content["data"]["items"])
    if content["model"] == "REG4Rec":
        added: dict[str, Any] = {name: value for name, value in _ADDED.items() if items <= value} | _NONE_BEFORE
        if settings.get("stages") == ["supervised"]:
            added |= _ADDED_TO_ALIGNMENT
        added |= {name: not all(settings.get(need) for need in needs) for name, needs in _NEEDS.items()}
        settings = {**added, **settings}
    # `auto` goes by the items that have features.
    codewords, known = tokenizer.get("codewords"), items - int(tokenizer.get("items_without_features", 0))
    if settings.get("codebook_size") != "auto" or codewords in (None, default_codewords(known)):
        return settings
    return {**settings, "codebook_size": int(codewords)}


class RecordBook:
    """All readable records of a ``runs`` folder; `refresh` adds those that are new.

    Attributes:
        unreadable: why a file is no record, by name.
        without_ranks: records that tables cannot use: of an older release, or of sampled candidates.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, RunRecord] = {}
        self.unreadable: dict[str, str] = {}
        self.without_ranks: dict[str, tuple[str, str]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads the files that were not there before; a record never changes."""
        known = self.records.keys() | self.unreadable.keys() | self.without_ranks.keys()
        for path in sorted(self.folder.glob("*.json")):
            if path.name not in known:
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            missing = [name for name in _NEEDED if name not in content]
            if "ranks" in missing:
                self.without_ranks[path.name] = (str(content["model"]), str(content["dataset"]))
                return
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            key, row_key = cell_keys(_as_trained(content))
            self.records[path.name] = RunRecord(path.name, self.folder, content, key, row_key)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.unreadable[path.name] = " ".join(str(error).split())

    def finished(self, key: str, fingerprint: str) -> RunRecord | None:
        """The first record of a cell on this data, or None."""
        return next((r for r in self._ordered() if r.key == key and r.fingerprint == fingerprint), None)

    def row(self, row_key: str, fingerprint: str) -> list[RunRecord]:
        """One record a seed, the first of each, by seed: all that there are with these settings on this data."""
        by_seed: dict[int, RunRecord] = {}
        for record in self._ordered():
            if record.row_key == row_key and record.fingerprint == fingerprint:
                by_seed.setdefault(record.seed, record)
        return [by_seed[seed] for seed in sorted(by_seed)]

    def other_data(self, row_keys: Iterable[str], fingerprint: str) -> list[str]:
        """Records with these settings, made on other data under the same name."""
        wanted = set(row_keys)
        return sorted(r.file for r in self.records.values() if r.row_key in wanted and r.fingerprint != fingerprint)

    def named(self, file: str, where: str) -> RunRecord:
        """A record by name.

        Raises:
            UserError: it is missing, unreadable, or has no ranks.
        """
        if file in self.records:
            return self.records[file]
        if file in self.unreadable:
            reason = f"cannot be read ({self.unreadable[file]})"
        elif file in self.without_ranks:
            reason = "holds no ranks"
        else:
            reason = f"is not in {self.folder}"
        raise UserError(f"{where} names record {file}, which {reason}; put it back, or delete that line of the table")

    def _ordered(self) -> list[RunRecord]:
        """By the time in the name: whoever finished first counts, whatever was added later."""
        return sorted(self.records.values(), key=lambda r: (_time(r.file), r.file))


def _time(file: str) -> str:
    parts = file.removesuffix(".json").split("-")
    times = [f"{a}-{b}" for a, b in zip(parts, parts[1:], strict=False) if _is_time(a, 8) and _is_time(b, 6)]
    return times[-1] if times else ""


def _is_time(text: str, length: int) -> bool:
    return len(text) == length and text.isdigit()
