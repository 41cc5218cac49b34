"""The `tune` command: a study from its arguments to its results."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from recbole.evaluator import smaller_metrics
from tabulate import tabulate

from recbole_reg4rec.config.values import load_yaml, parse_value
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import exclusive
from recbole_reg4rec.study.pipeline import configure
from recbole_reg4rec.study.quick_start import run
from recbole_reg4rec.study.record import check_results_dir
from recbole_reg4rec.study.registry import find_model
from recbole_reg4rec.study.tuning.life import WORKER, host
from recbole_reg4rec.study.tuning.outputs import (
    curve_rows,
    pareto,
    study_record,
    trial_rows,
    write_json,
    write_rows,
    write_settings,
    write_table,
)
from recbole_reg4rec.study.tuning.pages import write_page
from recbole_reg4rec.study.tuning.plan import SECONDS, Plan
from recbole_reg4rec.study.tuning.progress import Progress
from recbole_reg4rec.study.tuning.samplers import check_names
from recbole_reg4rec.study.tuning.slots import SLOT, Slot, counts, fill, slots
from recbole_reg4rec.study.tuning.space_files import known_for, one_setting, read_space
from recbole_reg4rec.study.tuning.spaces import Space
from recbole_reg4rec.study.tuning.storage import begin_or_join, open_storage, shown, storage_url
from recbole_reg4rec.study.tuning.trials import best_trial, checkpoint_file
from recbole_reg4rec.study.tuning.workers import Crew, quiet_optuna

_DEFAULT_TRIALS = 50
_PLACES = ("data_path", "checkpoint_dir", "tokenizer_cache")
# What the study knows of its test: one entry for each best trial that the test set was opened for.
TESTED = "tested"


def tune(
    model: str,
    dataset: str,
    config_file_list: list[str] | None = None,
    command_line: dict[str, str] | None = None,
    results_dir: str = "results",
    **arguments: str,
) -> dict[str, Any]:
    """Searches, and leaves the best settings, a table, a page and a record in the output folder.

    Args:
        model, dataset, config_file_list, command_line: as for `study.quick_start.run`; settings of the command line
            are not searched, those of files are the defaults that the first trial has.
        results_dir: where the record of the best trial's run goes, and the output folder unless it is named.
        arguments: texts of the command's own arguments, see `cli.COMMANDS`.

    Returns:
        the study's record, as written.

    Raises:
        UserError: any mistake that the user can mend; those in a search space before the first trial.
    """
    begin = time.time()
    warnings.simplefilter("ignore", ExperimentalWarning)
    quiet_optuna()
    plan = make_plan(model, dataset, config_file_list, command_line, results_dir, arguments)
    workers = _whole(arguments, "workers", 1)
    deadline = begin + _whole(arguments, "timeout", 1) if "timeout" in arguments else None
    output = check_results_dir(Path(plan.output), ".")
    study, began = begin_or_join(plan, open_storage(plan.storage))
    fill(plan, study)
    over = all(slot.finished for slot in slots(study.get_trials(deepcopy=False), plan.trials))
    _introduce(plan, began)
    shows = plan.base["show_progress"] is not False
    progress = Progress(plan, shows and sys.stderr.isatty(), deadline)
    try:
        Crew(plan, workers, deadline, progress).run()
    except KeyboardInterrupt:
        print(f"the study {plan.name} is kept in {shown(plan.storage)}; the same command goes on with it")
        raise
    finally:
        progress.close()
    test = _test_best(plan, study, results_dir, over)
    return _write_results(plan, study, output, test, time.time() - begin)


def make_plan(
    model: str,
    dataset: str,
    config_file_list: list[str] | None,
    command_line: dict[str, str] | None,
    results_dir: str,
    arguments: Mapping[str, str],
) -> Plan:
    """Everything that is decided before the first trial.

    Raises:
        UserError: see `tune`.
    """
    given, files = dict(command_line or {}), list(config_file_list or [])
    model_class = find_model(model)
    names = _names(arguments.get("objective") or given.get("valid_metric"))
    if names and given.pop("valid_metric", names[0]).lower() != names[0].lower():
        raise UserError(f"--valid_metric is not --objective={names[0]}, which trials are judged by; leave it out")
    config = configure(model, dataset, files, {"valid_metric": names[0]} if names else None, given)
    objectives = names or (str(config["valid_metric"]),)
    bigger = _directions(objectives, config)
    sampler, pruner = arguments.get("sampler", "tpe"), arguments.get("pruner", "median")
    space, curve = _space(model, model_class, dataset, arguments)
    in_files = {name for path in files for name in load_yaml(path)}
    kept = {name: value for name, value in space.fixed.items() if name not in in_files}
    space = Space(space.parameters, kept, space.symbols, space.origin).without(set(given))
    if not space.parameters:
        raise UserError("the command line gives every setting that the search space searches; leave one out")
    check_names(sampler, pruner, len(objectives))
    if curve or len(objectives) > 1:
        pruner = "none"
    name = arguments.get("name") or "-".join([model, dataset, *([curve] if curve else [])])
    if not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
        raise UserError(f"--name is `{name}`, but it must be usable as the name of a folder")
    output = Path(arguments.get("output") or Path(results_dir) / "tuning" / name).expanduser()
    plan = Plan(
        model=model,
        dataset=dataset,
        config_files=tuple(files),
        command_line=given,
        space=space,
        name=name,
        storage=storage_url(arguments.get("storage"), output),
        output=str(output),
        trials=0,
        objectives=objectives,
        bigger=bigger,
        sampler=sampler,
        pruner=pruner,
        curve=curve,
        seed=int(config["seed"]),
    )
    queue: tuple[dict[str, Any], ...] = ()
    if curve or sampler == "grid":
        queue = tuple(space.grid(plan.base))
    trials = _whole(arguments, "trials", len(queue) or _DEFAULT_TRIALS)
    trials = min(trials, len(queue)) if queue else trials
    return Plan(**{**_fields(plan), "queue": queue, "trials": trials})


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in Plan.__dataclass_fields__}


def _space(model: str, model_class: type, dataset: str, arguments: Mapping[str, str]) -> tuple[Space, str | None]:
    """The search space, and the setting of a one-setting study."""
    path, curve, values = arguments.get("space"), arguments.get("study"), arguments.get("values")
    if values is not None and curve is None:
        raise UserError("--values says what --study=SETTING tries; give both, or leave --values out")
    if curve is None:
        return read_space(path, model, model_class, dataset), None
    try:
        whole = read_space(path, model, model_class, dataset)
    except UserError:
        if path is not None or values is None:
            raise
        whole = None
    listed = parse_value(values) if values is not None else None
    if values is not None and not isinstance(listed, (list, tuple)):
        raise UserError(f"--values is `{values}`, but it must be a list such as [2,4,8]")
    space = one_setting(curve, list(listed) if listed is not None else None, whole, known_for(model_class, dataset))
    return space, space.parameters[0].name


def _names(text: str | None) -> tuple[str, ...]:
    """What trials are judged by, as the user writes it."""
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.strip("[]() ").split(",") if part.strip())
    if not 1 <= len(names) <= 2 or len({name.lower() for name in names}) < len(names) or names[0] == SECONDS:
        raise UserError(f"--objective is `{text}`, but it must be one metric, or two such as NDCG@10,{SECONDS}")
    return names


def _directions(objectives: tuple[str, ...], config: Any) -> tuple[bool, ...]:
    """For each objective, whether more is better; the configuration has checked the first one."""
    known = {f"{metric}@{depth}".lower() for metric in config["metrics"] for depth in config["topk"]}
    for name in objectives[1:]:
        if name != SECONDS and name.lower() not in known:
            raise UserError(
                f"--objective names `{name}`, but it must be one of the metrics {list(config['metrics'])} at one of "
                f"the depths {list(config['topk'])}, such as NDCG@10, or {SECONDS}"
            )
    return tuple(name != SECONDS and name.split("@")[0].lower() not in smaller_metrics for name in objectives)


def _whole(arguments: Mapping[str, str], name: str, default: int) -> int:
    text = arguments.get(name)
    if text is None:
        return default
    value = parse_value(text)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"--{name} is `{text}`, but it must be a whole number >= 1")
    return value


def _introduce(plan: Plan, began: bool) -> None:
    print(f"{'study' if began else 'going on with the study'} {plan.name} in {shown(plan.storage)}")
    print(f"{plan.trials} trials, {' and '.join(plan.objectives)} on validation; searched from {plan.space.origin}:")
    for parameter in plan.space.parameters:
        print(f"    {parameter.name}: {parameter.describe()}")
    if plan.space.fixed:
        print("    fixed: " + ", ".join(f"{name}={value}" for name, value in plan.space.fixed.items()))
    if len(plan.objectives) > 1:
        print("two objectives: no trial is pruned, since Optuna compares curves of one objective only")
    elif plan.curve:
        print("a curve: no trial is pruned, and the test set stays closed")
    if plan.storage.startswith("sqlite:///"):
        print(f"look at it while it runs: optuna-dashboard {plan.storage}")


def _test_best(plan: Plan, study: optuna.Study, results_dir: str, over: bool) -> dict[str, Any] | None:
    """Opens the test set for the best trial, once; the run starts from the file that the user is given.

    The machine that has the best model does it, or any on which the command is started when the study is ``over``.
    """
    best = best_trial(study)
    if plan.curve is not None or best is None:
        return None
    path = write_settings(Path(plan.output) / "best.yaml", plan, best, "Best settings")
    with exclusive(Path(plan.output) / ".test.lock"):
        tested: list[dict[str, Any]] = study.user_attrs.get(TESTED, [])
        found = next((entry for entry in tested if entry["trial"] == best.user_attrs[SLOT]), None)
        if found is not None:
            return found
        there = best.user_attrs.get(WORKER, {}).get("host")
        if there != host() and not over:
            print(f"the best trial ran on {there}, which tests it; should it not, start this command once more")
            return None
        print(f"best trial {best.user_attrs[SLOT]}, run from {path}:")
        record = run(
            plan.model,
            plan.dataset,
            [str(path)],
            _places(plan),
            resume=True,
            checkpoint=str(checkpoint_file(plan, best.user_attrs[SLOT])),
            results_dir=results_dir,
        )
        _compare(plan, best, _judged(record))
        entry = {"trial": best.user_attrs[SLOT], "valid": record["valid"], "test": record["test"]}
        study.set_user_attr(TESTED, [*tested, entry])
        return entry


def _judged(record: Mapping[str, Any]) -> Mapping[str, float]:
    """What a trial is judged by: validation in training, before weights and gate were fitted on it."""
    stages = record["stages"]
    found: Mapping[str, float] = (stages.get(stages["winner"]) or {}).get("best_valid") or record["valid"]
    return found


def _compare(plan: Plan, best: FrozenTrial, valid: Mapping[str, float]) -> None:
    """Says so where the model had to be trained again and came out otherwise."""
    metric = plan.objectives[0].lower()
    again = {name.lower(): value for name, value in valid.items()}.get(metric)
    if again is not None and abs(again - best.values[0]) > 1e-6:
        print(
            f"trained again on this machine, {plan.objectives[0]} on validation is {again:.6f} instead of "
            f"{best.values[0]:.6f}: another processor, number of threads or library adds in another order"
        )


def _places(plan: Plan) -> dict[str, Any]:
    """Where things lie, and how the run is watched: the settings that the file of the best ones leaves out."""
    given = plan.configure({}).external_config_dict
    left_out = (*_PLACES, "use_gpu", "gpu_id", "show_progress", "state", "worker")
    return {name: given[name] for name in left_out if name in given}


def _write_results(
    plan: Plan, study: optuna.Study, output: Path, test: dict[str, Any] | None, wall: float
) -> dict[str, Any]:
    trials = study.get_trials(deepcopy=False)
    table: list[Slot] = slots(trials, plan.trials)
    record = study_record(plan, study, table, test, wall)
    rows = curve_rows(plan, table) if plan.curve else None
    written = [write_table(output / "trials.csv", plan, trial_rows(plan, trials))]
    best = best_trial(study)
    if best is not None and plan.curve is None:
        written.append(output / "best.yaml")
    if len(plan.objectives) > 1:
        for trial in pareto(study):
            name = f"pareto-{trial.user_attrs[SLOT]}.yaml"
            written.append(write_settings(output / name, plan, trial, "Settings on the Pareto front"))
    if rows is not None:
        record["curve"] = rows
        written.append(write_rows(output / "curve.csv", rows))
    written.append(write_page(output / "study.html", plan, study, record, rows))
    written.append(write_json(output / "study.json", record))
    _summarise(plan, record, rows)
    print("written: " + ", ".join(map(str, written)))
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(f"no trial of the study {plan.name} ended well; {output / 'trials.csv'} says why")
    return record


def _summarise(plan: Plan, record: Mapping[str, Any], rows: list[dict[str, Any]] | None) -> None:
    if rows is not None:
        print(tabulate(rows, headers="keys", floatfmt=".4f"))
        return
    found = {name: record[name] for name in counts([])}
    print(", ".join(f"{number} {name}" for name, number in found.items()))
    metric = plan.objectives[0]
    best, default = record["best"], record["default"]
    if not best:
        return
    line = f"best trial {best['trial']}: {metric} {best[metric]:.4f} on validation"
    if default and default[metric] is not None:
        line += f", default settings {default[metric]:.4f}"
    print(line)
    if record["test"]:
        test = {name.lower(): value for name, value in record["test"]["test"].items()}
        if metric.lower() in test:
            print(f"on test, opened once for this trial: {metric} {test[metric.lower()]:.4f}")
