"""A study as one HTML page that needs no network: Optuna's plots, the best trials, a curve."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Iterator, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import optuna
from optuna import visualization
from plotly import graph_objects, io
from tabulate import tabulate

from recbole_reg4rec.files import whole_file
from recbole_reg4rec.study.tuning.plan import Plan

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}
pre{background:#f6f6f6;padding:1em;overflow:auto}p.none{color:#777}"""
_TOP = 10


def write_page(
    path: Path, plan: Plan, study: optuna.Study, record: Mapping[str, Any], curve: list[dict[str, Any]] | None
) -> Path:
    """Writes the page.

    Args:
        path: of the page.
        plan, study: what is shown.
        record: from `outputs.study_record`.
        curve: rows of a one-setting study.
    """
    parts = [
        f"<h1>{html.escape(plan.name)}</h1>",
        f"<p>{html.escape(_summary(plan, record))}</p>",
        _table(plan, record),
    ]
    library: bool | str = True  # once, inside the page
    for title, figure in [*_curve(plan, curve), *_figures(plan, study)]:
        parts.append(f"<h2>{html.escape(title)}</h2>")
        if figure is None:
            parts.append('<p class="none">This plot needs more trials, or trials that differ more.</p>')
            continue
        parts.append(io.to_html(figure, full_html=False, include_plotlyjs=library))
        library = False
    body = "\n".join(parts)
    with whole_file(path, "w", encoding="utf-8") as file:
        file.write(
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(plan.name)}</title>'
            f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
        )
    return path


def _summary(plan: Plan, record: Mapping[str, Any]) -> str:
    counted = ", ".join(f"{record[name]} {name}" for name in ("complete", "pruned", "failed", "waiting"))
    return (
        f"{plan.model} on {plan.dataset}; {' and '.join(plan.objectives)} on validation; {record['trials_asked']} "
        f"trials: {counted}; sampler {record['sampler']}, pruner {record['pruner']}; "
        f"{record['train_seconds']:.0f} seconds of training."
    )


def _table(plan: Plan, record: Mapping[str, Any]) -> str:
    first = plan.objectives[0]
    sign = -1 if plan.bigger[0] else 1
    done = [row for row in record["trials"] if row["state"] == "complete"]
    best = sorted(done, key=lambda row: (sign * row[first], row["trial"]))[:_TOP]
    names = [parameter.name for parameter in plan.space.parameters]
    rows = [
        [
            f"{row['trial']}{' (default)' if row['default'] else ''}",
            *(f"{row[name]:.4f}" for name in plan.objectives),
            *(_short(row["settings"].get(name, "")) for name in names),
        ]
        for row in best
    ]
    return str(tabulate(rows, ["trial", *plan.objectives, *names], tablefmt="html", disable_numparse=True))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _curve(plan: Plan, rows: list[dict[str, Any]] | None) -> Iterator[tuple[str, Any]]:
    if rows is None or plan.curve is None:
        return
    for objective in plan.objectives:
        points = [(row[plan.curve], row[objective]) for row in rows if row.get(objective) is not None]
        x, y = [point[0] for point in points], [point[1] for point in points]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in x)
        figure = graph_objects.Figure(
            graph_objects.Scatter(x=x if numbers else [str(value) for value in x], y=y, mode="lines+markers")
        )
        figure.update_layout(xaxis_title=plan.curve, yaxis_title=f"{objective} on validation")
        yield f"{objective} against {plan.curve}", figure if points else None


def _figures(plan: Plan, study: optuna.Study) -> Iterator[tuple[str, Any]]:
    for number, objective in enumerate(plan.objectives):
        whole: dict[str, Any] = {"target_name": objective}
        if len(plan.objectives) > 1:
            whole["target"] = lambda trial, number=number: trial.values[number]
        of = f" of {objective}" if len(plan.objectives) > 1 else ""
        yield f"History{of}", _try(visualization.plot_optimization_history, study, **whole)
        if plan.curve is None:
            yield f"Importance{of}", _try(visualization.plot_param_importances, study, **whole)
            yield f"Slices{of}", _try(visualization.plot_slice, study, **whole)
            yield f"Parallel coordinates{of}", _try(visualization.plot_parallel_coordinate, study, **whole)
    if len(plan.objectives) > 1:
        names = list(plan.objectives)
        yield "Pareto front", _try(visualization.plot_pareto_front, study, target_names=names)
    else:
        yield "Validation by epoch, pruned trials included", _try(visualization.plot_intermediate_values, study)
    yield "Timeline", _try(visualization.plot_timeline, study)


def _try(plot: Callable[..., Any], study: optuna.Study, **options: Any) -> Any:
    """A plot, or None where there are too few trials for it, which each plot says in a way of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            figure = plot(study, **options)
        except (ValueError, RuntimeError, ZeroDivisionError, IndexError, KeyError) as error:
            getLogger().info("%s: %s", plot.__name__, error)
            return None
    return figure if len(figure.data) else None
