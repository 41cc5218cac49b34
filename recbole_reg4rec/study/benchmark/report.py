"""The text of ``benchmark.md``: ratios against the goals, absolute figures, how it was measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_reg4rec.study.benchmark import tables
from recbole_reg4rec.study.benchmark.contenders import Contender
from recbole_reg4rec.study.benchmark.goals import Goal
from recbole_reg4rec.study.benchmark.options import Options
from recbole_reg4rec.study.benchmark.rounds import EVALUATE, TRAIN
from recbole_reg4rec.study.record import portable_settings


def command_line(options: Options) -> str:
    """The command that measures the same again, without places of this machine."""
    parts = [
        f"--datasets={','.join(options.datasets)}",
        f"--models={','.join(contender.name for contender in options.contenders)}",
        f"--seconds={options.seconds:g}",
        f"--repeats={options.repeats}",
        f"--threads={options.threads}",
        f"--epochs={options.epochs}",
    ]
    if options.scale:
        parts.append(f"--scale={','.join(map(str, options.scale))}")
    parts += [f"--{name}={text}" for name, text in portable_settings(options.settings).items()]
    return f"python -m recbole_reg4rec benchmark {shlex.join(parts)}"


def markdown(
    options: Options,
    content: Mapping[str, Any],
    goals: Sequence[Goal],
    exponents: Mapping[str, Mapping[str, float | None]],
) -> str:
    """The whole page.

    Args:
        options: what was asked.
        content: what goes into ``benchmark.json``, with ``scale`` by number of items.
        goals: judged.
        exponents: see `goals.growth`; empty without synthetic catalogues.
    """
    machine = content["machine"]
    parts = [
        "# Benchmark",
        f"{_hardware(machine)}, {_threads(options.threads)}; torch {content['versions']['torch']}, "
        f"{content['versions']['platform']}; {content['started']}. {_load(content['load_before'])}",
        "## Ratios against the goals",
        _verdicts(goals),
    ]
    if goals:
        parts.append(tables.goal_table(goals))
    for dataset, found in content["datasets"].items():
        parts += _dataset(dataset, found, options.contenders, machine)
    parts += ["## Reading data and fitting codes", tables.preparation_table(content["datasets"])]
    if content["scale"]:
        parts += [
            "## Growth with the catalogue",
            "Synthetic catalogues, popularity and lengths of histories by power laws, half as many users as items, "
            "codes fitted briefly. Exponents by least squares in double logarithms; those of memory are of what comes "
            "on top of the libraries.",
            tables.scale_table(content["scale"], exponents),
            tables.preparation_table({f"{items:,} items": found for items, found in content["scale"].items()}),
        ]
        for items, found in content["scale"].items():
            if found["profiles"]:
                parts += [f"### Shares of decoding, {items:,} items", tables.share_table(found)]
            parts += _failures(f"{items:,} items", found)
    return "\n\n".join([*parts, *_method(options, machine)]) + "\n"


def _dataset(
    dataset: str, found: Mapping[str, Any], contenders: Sequence[Contender], machine: Mapping[str, Any]
) -> list[str]:
    parts = [f"## {dataset}"]
    for title, part in (("Training", TRAIN), ("Full-sort evaluation", EVALUATE)):
        if any(slice_["part"] == part for slice_ in found["slices"]):
            parts += [f"### {title}", tables.speed_table(found, contenders, part)]
    if found["profiles"]:
        parts += [
            "### What decoding spends its time on",
            "Shares of scoring all items of a user, of which the search for paths is one; decoder and token head lie "
            "within it. Catalogue (open, narrow and feasible together) and CORP as shares of the search alone.",
            tables.share_table(found),
        ]
    if found["accuracy"]:
        parts += ["### Accuracy of what is timed, on test", tables.accuracy_table(found)]
    if found["whole_runs"]:
        parts += [
            "### Accuracy of whole runs, on test",
            "Runs in `runs/` with the settings of what is timed, on the same data: means over seeds, ± the standard "
            "deviation. Of models not named there is none.",
            tables.whole_run_table(found),
        ]
    if any("operations" in entry for entry in found["contenders"].values()):
        parts += ["### Against the bound", tables.bound_table(found, contenders, machine)]
    return parts + _failures(dataset, found)


def _hardware(machine: Mapping[str, Any]) -> str:
    gpu = machine.get("gpu")
    return f"{gpu['name']} beside {machine['processor']}" if gpu else str(machine["processor"])


def _failures(where: str, found: Mapping[str, Any]) -> list[str]:
    return [f"Failed on {where}: {name}: {reason}" for name, reason in found["failed"].items()]


def _verdicts(goals: Sequence[Goal]) -> str:
    if not goals:
        return "The models chosen allow no goal to be judged."
    met = sum(goal.met for goal in goals)
    return f"{met} of {len(goals)} goals met. Ratios are medians over the repeats, their range in brackets."


def _load(before: float | None) -> str:
    """What others did meanwhile decides how far absolute figures can be trusted."""
    if before is None:
        return "Whether other processes were at work is not known."
    return f"Load of the machine before the start: {before:.1f} processes."


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _method(options: Options, machine: Mapping[str, Any]) -> list[str]:
    state = (
        f"{options.epochs} epochs (of each stage), the best of which is evaluated"
        if options.epochs
        else f"{options.seconds:g} s of training to warm up, in stage 2 after as much of stage 1"
    )
    products = ", ".join(f"{shape}: {rate:.1f}" for shape, rate in machine["gemm_gflops"].items())
    return [
        "## How it was measured",
        f"Every model in a process of its own, all on {_threads(options.threads)}, one at work at a time: "
        f"{options.repeats} rounds of training in which each takes a slice of {options.seconds:g} s (whole "
        "batches), then as many of evaluation. Figures are medians over the rounds; a ratio is taken within a round. "
        f"The weights are those after {state}. Training is the trainer's own step, loading of batches included; "
        "evaluation ranks all items and computes the metrics, as after an epoch. Each model has its own settings, "
        "batch sizes included.",
        "Peak memory is the largest resident size of the process during its slices, libraries and data included. "
        "Shares of decoding come from a further slice by one thread, under Python's profiler. Operations are counted "
        "from the shapes: matrix products and attention that the method cannot do without, a multiplication and an "
        "addition being two, padding, closed codebooks and everything that is no product left out.",
        f"Matrix products in float32, 10^9 operations a second: {products}; best {machine['best_gflops']:.1f}. "
        f"Copying: {machine['copy_gb_a_second']:.1f} GB/s read and written. Measured before and after, the better "
        "counts.",
        *_gpu(machine),
        f"```\n{command_line(options)}\n```",
    ]


def _gpu(machine: Mapping[str, Any]) -> list[str]:
    gpu = machine.get("gpu")
    if not gpu:
        return []
    products = "; ".join(
        f"{name}: " + ", ".join(f"{shape}: {rate:,.0f}" for shape, rate in rates.items())
        for name, rates in gpu["gemm_gflops"].items()
    )
    return [
        f"The GPU's matrix products, 10^9 operations a second: {products}. Copying: {gpu['copy_gb_a_second']:,.0f} "
        "GB/s. The bound is that of float32 on the device that a model ran on, whatever the precision of the model. "
        "The goals are those for two cores of a processor. Shares of decoding are of the time in which the processor "
        "hands work to the GPU or waits for it, not of the GPU's own."
    ]
