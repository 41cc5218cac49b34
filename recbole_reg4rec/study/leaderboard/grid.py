"""The grid: which cells there are, what each one's settings are, and by which name its record is known again."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_reg4rec.config import load_yaml, properties_dir, resolved_settings
from recbole_reg4rec.config.settings import describe_settings, nearest, own_property_files
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.pipeline import configure
from recbole_reg4rec.study.record import plain, portable_settings
from recbole_reg4rec.study.registry import find_model
from recbole_reg4rec.trainer.checkpoint import deciding_settings

DEFAULT = "default"  # the variant of a model that is named without one
FIRST_SEED = 2020
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Asked:
    """What a user asked for, still as text and names; see `plan`."""

    models: str
    datasets: str
    seeds: str = "5"
    variants: str | None = None
    config_files: list[str] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run: a model's variant on a data set with a seed, validated with or without the mask.

    ``key`` names all settings that decide the result, ``row_key`` all but the seed, ``first_key`` those that decide the
    first stage of training.
    """

    model: str
    variant: str
    dataset: str
    masked: bool
    seed: int
    key: str
    row_key: str
    first_key: str = field(compare=False)
    job: Mapping[str, Any] = field(compare=False, hash=False, default_factory=dict)

    @property
    def aligned(self) -> bool:
        """Whether a second stage of training follows the first."""
        return "alignment" in (self.job["settings"].get("stages") or ())

    def is_first_stage_of(self, other: Cell) -> bool:
        """Whether the other's second stage may begin from this one's model."""
        begins = other.aligned and not self.aligned and not other.job["settings"]["align_from"]
        return bool(begins) and (self.dataset, self.first_key) == (other.dataset, other.first_key)

    @property
    def title(self) -> str:
        """For people."""
        variant = "" if self.variant == DEFAULT else f":{self.variant}"
        return f"{self.model}{variant} {self.dataset} seed {self.seed}{' masked' if self.masked else ''}"

    def file_stem(self, fingerprint: str) -> str:
        """For locks, logs and checkpoints; the same for everybody who has the same cell on the same data."""
        return _file_stem(self.model, self.dataset, self.seed, self.key, fingerprint[:8])


def cell_keys(settings: Mapping[str, Any]) -> tuple[str, str]:
    """``key`` and ``row_key`` (see `Cell`) of a run's settings, resolved or as a record has them."""
    names = deciding_settings(plain(portable_settings(settings)))
    without_seed = {name: value for name, value in names.items() if name != "seed"}
    return _digest(names), _digest(without_seed)


def newest_checkpoint(settings: Mapping[str, Any]) -> Path | None:
    """The best model that a cell of these settings left last; None where no leaderboard has trained it here."""
    key, _ = cell_keys(settings)
    stem = _file_stem(glob.escape(settings["model"]), glob.escape(settings["dataset"]), settings["seed"], key, "*")
    found = checkpoints_of(settings).glob(f"{stem}/best.pth")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _file_stem(model: str, dataset: str, seed: int, key: str, data: str) -> str:
    return f"{model}-{dataset}-seed{seed}-{key}-{data}"


def checkpoints_of(settings: Mapping[str, Any]) -> Path:
    """The folder that holds a folder for each cell's models."""
    return Path(str(settings["checkpoint_dir"])) / "leaderboard"


def first_stage_key(settings: Mapping[str, Any]) -> str:
    """``first_key``, see `Cell`."""
    return _digest(deciding_settings(plain(portable_settings(settings)), first_stage=True))


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def plan(asked: Asked) -> list[Cell]:
    """All cells, data set by data set, seed by seed.

    Raises:
        UserError: a list is empty or names something twice, unknown models, variants or settings, equal seeds, two
            rows with the same settings, or settings under which no table can be made (sampled candidates).
    """
    variants = load_variants(asked.variants)
    datasets = _names(asked.datasets, "--datasets")
    seeds = parse_seeds(asked.seeds)
    settings = dict(asked.settings)
    if "seed" in settings:
        raise UserError(f"--seed={settings['seed']} is given, but a leaderboard takes --seeds=NUMBER or --seeds=A,B,C")
    protocols = _protocols(settings.pop("mask_history", "False"))
    named: dict[str, str] = {}
    cells: list[Cell] = []
    names = [name for pattern in _names(asked.models, "--models") for name in _matching(pattern, variants)]
    wanted = [_model_and_variant(name, variants, settings) for name in names]
    for dataset in datasets:
        first: list[Cell] = []
        for model, variant, own in wanted:
            for masked in protocols:
                cell = _first_cell(model, variant, own, dataset, masked, seeds[0], settings, asked.config_files)
                row = f"{dataset} {cell.row_key}"
                if row in named:
                    raise UserError(
                        f"--models: {named[row]} and {cell.title} have the same settings, so they would be one row "
                        "under two names; name it once"
                    )
                named[row] = cell.title
                first.append(cell)
        cells += [_with_seed(cell, seed) for seed in seeds for cell in first]
    return cells


def _first_cell(
    model: str,
    variant: str,
    own: dict[str, Any],
    dataset: str,
    masked: bool,
    seed: int,
    settings: Mapping[str, str],
    config_files: list[str] | None,
) -> Cell:
    if "epochs" in settings and not is_trained(model):
        settings = {name: value for name, value in settings.items() if name != "epochs"}
    job: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "config_file_list": config_files,
        "config_dict": own,
        "command_line": {**settings, "mask_history": str(masked), "seed": str(seed)},
    }
    try:
        config = configure(**job)
    except UserError as error:
        raise UserError(f"{model} on {dataset}: {error}") from error
    resolved = resolved_settings(config)
    if any(mode != "full" for mode in resolved["eval_args"]["mode"].values()):
        mode = resolved["eval_args"]["mode"]
        raise UserError(
            f"setting eval_args asks {model} on {dataset} for sampled candidates (mode {mode}), but tables compare "
            "full rankings only; set mode to full"
        )
    return _cell(model, variant, dataset, masked, seed, {**job, "settings": resolved})


def is_trained(model: str) -> bool:
    """False for a model whose property file allows no epochs: a grid's ``epochs`` is not meant for it.

    Raises:
        UserError: there is no such model.
    """
    rules = [
        item.rule
        for path in own_property_files(find_model(model), None)
        for item in describe_settings(path)
        if item.name == "epochs" and item.rule is not None
    ]
    return not rules or rules[-1].allows(1)


def _with_seed(cell: Cell, seed: int) -> Cell:
    resolved = {**cell.job["settings"], "seed": seed}
    line = {**cell.job["command_line"], "seed": str(seed)}
    job = {**cell.job, "command_line": line, "settings": resolved}
    return _cell(cell.model, cell.variant, cell.dataset, cell.masked, seed, job)


def _cell(model: str, variant: str, dataset: str, masked: bool, seed: int, job: Mapping[str, Any]) -> Cell:
    settings = job["settings"]
    return Cell(model, variant, dataset, masked, seed, *cell_keys(settings), first_stage_key(settings), job)


def load_variants(path: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings by model and variant: those of ``properties/leaderboard.yaml``, and the user's file over them.

    Raises:
        UserError: a file has another form than ``MODEL: {VARIANT: {setting: value}}``.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in [properties_dir() / "leaderboard.yaml", *([Path(path).expanduser()] if path else [])]:
        for model, variants in load_yaml(file).items():
            whole = isinstance(variants, dict) and all(isinstance(part, dict) for part in variants.values())
            if not whole:
                raise UserError(f"variants file {file}: `{model}` must hold VARIANT: {{setting: value}} lines")
            for variant, settings in variants.items():
                if not _NAME.fullmatch(str(variant)) or variant == DEFAULT:
                    raise UserError(
                        f"variants file {file}: `{variant}` cannot name a variant of {model}; use letters, digits, "
                        f"`-`, `_`, `+` and `.`, and not `{DEFAULT}`"
                    )
                fixed = {"seed", "mask_history"} & set(settings)
                if fixed:
                    raise UserError(
                        f"variants file {file}: variant {model}:{variant} sets {fixed.pop()}, which the command does"
                    )
                found.setdefault(model, {})[str(variant)] = settings
    return found


def parse_seeds(text: str) -> list[int]:
    """``5``: that many, from `FIRST_SEED` on; ``2020,7`` or ``[7]``: these.

    Raises:
        UserError: no number, a number below 1, a negative seed, or two equal ones.
    """
    inner = text.strip().removeprefix("[").removesuffix("]")
    is_list = inner != text.strip() or "," in inner
    parts = [part.strip() for part in inner.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise UserError(
            f"--seeds is `{text}`, but it must be how many seeds, such as 5, or a list of whole numbers, such as 1,2,3"
        )
    numbers = [int(part) for part in parts]
    if not is_list:
        if not 1 <= numbers[0] <= 1000:
            raise UserError(
                f"--seeds={text} asks for {numbers[0]} seeds, but it must be 1 to 1000; one seed of your own is "
                f"given as --seeds=[{text}]"
            )
        return [FIRST_SEED + number for number in range(numbers[0])]
    for number in numbers:
        if numbers.count(number) > 1:
            raise UserError(f"--seeds={text} names seed {number} twice; the same run twice is no second sample")
    return numbers


def _names(text: str, argument: str) -> list[str]:
    names = [name.strip() for name in text.strip().removeprefix("[").removesuffix("]").split(",") if name.strip()]
    if not names:
        raise UserError(f"{argument} names nothing; give one or more, separated by commas")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{argument} names {name} twice; name it once")
    return names


def _protocols(text: str) -> list[bool]:
    choices = {"true": [True], "false": [False], "both": [False, True]}
    if text.lower() not in choices:
        raise UserError(f"--mask_history is `{text}`, but it must be true, false or both")
    return choices[text.lower()]


def _matching(pattern: str, variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """``MODEL:PATTERN`` with ``*`` as the variants that fit, in the order of the file; another name as it is.

    Raises:
        UserError: none fits.
    """
    model, _, variant = pattern.partition(":")
    if "*" not in pattern:
        return [pattern]
    found = [f"{model}:{name}" for name in variants.get(model, {}) if fnmatch.fnmatchcase(name, variant)]
    if not found:
        known = ", ".join(variants.get(model, {})) or "none"
        raise UserError(f"--models: no variant of {model} fits `{variant}`; there are {known}")
    return found


def _model_and_variant(
    name: str, variants: Mapping[str, Mapping[str, dict[str, Any]]], settings: Mapping[str, str]
) -> tuple[str, str, dict[str, Any]]:
    model, colon, variant = name.partition(":")
    if not colon:
        return model, DEFAULT, {}
    known: Sequence[str] = list(variants.get(model, {}))
    if variant not in known:
        guess = nearest(variant, known)
        advice = f"did you mean {model}:{guess}?" if guess else f"there are {', '.join(known) or 'none'}"
        raise UserError(f"--models: {model} has no variant `{variant}`; {advice}; --variants=FILE adds your own")
    own = dict(variants[model][variant])
    both = sorted(set(own) & set(settings))
    if both:
        raise UserError(
            f"--{both[0]} is given, but variant {model}:{variant} says {both[0]}={own[both[0]]}; leave one of them out"
        )
    return model, variant, own
