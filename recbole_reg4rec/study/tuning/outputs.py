"""What a study leaves: the best settings, all trials as a table, and a record that programs read."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from recbole_reg4rec.config.values import UserLoader
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import whole_file
from recbole_reg4rec.study.record import portable_settings
from recbole_reg4rec.study.tuning.plan import Plan
from recbole_reg4rec.study.tuning.slots import ATTEMPT, DEFAULT, FAILURE, LOST, SLOT, Slot, counts
from recbole_reg4rec.study.tuning.storage import shown
from recbole_reg4rec.study.tuning.trials import COST, SAME_AS, SETTINGS, VALID, best_trial
from recbole_reg4rec.versions import collect_versions

# They say where and how a run is watched, not what it computes.
_OF_THE_MACHINE = frozenset({"use_gpu", "gpu_id", "show_progress", "state", "worker", "log_wandb", "wandb_project"})


def given_settings(plan: Plan, trial: FrozenTrial) -> dict[str, Any]:
    """Everything that makes a run of this trial: what was searched or fixed, and what the user gave."""
    given = plan.configure(trial.user_attrs[SETTINGS]).external_config_dict
    return {name: value for name, value in portable_settings(given).items() if name not in _OF_THE_MACHINE}


def write_settings(path: Path, plan: Plan, trial: FrozenTrial, what: str) -> Path:
    """A file for ``--config_files``; a comment above says where the settings come from."""
    settings = given_settings(plan, trial)
    text = yaml.safe_dump(settings, sort_keys=True, allow_unicode=True, default_flow_style=False)
    if yaml.load(text, Loader=UserLoader) != settings:
        raise RuntimeError(f"the settings {settings} do not survive being written as YAML")
    values = ", ".join(f"{n} {v:.6f}" for n, v in zip(plan.objectives, trial.values, strict=True))
    head = (
        f"# {what} of the study {plan.name}: trial {trial.user_attrs[SLOT]}, {values} on validation.\n"
        f"# Run it: python -m recbole_reg4rec --model={plan.model} --dataset={plan.dataset} "
        f"--config_files={path.name}\n"
    )
    return _write(path, head + text)


def trial_rows(plan: Plan, trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """One dictionary a trial, in the order of their numbers; trials whose process was lost have the state `lost`."""
    rows = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        marks = trial.user_attrs
        if SLOT not in marks or not trial.state.is_finished():
            continue
        values = trial.values if trial.state == TrialState.COMPLETE else None
        rows.append(
            {
                "trial": marks[SLOT],
                "number": trial.number,
                "state": "lost" if trial.state == TrialState.FAIL and marks.get(LOST) else trial.state.name.lower(),
                "default": bool(marks.get(DEFAULT)),
                **dict(zip(plan.objectives, values or [None] * len(plan.objectives), strict=True)),
                "last": trial.intermediate_values[max(trial.intermediate_values)]
                if trial.intermediate_values
                else None,
                "validations": len(trial.intermediate_values),
                **{name: None for name in ("epochs", "train_seconds")},
                **marks.get(COST, {}),
                "same_as": marks.get(SAME_AS),
                "attempt": marks.get(ATTEMPT, 1),
                "failure": marks.get(FAILURE),
                "began": str(trial.datetime_start or ""),
                "ended": str(trial.datetime_complete or ""),
                "settings": marks.get(SETTINGS, {}),
            }
        )
    return rows


def write_table(path: Path, plan: Plan, rows: list[dict[str, Any]]) -> Path:
    """All trials as CSV, one column a searched setting."""
    names = [parameter.name for parameter in plan.space.parameters]
    # A setting may be called like a column, e.g. `epochs`.
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "settings"))
    with whole_file(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *(f"setting {name}" for name in names)])
        for row in rows:
            settings = [row["settings"].get(name) for name in names]
            writer.writerow([*(row.get(column) for column in columns), *settings])
    return path


def study_record(
    plan: Plan, study: optuna.Study, table: list[Slot], test: Mapping[str, Any] | None, wall: float
) -> dict[str, Any]:
    """Everything about a study as plain data."""
    trials = study.get_trials(deepcopy=False)
    best, default = best_trial(study), next((s.finished for s in table if s.finished and _is_default(s)), None)
    seconds = sum(t.user_attrs.get(COST, {}).get("train_seconds", 0) for t in trials if SAME_AS not in t.user_attrs)
    record: dict[str, Any] = {
        "study": plan.name,
        "model": plan.model,
        "dataset": plan.dataset,
        "objectives": dict(zip(plan.objectives, plan.directions, strict=True)),
        "sampler": plan.sampler,
        "pruner": plan.pruner if len(plan.objectives) == 1 and plan.curve is None else "none",
        "storage": "sqlite" if plan.storage.startswith("sqlite") else shown(plan.storage).split(":")[0],
        "space": plan.space.as_dict(),
        "settings": portable_settings(plan.contract()["settings"]),
        "trials_asked": plan.trials,
        **counts(table),
        "train_seconds": round(seconds, 3),
        "seconds_of_this_command": round(wall, 3),
        "default": _brief(plan, default),
        "best": _brief(plan, best),
        "test": dict(test) if test else None,
        "versions": {**collect_versions(), "optuna": optuna.__version__},
    }
    if best and default and default.values and default.state == TrialState.COMPLETE:
        record["gain_on_validation"] = best.values[0] - default.values[0]
    if len(plan.objectives) > 1:
        record["pareto"] = [_brief(plan, trial) for trial in pareto(study)]
    record["trials"] = trial_rows(plan, trials)
    return record


def pareto(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that no other beats in both objectives, best first objective first, each result once."""
    front = {tuple(t.values): t for t in sorted(study.best_trials, key=lambda t: -t.number) if SLOT in t.user_attrs}
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return sorted(front.values(), key=lambda trial: sign * trial.values[0])


def write_json(path: Path, record: Mapping[str, Any]) -> Path:
    """Numbers that are not finite become null."""
    return _write(path, json.dumps(_finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def curve_rows(plan: Plan, table: list[Slot]) -> list[dict[str, Any]]:
    """The values of a one-setting study in order, with every metric on validation that the trial ended with."""
    (parameter,) = plan.space.parameters
    rows = []
    for value, slot in zip(parameter.choices, table, strict=False):
        trial = slot.finished
        done = trial is not None and trial.state == TrialState.COMPLETE
        marks = trial.user_attrs if trial is not None and done else {}
        seconds = marks.get(COST, {}).get("train_seconds")
        rows.append({parameter.name: value, **marks.get(VALID, {}), "seconds": seconds})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Plain rows as CSV; the columns are those of all rows together."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _is_default(slot: Slot) -> bool:
    return slot.finished is not None and bool(slot.finished.user_attrs.get(DEFAULT))


def _brief(plan: Plan, trial: FrozenTrial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    values = trial.values if trial.state == TrialState.COMPLETE else [None] * len(plan.objectives)
    return {
        "trial": trial.user_attrs[SLOT],
        **dict(zip(plan.objectives, values, strict=True)),
        "valid": trial.user_attrs.get(VALID),
        "settings": trial.user_attrs.get(SETTINGS),
        "cost": trial.user_attrs.get(COST),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> Path:
    try:
        with whole_file(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); set --output") from error
    return path
