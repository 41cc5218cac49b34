"""What workers are asked to build: one job a contender and data set, checked before anything is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.benchmark.contenders import Contender, settings_for
from recbole_reg4rec.study.benchmark.options import Options
from recbole_reg4rec.study.pipeline import configure

# On synthetic catalogues the codes serve to be timed with; how good they are plays no part.
_REDUCED = {"mpq_epochs": "1"}


def jobs_on(options: Options, dataset: str, room: Path) -> dict[str, dict[str, Any]]:
    """The job of every contender on a data set, see `bench.Bench.load`.

    Args:
        options: what the user asked.
        dataset: name of the data set.
        room: folder that workers may write to.

    Raises:
        UserError: a setting that is unknown, not allowed, or in conflict.
    """
    jobs = {}
    for contender, settings in _with_settings(options, options.settings):
        job = _job(options, contender, dataset, settings, room)
        config = _checked(job, contender)
        # The worker stands elsewhere, so that a path from here would lead it astray.
        jobs[contender.name] = {**job, "folder": os.path.abspath(config["data_path"])}
    return jobs


def jobs_on_synthetic(options: Options, dataset: str, data: Path, room: Path) -> dict[str, dict[str, Any]]:
    """As `jobs_on` for a data set in the folder ``data``, of contenders that scale, with a tokenizer fitted briefly."""
    given = {name: text for name, text in options.settings.items() if name != "data_path"}
    jobs = {}
    for contender, settings in _with_settings(options, given):
        if not contender.scales:
            continue
        reduced = _REDUCED if contender.model == "REG4Rec" else {}
        job = _job(options, contender, dataset, {**reduced, **settings}, room)
        _checked(job, contender)
        jobs[contender.name] = {**job, "folder": str(data / dataset)}
    return jobs


def _with_settings(options: Options, given: Mapping[str, str]) -> list[tuple[Contender, dict[str, str]]]:
    found = []
    known = settings_for(options.contenders, given)
    for contender in options.contenders:
        settings = known[contender.name]
        if options.epochs:
            settings["epochs"] = str(options.epochs)
            if contender.aligns:
                settings.setdefault("align_epochs", str(options.epochs))
        found.append((contender, {**settings, "show_progress": "False"}))
    return found


def _job(
    options: Options, contender: Contender, dataset: str, settings: Mapping[str, str], room: Path
) -> dict[str, Any]:
    return {
        "model": contender.model,
        "dataset": dataset,
        "config_file_list": list(options.config_files) or None,
        "config_dict": dict(contender.settings),
        "command_line": dict(settings),
        "room": str(room),
    }


def _checked(job: Mapping[str, Any], contender: Contender) -> Any:
    names = ("model", "dataset", "config_file_list", "config_dict", "command_line")
    try:
        return configure(**{name: job[name] for name in names})
    except UserError as error:
        raise UserError(f"{contender.name} on {job['dataset']}: {error}") from error
