"""The order of a benchmark: everybody is built and warmed up, then contenders take turns, slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.benchmark.contenders import Contender
from recbole_reg4rec.study.benchmark.options import Options
from recbole_reg4rec.study.benchmark.process import Start, Worker
from recbole_reg4rec.study.registry import find_model

TRAIN, EVALUATE, PROFILE = "train", "evaluate", "profile"
# Told before every step: what is at work.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One request to one contender; ``repeat`` counts slices from 1, 0 for what is not a slice."""

    contender: Contender
    do: str
    repeat: int = 0

    def title(self, dataset: str) -> str:
        """For the progress bar."""
        return f"{dataset} {self.contender.name} {self.do}{f' {self.repeat}' if self.repeat else ''}"


def token_models(contenders: Sequence[Contender]) -> list[Contender]:
    """One contender for each tokenizer, or one at all: what has to be prepared before anybody is built."""
    found = {c.model: c for c in reversed(contenders) if getattr(find_model(c.model), "needs_tokens", False)}
    return list(reversed(found.values())) or list(contenders[:1])


def steps(contenders: Sequence[Contender], repeats: int, trained: bool) -> list[Step]:
    """All steps after preparing; see the module's text.

    Args:
        contenders: in the order of their turns.
        repeats: slices each.
        trained: train whole epochs for the sake of accuracy, instead of a slice to warm up.
    """
    found = [Step(c, "load") for c in contenders]
    found += [Step(c, "accuracy" if trained else "warm") for c in contenders]
    found += [Step(c, "align") for c in contenders if c.aligns]
    rounds = range(1, repeats + 1)
    found += [Step(c, TRAIN, repeat) for repeat in rounds for c in contenders if c.trains]
    found += [Step(c, EVALUATE, repeat) for repeat in rounds for c in contenders if c.evaluates]
    return found + [Step(c, PROFILE) for c in contenders if c.profiles]


def number_of_steps(contenders: Sequence[Contender], repeats: int) -> int:
    """Of `take_turns`, preparing included."""
    return len(token_models(contenders)) + len(steps(contenders, repeats, False))


def take_turns(
    dataset: str,
    contenders: Sequence[Contender],
    jobs: Mapping[str, Mapping[str, Any]],
    options: Options,
    helper: Worker,
    start: Start,
    room: Path,
    tell: Tell,
    trained: bool,
) -> dict[str, Any]:
    """Measures all contenders on one data set.

    Args:
        dataset: its name, to be shown.
        contenders: in the order of their turns.
        jobs: by the name of the contender, see `jobs`.
        options: seconds, repeats, threads.
        helper: a worker that prepares.
        start: starts a worker for each contender.
        room: folder that workers write to.
        tell: told before every step.
        trained: see `steps`.

    Returns:
        plain data: ``statistics``, ``fingerprint``, ``data_seconds``, ``tokenizer_seconds`` by model, ``contenders``
        (see `Bench.load`), ``slices``, ``profiles``, ``accuracy``, and ``failed``, reasons by contender.

    Raises:
        UserError: the data cannot be used, or nobody could be timed.
    """
    found = _prepare(dataset, token_models(contenders), jobs, helper, tell)
    found.update(contenders={}, slices=[], profiles={}, accuracy={}, failed={})
    workers: dict[str, Worker] = {}
    try:
        for step in steps(contenders, options.repeats, trained):
            tell(step.title(dataset))
            name = step.contender.name
            if name in found["failed"]:
                continue
            try:
                if step.do == "load":
                    workers[name] = start(f"{dataset}-{name}", room, options.threads)
                _take(step, workers[name], jobs[name], options.seconds, found)
            except UserError as error:
                found["failed"][name] = str(error)
                workers[name].close()
    finally:
        for worker in workers.values():
            worker.close()
    if len(found["failed"]) == len(contenders):
        name, reason = next(iter(found["failed"].items()))
        raise UserError(f"no model could be timed on {dataset}; {name}: {reason}")
    return found


def _prepare(
    dataset: str,
    contenders: Sequence[Contender],
    jobs: Mapping[str, Mapping[str, Any]],
    helper: Worker,
    tell: Tell,
) -> dict[str, Any]:
    data_seconds, tokenizer_seconds, known = [], {}, {}
    for contender in contenders:
        tell(Step(contender, "prepare").title(dataset))
        try:
            answer = helper.ask({**jobs[contender.name], "do": "prepare"})
        except UserError as error:
            raise UserError(f"data set {dataset} cannot be used: {error}") from error
        data_seconds.append(answer["data_seconds"])
        if answer["tokenizer_seconds"] is not None:
            tokenizer_seconds[contender.model] = answer["tokenizer_seconds"]
        known = {name: answer[name] for name in ("statistics", "fingerprint")}
    return {**known, "data_seconds": data_seconds, "tokenizer_seconds": tokenizer_seconds}


def _take(step: Step, worker: Worker, job: Mapping[str, Any], seconds: float, found: dict[str, Any]) -> None:
    """One step of one contender, its result put in its place."""
    name = step.contender.name
    if step.do == "load":
        found["contenders"][name] = worker.ask({**job, "do": "load"})
    elif step.do == "warm":
        worker.ask({"do": TRAIN, "seconds": seconds})
        worker.ask({"do": EVALUATE, "seconds": 0.0})
    elif step.do == "align":
        worker.ask({"do": "align"})
        worker.ask({"do": TRAIN, "seconds": 0.0})
    elif step.do == "accuracy":
        found["accuracy"][name] = worker.ask({"do": "accuracy"})
    elif step.do == PROFILE:
        found["profiles"][name] = worker.ask({"do": PROFILE, "seconds": seconds})
    else:
        answer = worker.ask({"do": step.do, "seconds": seconds})
        found["slices"].append({"contender": name, "part": step.do, "repeat": step.repeat, **answer})
