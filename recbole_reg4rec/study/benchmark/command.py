"""The command ``benchmark``: speed and memory of all models side by side, on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from time import localtime, strftime
from typing import Any

from tqdm import tqdm

from recbole_reg4rec.files import whole_file
from recbole_reg4rec.study.benchmark.contenders import Contender
from recbole_reg4rec.study.benchmark.goals import Goal, goals_on, growth, growth_goals
from recbole_reg4rec.study.benchmark.jobs import jobs_on, jobs_on_synthetic
from recbole_reg4rec.study.benchmark.machine import load, processor
from recbole_reg4rec.study.benchmark.options import Options, read_options
from recbole_reg4rec.study.benchmark.process import Start, Worker, WorkerProcess
from recbole_reg4rec.study.benchmark.report import command_line as own_command_line
from recbole_reg4rec.study.benchmark.report import markdown
from recbole_reg4rec.study.benchmark.rounds import Tell, number_of_steps, take_turns
from recbole_reg4rec.study.benchmark.synthetic import write_catalogue
from recbole_reg4rec.study.benchmark.tables import goal_lines
from recbole_reg4rec.study.benchmark.whole_runs import whole_runs
from recbole_reg4rec.study.leaderboard.records import RecordBook
from recbole_reg4rec.study.record import check_results_dir, plain, portable_settings, unwritable
from recbole_reg4rec.versions import collect_versions


def benchmark(
    datasets: str = "ml-100k",
    models: str | None = None,
    seconds: str = "5",
    repeats: str = "3",
    threads: str | None = None,
    epochs: str = "0",
    scale: str | None = None,
    config_file_list: list[str] | None = None,
    command_line: Mapping[str, str] | None = None,
    results_dir: str = "results",
    start: Start = WorkerProcess,
) -> dict[str, Any]:
    """Times everything in turns and writes ``benchmark.md`` and ``benchmark.json``; nothing where something fails.

    Args:
        datasets: names, separated by commas.
        models: names of `contenders.all_contenders`, separated by commas; all when not given.
        seconds: how long a slice lasts.
        repeats: slices of each model's training, and of its evaluation.
        threads: for each worker; torch's own number when not given.
        epochs: whole epochs to train for accuracy before the slices, 0 for none.
        scale: numbers of items of synthetic catalogues, separated by commas; none when not given.
        config_file_list, command_line: settings of every model that knows them.
        results_dir: where the two files go.
        start: starts a worker, see `process.Worker`.

    Returns:
        what ``benchmark.json`` holds.

    Raises:
        UserError: any mistake that the user can mend.
    """
    settings = dict(command_line or {})
    options = read_options(
        datasets, models, seconds, repeats, threads or _threads(), epochs, scale, config_file_list, settings
    )
    with tempfile.TemporaryDirectory(prefix="reg4rec-benchmark-") as folder:
        # All of them before anything is started, so that no mistake is found out late.
        jobs = {name: jobs_on(options, name, Path(folder) / name) for name in options.datasets}
        results = check_results_dir(Path(results_dir), ".")
        show = settings.get("show_progress", "true").lower() != "false"
        content = _measure(options, jobs, Path(folder), start, show)
    book = RecordBook(results / "runs")
    for found in content["datasets"].values():
        found["whole_runs"] = whole_runs(book, found)
    goals = [goal for name, found in content["datasets"].items() for goal in goals_on(name, found)]
    exponents = growth(content["scale"]) if content["scale"] else {}
    goals += growth_goals(exponents, content["scale"])
    content.update(goals=[_as_dict(goal) for goal in goals], exponents=exponents)
    content = plain(content)
    _write(results, content, markdown(options, {**content, "scale": _by_number(content["scale"])}, goals, exponents))
    if goals:
        print(goal_lines(goals))
    print(f"benchmark: {results / 'benchmark.md'}, {results / 'benchmark.json'}")
    return content


def _threads() -> str:
    import torch

    return str(torch.get_num_threads())


def _measure(
    options: Options, jobs: Mapping[str, Mapping[str, Any]], folder: Path, start: Start, show: bool
) -> dict[str, Any]:
    """Everything that takes time, as plain data."""
    scaling = [contender for contender in options.contenders if contender.scales]
    total = 2 + len(options.datasets) * number_of_steps(options.contenders, options.repeats)
    total += len(options.scale) * (1 + number_of_steps(scaling, options.repeats))
    content: dict[str, Any] = {
        "command": own_command_line(options),
        "started": strftime("%Y-%m-%d %H:%M", localtime()),
        "load_before": load(),
        "versions": collect_versions(),
        "options": {
            "datasets": options.datasets,
            "models": {contender.name: asdict(contender) for contender in options.contenders},
            "seconds": options.seconds,
            "repeats": options.repeats,
            "threads": options.threads,
            "epochs": options.epochs,
            "scale": options.scale,
            "settings": portable_settings(options.settings),
        },
        "datasets": {},
        "scale": {},
    }
    with tqdm(total=total, disable=not show, unit="step", ncols=100) as bar, ExitStack() as stack:
        tell = _teller(bar)
        helper = start("helper", folder / "helper", options.threads)
        stack.callback(helper.close)

        def turns(name: str, who: Sequence[Contender], what: Mapping[str, Any], trained: bool) -> dict[str, Any]:
            return take_turns(name, who, what, options, helper, start, folder / name, tell, trained)

        before = _rates(helper, options, tell)
        for name in options.datasets:
            content["datasets"][name] = turns(name, options.contenders, jobs[name], options.epochs > 0)
        for items in options.scale:
            tell(f"writing a catalogue of {items:,} items")
            name = write_catalogue(folder / "data", items)
            job = jobs_on_synthetic(options, name, folder / "data", folder / name)
            content["scale"][items] = turns(name, scaling, job, False)
        content["machine"] = {"processor": processor(), **_better(before, _rates(helper, options, tell))}
        bar.update()
    return content


def _teller(bar: Any) -> Tell:
    """Shows what is at work; the step before is then done."""
    first = True

    def tell(title: str) -> None:
        nonlocal first
        if not first:
            bar.update()
        first = False
        bar.set_description(title)

    return tell


def _rates(helper: Worker, options: Options, tell: Tell) -> dict[str, Any]:
    tell("matrix products")
    settings = options.settings
    used = settings.get("use_gpu", "true").lower() != "false"
    number = settings.get("gpu_id", "0").strip("[]() ").partition(",")[0]
    return helper.ask(
        {"do": "machine", "seconds": options.seconds, "gpu": int(number) if used and number.isdigit() else None}
    )


def _better(one: Any, other: Any) -> Any:
    """Of two measurements of the machine the better figure each: what disturbed one of them was somebody else."""
    if isinstance(one, Mapping):
        return {name: _better(value, other[name]) for name, value in one.items()}
    return max(one, other) if isinstance(one, int | float) else one


def _as_dict(goal: Goal) -> dict[str, Any]:
    return {**asdict(goal), "met": goal.met, "verdict": goal.verdict}


def _by_number(scale: Mapping[str, Any]) -> dict[int, Any]:
    """JSON made texts of the numbers of items."""
    return {int(items): found for items, found in scale.items()}


def _write(results: Path, content: Mapping[str, Any], text: str) -> None:
    """Both files or, where the disk is full, neither new one."""
    encoded = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with ExitStack() as stack:
            for name, what in (("benchmark.json", encoded), ("benchmark.md", text)):
                file = stack.enter_context(whole_file(results / name, "w", encoding="utf-8", newline="\n"))
                file.write(what)
                file.flush()
    except OSError as error:
        raise unwritable(results, error) from error
