"""Tables of what was measured, in absolute figures, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tabulate import tabulate

from recbole_reg4rec.study.benchmark.contenders import PREFIXES, WHOLE, Contender
from recbole_reg4rec.study.benchmark.goals import Goal, libraries, peak, rates, ratios
from recbole_reg4rec.study.benchmark.rounds import EVALUATE, TRAIN
from recbole_reg4rec.study.benchmark.shares import PARTS, WITHIN_SEARCH, shares
from recbole_reg4rec.study.benchmark.whole_runs import METRICS


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


_GOAL_HEADER = ("data set", "what", "goal", "measured", "")


def goal_table(goals: Sequence[Goal]) -> str:
    """A line a goal: what, wanted, measured with its range, verdict."""
    return table(_GOAL_HEADER, _goal_rows(goals, "**"))


def goal_lines(goals: Sequence[Goal]) -> str:
    """`goal_table` for a terminal."""
    return tabulate(_goal_rows(goals, ""), headers=_GOAL_HEADER, disable_numparse=True)


def _goal_rows(goals: Sequence[Goal], strong: str) -> list[list[str]]:
    rows = []
    for goal in goals:
        wanted = f"{'at most' if goal.most else 'at least'} {goal.bound:g}{goal.unit}"
        measured = f"{strong}{_plain(goal.value)}{goal.unit}{strong}"
        if goal.low != goal.high:
            measured += f" ({_plain(goal.low)} to {_plain(goal.high)})"
        rows.append([goal.dataset, goal.what, wanted, measured, goal.verdict])
    return rows


def speed_table(found: Mapping[str, Any], contenders: Sequence[Contender], part: str) -> str:
    """A line a contender whose training or evaluation was timed."""
    on_gpu = any(slice_.get("peak_gpu_memory_mb") for slice_ in found["slices"])
    unit, other = ("targets", PREFIXES) if part == TRAIN else ("users", WHOLE)
    rows = []
    for contender in contenders:
        by_repeat = rates(found, part, contender.name)
        if not by_repeat:
            continue
        values = list(by_repeat.values())
        relative = ratios(found, part, contender.name, other)
        batches = sum(s["batches"] for s in found["slices"] if (s["part"], s["contender"]) == (part, contender.name))
        rows.append(
            [
                contender.name,
                contender.what,
                f"**{_plain(median(relative))}x**" if relative else "-",
                _plain(median(values)),
                f"{_plain(min(values))} to {_plain(max(values))}",
                _plain(1000 / median(values)),
                f"{peak(found, part, contender.name):.0f}",
                f"{found['contenders'][contender.name]['loaded_mb']:.0f}",
                f"{libraries(found, contender.name):.0f}",
                *([f"{peak(found, part, contender.name, 'peak_gpu_memory_mb'):.0f}"] if on_gpu else []),
                str(batches),
            ]
        )
    times = [f"against {other}", f"{unit}/s", "range", f"ms a {unit[:-1]}"]
    memory = ["peak MB", "before MB", "libraries MB", *(["peak MB of the GPU"] if on_gpu else [])]
    return table(["model", "", *times, *memory, "batches"], rows)


def share_table(found: Mapping[str, Any]) -> str:
    """A line a profiled contender: shares of scoring all items, then of the search for paths alone."""
    rows = []
    whole = [part for part in PARTS if part not in WITHIN_SEARCH]
    for name, profile in found["profiles"].items():
        part = shares(profile["parts"])
        of_search = [part.get(f"{kind} of search") for kind in WITHIN_SEARCH]
        usual = rates(found, EVALUATE, name)
        slower = median(usual.values()) * profile["seconds"] / profile["count"] - 1.0 if usual else None
        rows.append(
            [
                name,
                *(_percent(part.get(kind)) for kind in whole),
                *map(_percent, of_search),
                "-" if slower is None else f"{slower:+.0%}",
            ]
        )
    header = ["model", *whole, *(f"{kind}, of search" for kind in WITHIN_SEARCH), "slower by one thread, profiled"]
    return table(header, rows)


def preparation_table(datasets: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a data set: size, seconds of reading and of fitting codes."""
    models = list(dict.fromkeys(name for found in datasets.values() for name in found["tokenizer_seconds"]))
    rows = []
    for name, found in datasets.items():
        size = [f"{found['statistics'][key]:,}" for key in ("users", "items", "interactions")]
        fitted = [found["tokenizer_seconds"].get(model) for model in models]
        read = f"{median(found['data_seconds']):.2f}"
        rows.append([name, *size, read, *("-" if value is None else f"{value:.2f}" for value in fitted)])
    header = ["data set", "users", "items", "interactions", "reading, s", *(f"codes of {m}, s" for m in models)]
    return table(header, rows)


def accuracy_table(found: Mapping[str, Any]) -> str:
    """A line a contender that was trained."""
    rows = [
        [name, _metric(entry["recall@10"]), _metric(entry["ndcg@10"]), str(entry["epochs"]), f"{entry['seconds']:.1f}"]
        for name, entry in found["accuracy"].items()
    ]
    return table(["model", "R@10", "N@10", "epochs", "training, s"], rows)


def whole_run_table(found: Mapping[str, Any]) -> str:
    """A line a contender of which there are records of whole runs, linked."""
    rows = []
    for name, entry in found["whole_runs"].items():
        if "failed" in entry:
            rows.append([name, entry["failed"], *["-"] * 6])
            continue
        metrics = [_metric(entry[metric], entry[f"{metric}_std"]) for metric in METRICS]
        links = ", ".join(f"[{number}](runs/{file})" for number, file in enumerate(entry["runs"], 1))
        cost = [f"{entry['epochs']:.0f}", _plain(entry["train_seconds"])]
        rows.append([name, *metrics, "yes" if entry["masked"] else "no", str(len(entry["runs"])), *cost, links])
    return table(["model", "R@10", "N@10", "masked", "seeds", "epochs", "training, s", "records"], rows)


def scale_table(scale: Mapping[int, Mapping[str, Any]], exponents: Mapping[str, Mapping[str, float | None]]) -> str:
    """A line a contender and size, then its exponents."""
    rows = []
    for name, fitted in exponents.items():
        for items, found in scale.items():
            train, test = rates(found, TRAIN, name), rates(found, EVALUATE, name)
            if not train or not test:
                continue
            times = [_plain(1000 / median(values.values())) for values in (train, test)]
            memory = [f"{peak(found, part, name):.0f}" for part in (TRAIN, EVALUATE)]
            rows.append([name, f"{items:,}", *times, *memory, f"{libraries(found, name):.0f}"])
        kinds = ("seconds a target", "seconds a user", "memory training", "memory evaluating")
        values = [fitted.get(kind) for kind in kinds]
        rows.append([name, "exponent", *("-" if value is None else f"**{value:.2f}**" for value in values), ""])
    header = ["model", "items", "ms a target", "ms a user", "peak MB training", "peak MB evaluating", "libraries MB"]
    return table(header, rows)


def bound_table(found: Mapping[str, Any], contenders: Sequence[Contender], machine: Mapping[str, Any]) -> str:
    """A line a REG4Rec and part: operations, and the share of its device's rate of matrix products they come to."""
    rows = []
    for contender in contenders:
        name = contender.name
        entry = found["contenders"].get(name, {})
        if "operations" not in entry:
            continue
        on_gpu = entry["device"] != "cpu" and machine.get("gpu")
        best = machine["gpu"]["best_gflops"]["float32"] if on_gpu else machine["best_gflops"]
        for part, unit, title in ((TRAIN, "target", "training, stage 1"), (EVALUATE, "user", "evaluation")):
            values = list(rates(found, part, name).values())
            # Of stage 2 nothing is counted: its paths are sampled.
            if values and not (contender.aligns and part == TRAIN):
                operations = entry["operations"][unit]
                gflops = operations * median(values) / 1e9
                rows.append([name, title, f"{operations / 1e6:.2f}", f"{gflops:.1f}", f"**{gflops / best:.1%}**"])
    header = ["model", "", "10^6 operations a target or user", "10^9 a second", "of the rate of matrix products"]
    return table(header, rows)


def _plain(value: float) -> str:
    """Three significant digits, more before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if not value else f"{value:.1%}"


def _metric(value: float | None, deviation: float | None = None) -> str:
    text = "-" if value is None else f"{value:.4f}"
    return text if deviation is None else f"{text} ± {deviation:.4f}"
