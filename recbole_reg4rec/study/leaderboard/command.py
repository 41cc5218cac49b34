"""The command ``leaderboard``: runs what is missing of a grid, writes the tables, or checks those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.files import check_tables, update_tables
from recbole_reg4rec.study.leaderboard.grid import Asked, Cell, is_trained, plan
from recbole_reg4rec.study.leaderboard.launch import Launch, inspect_data, run_job
from recbole_reg4rec.study.leaderboard.progress import Progress
from recbole_reg4rec.study.leaderboard.records import RecordBook
from recbole_reg4rec.study.leaderboard.rows import Shown, check_same_data, read_shown
from recbole_reg4rec.study.leaderboard.runner import LOGS, Outcome, Runner
from recbole_reg4rec.study.record import check_results_dir

EXIT_OK, EXIT_NOT_ALL, EXIT_INTERRUPTED = 0, 1, 130


def leaderboard(
    models: str | None = None,
    datasets: str | None = None,
    seeds: str = "5",
    variants: str | None = None,
    check: bool = False,
    config_file_list: list[str] | None = None,
    command_line: Mapping[str, str] | None = None,
    results_dir: str = "results",
    launch: Launch = run_job,
) -> int:
    """Trains what is missing and writes ``<dataset>.md``, ``.csv`` and ``.html``; see ``docs/leaderboard.md``.

    Args:
        models: names, ``MODEL`` or ``MODEL:VARIANT``, separated by commas.
        datasets: names, separated by commas.
        seeds: how many, or which, separated by commas.
        variants: YAML file of the user's variants, over ``properties/leaderboard.yaml``.
        check: recompute the tables that are there and compare; nothing is trained.
        config_file_list, command_line: settings of every cell; ``mask_history`` may also be ``both``.
        results_dir: holds the tables and ``runs/``.
        launch: does a job, see `launch.run_job`.

    Returns:
        exit code: 0; 1 when a cell failed or a table differs; 130 when interrupted.

    Raises:
        UserError: any mistake that the user can mend.
    """
    results = Path(results_dir)
    settings = dict(command_line or {})
    if check:
        return _check(results, models, datasets, settings)
    if not models or not datasets:
        missing = "--models" if not models else "--datasets"
        raise UserError(f"{missing} is missing; e.g. leaderboard --models=ItemMemory,SASRecWhole --datasets=ml-100k")
    cells = plan(Asked(models, datasets, seeds, variants, config_file_list, settings))
    check_results_dir(results)
    progress = Progress(cells, show=settings.get("show_progress", "true").lower() != "false")
    progress.tell(f"{len(cells)} cells; reading {', '.join(dict.fromkeys(cell.dataset for cell in cells))}")
    fingerprints = _inspect(cells, results, launch)
    grids = {name: _shown(cells, name) for name in fingerprints}
    if "epochs" in settings:
        for model in dict.fromkeys(cell.model for cell in cells if not is_trained(cell.model)):
            progress.say(f"note: {model} is not trained, so --epochs is not for it")
    _tell_what_changes(results, grids, fingerprints, progress)

    def write(cell: Cell) -> None:
        try:
            update_tables(results, cell.dataset, grids[cell.dataset], runner.book, fingerprints[cell.dataset])
        except UserError as error:  # told again at the end; the cells that are left need not wait for it
            progress.say(f"note: no table of {cell.dataset} for now: {error}")

    runner = Runner(results, fingerprints, progress, finished=write, launch=launch)
    try:
        outcome = runner.run(cells)
    except KeyboardInterrupt:
        progress.say("interrupted; the same command goes on where it stopped")
        return EXIT_INTERRUPTED
    for dataset, grid in grids.items():
        if update_tables(results, dataset, grid, runner.book, fingerprints[dataset]) is not None:
            progress.say(f"tables: {results / dataset}.md, .csv, .html")
    return _summary(cells, outcome, progress)


def _check(results: Path, models: str | None, datasets: str | None, settings: Mapping[str, str]) -> int:
    if models or settings:
        what = "--models" if models else f"--{next(iter(settings))}"
        raise UserError(f"--check takes no {what}: it recomputes the tables that are there, from the runs they name")
    names = [name.strip() for name in datasets.split(",") if name.strip()] if datasets else None
    differences = check_tables(results, names)
    for line in differences:
        print(line)
    again = "; the command that made the tables writes them again and trains only what is missing"
    print(f"differences: {len(differences)}{again}" if differences else "all tables agree with their records")
    return EXIT_NOT_ALL if differences else EXIT_OK


def _inspect(cells: list[Cell], results: Path, launch: Launch) -> dict[str, str]:
    """The fingerprint of every data set, before hours are spent on the first.

    Raises:
        UserError: a data set is missing or cannot be used.
    """
    found: dict[str, str] = {}
    for cell in cells:
        if cell.dataset not in found:
            job: dict[str, Any] = {name: value for name, value in cell.job.items() if name != "settings"}
            job["command_line"] = {**job["command_line"], "show_progress": "False"}
            log = results / LOGS / f"data-{cell.dataset}.log"
            found[cell.dataset] = inspect_data(job, log, launch)["fingerprint"]
    return found


def _shown(cells: list[Cell], dataset: str) -> Shown:
    return {(cell.model, cell.variant, cell.masked): cell.row_key for cell in cells if cell.dataset == dataset}


def _tell_what_changes(
    results: Path, grids: Mapping[str, Shown], fingerprints: Mapping[str, str], progress: Progress
) -> None:
    """What stands in the folder and will not be in the tables, or not any more.

    Raises:
        UserError: a table there is of other data, or cannot be read.
    """
    book = RecordBook(results / "runs")
    for file, reason in book.unreadable.items():
        progress.say(f"note: {results / 'runs' / file} is no record and is left out ({reason})")
    for dataset, grid in grids.items():
        path = results / f"{dataset}.csv"
        check_same_data(path, book, fingerprints[dataset])
        before = read_shown(path, book)
        for (model, variant, masked), row_key in grid.items():
            old = before.get((model, variant, masked))
            if old is not None and old != row_key:
                progress.say(f"note: {path} shows {model} {variant} with other settings; this grid takes its place")
        models = {model for model, _, _ in grid}
        older = [file for file, named in book.without_ranks.items() if named[0] in models and named[1] == dataset]
        if older:
            progress.say(f"note: {len(older)} records of {dataset} hold no ranks and are left out, such as {older[0]}")
        other = book.other_data(grid.values(), fingerprints[dataset])
        if other:
            progress.say(f"note: {len(other)} records of {dataset} are of other data and left out, such as {other[0]}")


def _summary(cells: list[Cell], outcome: Outcome, progress: Progress) -> int:
    if not outcome.failures:
        progress.say(f"all {len(cells)} cells are finished")
        return EXIT_OK
    for cell, reason in outcome.failures.items():
        progress.say(f"failed: {cell.title}: {reason}")
    progress.say(
        f"{len(outcome.failures)} of {len(cells)} cells failed and are not in the tables; the same command tries them "
        "again and leaves the others alone"
    )
    return EXIT_NOT_ALL
