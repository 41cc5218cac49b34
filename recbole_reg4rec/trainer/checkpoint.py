"""Checkpoints of tensors and plain data only, written whole or not at all, read with ``weights_only=True``."""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import check_writable, whole_file

FORMAT = "recbole_reg4rec checkpoint 1"

# Settings that may differ between writing and reading: they change where and how long, not what is computed.
# fmt: off
_FREE = frozenset({
    "checkpoint_dir", "data_path", "device", "dataset_save_path", "dataloaders_save_path", "epochs",
    "stopping_step", "eval_batch_size", "gpu_id", "use_gpu", "log_wandb", "wandb_project", "show_progress",
    "state", "config_file", "config_files", "save_dataset", "save_dataloaders", "worker", "metric_decimal_place",
    "loss_decimal_place", "tokenizer_cache", "single_spec", "local_rank", "metrics", "topk",
    "align_epochs", "align_stopping_step", "align_from", "align_log_every",
})
# fmt: on
# Settings of stage 2 alone begin like this; they bind nothing where there is no stage 2.
_SECOND_STAGE = ("align_", "reward_", "stages")
# Free for a checkpoint, which may be trained further, but not for a result; of stage 1 and of stage 2.
_LENGTHS = ("epochs", "stopping_step"), ("align_epochs", "align_stopping_step")
# When the item path ends beside reasoning: nothing to decide unless there are both.
_BESIDE_REASONING = ("item_epochs", "item_stopping_step")
# How reasoning is built and trained: nothing to decide where it is off.
_OF_REASONING = ("encoder_layers", "reason_identity", "later_share", "later_steps")


def binding_settings(settings: Mapping[str, Any], first_stage: bool = False) -> dict[str, Any]:
    """Those settings that a checkpoint belongs to; with ``first_stage`` those that its first stage belongs to."""
    binding = {name: value for name, value in sorted(settings.items()) if name not in _FREE}
    if "enable_amp" in binding and str(settings.get("device", "")) == "cpu":
        binding["enable_amp"] = False  # which is all that it can come to there
    if first_stage or "alignment" not in (settings.get("stages") or ()):
        return {name: value for name, value in binding.items() if not name.startswith(_SECOND_STAGE)}
    return binding


def deciding_settings(settings: Mapping[str, Any], first_stage: bool = False) -> dict[str, Any]:
    """Those settings that a result belongs to: `binding_settings`, and how long the stages that there are may last."""
    aligned = not first_stage and "alignment" in (settings.get("stages") or ())
    lengths = (*_LENGTHS[0], *(_LENGTHS[1] if aligned else ()))
    deciding = {**binding_settings(settings, first_stage), **{name: settings.get(name) for name in lengths}}
    if not (settings.get("reason") and (settings.get("item_path") or settings.get("control"))):
        deciding.update((name, 0) for name in _BESIDE_REASONING if name in deciding)
    if not settings.get("reason"):
        deciding.update((name, None) for name in _OF_REASONING if name in deciding)
    return deciding


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration."""
    text = json.dumps(binding_settings(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def random_state() -> dict[str, Any]:
    """State of every source of randomness, as tensors and plain data."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Undoes `random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def check_checkpoint_path(path: Path) -> None:
    """Makes the folder of a checkpoint and proves that it can be written, before hours are spent.

    Raises:
        UserError: it cannot, or the path is a folder.
    """
    try:
        check_writable(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    if path.is_dir():
        raise UserError(f"checkpoint {path} is a folder; name a file in it by --checkpoint")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes beside and renames, so that an interruption leaves the older file whole.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        with whole_file(path) as file:
            torch.save({"format": FORMAT, **state}, file)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"checkpoint {path} cannot be written ({error.strerror}); set checkpoint_dir or --checkpoint")


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint, whatever model and configuration it belongs to.

    Raises:
        UserError: missing, unreadable, or foreign.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; train first, or give another file with --checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look at the checksums that it writes
                raise zipfile.BadZipFile
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes can raise anything there, IndexError and TypeError among them
        raise UserError(
            f"checkpoint {path} cannot be read as one of this package: the file is damaged or was written by another "
            "program; delete it or give another file with --checkpoint"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise UserError(
            f"checkpoint {path} has format {found!r}, but {FORMAT!r} is needed; give another file with --checkpoint"
        )
    return state


def load_checkpoint(
    path: Path,
    model: str,
    settings: Mapping[str, Any],
    device: torch.device | str = "cpu",
    first_stage: bool = False,
) -> dict[str, Any]:
    """Reads a checkpoint and checks that it belongs to this model and configuration.

    With ``first_stage`` the settings of stage 2 may differ.

    Raises:
        UserError: see `read_checkpoint`; or it is of another model or configuration.
    """
    state = read_checkpoint(path, device)
    check_belongs(path, state, model, settings, first_stage)
    return state


def check_belongs(
    path: Path, state: Mapping[str, Any], model: str, settings: Mapping[str, Any], first_stage: bool = False
) -> None:
    """Raises UserError where what `read_checkpoint` found is of another model or configuration."""
    if state["model"] != model:
        raise UserError(
            f"checkpoint {path} holds a {state['model']}, but this run is a {model}; give a fitting --checkpoint"
        )
    here = json.loads(json.dumps(binding_settings(settings, first_stage), default=str))
    there = json.loads(json.dumps(binding_settings(state["settings"], first_stage), default=str))
    for name in sorted(here.keys() | there.keys()):
        now, then = here.get(name), there.get(name)
        if now != then:
            raise UserError(
                f"checkpoint {path} was trained with {name}={then}, but this run has {name}={now}; "
                "use the same settings or another --checkpoint"
            )


def fill_model(path: Path, state: Mapping[str, Any], model: Any, fingerprint: str) -> None:
    """Puts the weights of a checkpoint into a model.

    Raises:
        UserError: it was trained on other data, or its sizes do not fit.
    """
    if state["fingerprint"] != fingerprint:
        raise UserError(
            f"checkpoint {path} was trained on other data than those that {state['dataset']} holds now; "
            "train again without --resume, or give another --checkpoint"
        )
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit the data set's catalogue or the model's sizes") from error
    model.load_other_parameter(state["other_parameter"])
