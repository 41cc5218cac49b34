"""A run in steps, so that a study can train without ever touching the test part."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import set_color

from recbole_reg4rec.config import resolved_settings
from recbole_reg4rec.study.kept_tokens import keep_tokens, kept_tokens
from recbole_reg4rec.study.pipeline import (
    PreparedData,
    Tokenized,
    best_checkpoint,
    build_model,
    build_stages,
    data_fingerprint,
    prepare_data,
    run_name,
    tokenize_data,
)
from recbole_reg4rec.study.report import tokenizer_table
from recbole_reg4rec.trainer.checkpoint import load_checkpoint
from recbole_reg4rec.trainer.protocols import BothProtocols
from recbole_reg4rec.trainer.trainer import SequenceTrainer


@dataclass
class Job:
    """A run between its steps: `assemble` makes it, `train` and `evaluate` use it.

    ``name``: model, data set, seed and hash of the settings; ``best``, ``last``: files of the best model and of the
    state of training; ``data_seconds``: what reading took.
    """

    config: Any
    settings: dict[str, Any]
    name: str
    best: Path
    last: Path
    data: PreparedData
    tokens: Tokenized | None
    recommender: Any
    trainer: SequenceTrainer
    data_seconds: float


@dataclass
class Outcome:
    """Metrics of the best epoch; ``report`` holds the test under both protocols, ``pruning`` what CORP dropped."""

    valid: dict[str, float]
    test: dict[str, float]
    report: Any
    pruning: dict[str, Any]
    seconds: float


def assemble(config: Any, checkpoint: str | Path | None = None, resume: bool = False) -> Job:
    """Reads the data, makes codes where the model needs them, builds model and trainer; nothing is trained yet.

    Args:
        config: of the run.
        checkpoint: file of the best model, if not where the settings lead to.
        resume: training will go on where it was, so that the codes are those it was begun with.

    Raises:
        UserError: any mistake that the user can mend.
    """
    begin = perf_counter()
    settings = resolved_settings(config)
    name, best = run_name(config, settings), best_checkpoint(config, settings, checkpoint)
    last = best.with_name(f"{best.stem}.last{best.suffix}")
    logger = getLogger()
    logger.info(config)
    data = prepare_data(config)
    logger.info(data.dataset)
    statistics = data.dataset.statistics
    if statistics.tied_targets:
        logger.info(
            "%d of %d users have several interactions at the time of their last one; the order of the file decides",
            statistics.tied_targets,
            statistics.users,
        )
    data_seconds = perf_counter() - begin
    tokens = _tokens(config, settings, data, last if resume else None)
    if tokens is not None:
        logger.info("%s\n%s", set_color("tokenizer", "pink"), tokenizer_table(tokens.codes.report))
    recommender = build_model(config, data, tokens)
    logger.info(recommender)
    stages = build_stages(config, recommender, data)
    kept = keep_tokens(tokens, data.train._dataset) if tokens is not None else None
    fingerprint = data_fingerprint(data, tokens)
    trainer = SequenceTrainer(config, recommender, settings, best, last, fingerprint, stages, kept)
    return Job(config, settings, name, best, last, data, tokens, recommender, trainer, data_seconds)


def _tokens(config: Any, settings: dict[str, Any], data: PreparedData, last: Path | None) -> Tokenized | None:
    """Those of the checkpoint that training starts from, ``last`` or ``align_from``; without one, of the data."""
    if not getattr(config.model_class, "needs_tokens", False):
        return None
    going_on = last is not None and last.is_file()
    start = last if going_on else Path(config["align_from"] or "")
    kept = None
    if start is not None and start.is_file():
        state = load_checkpoint(start, config["model"], settings, first_stage=not going_on)
        kept = kept_tokens(state, start, data.train._dataset)
    return kept or tokenize_data(config, data)


def train(
    job: Job, resume: bool = False, callback_fn: Callable[[int, float], None] | None = None, weigh: bool = True
) -> None:
    """Trains on the training part, chooses on the validation part; the test part is not touched.

    Args:
        job: from `assemble`.
        resume: continue behind the last finished epoch, where there is one.
        callback_fn: called after every validation with the epoch and its score; what it raises ends the training.
        weigh: behind it, fit the weights of the evidence and the gate on validation, where the settings ask for them.

    Raises:
        UserError: training diverged, or the checkpoint to resume from belongs to another run.
    """
    # RecBole leaves the writer open, with a thread that writes to a relative path minutes later.
    with closing(job.trainer.tensorboard):
        if resume and job.last.is_file():
            job.trainer.resume_checkpoint(job.last)
        elif job.config["align_from"]:
            job.trainer.start_from(Path(job.config["align_from"]))
        elif resume:
            getLogger().info("nothing to resume: %s does not exist; starting from the beginning", job.last)
        show = bool(job.config["show_progress"])
        job.trainer.fit(job.data.train, job.data.valid, show_progress=show, callback_fn=callback_fn)
        if weigh and isinstance(job.data.valid, FullSortEvalDataLoader):
            job.trainer.fit_weights(job.data.valid)


def evaluate(job: Job) -> Outcome:
    """Metrics of the best epoch on validation and on test."""
    begin = perf_counter()
    trainer, data, show = job.trainer, job.data, bool(job.config["show_progress"])
    valid = trainer.evaluate(data.valid, show_progress=show) if data.valid else {}
    pruning = {"valid": trainer.pruning.as_dict()} if valid else {}
    both = BothProtocols() if isinstance(data.test, FullSortEvalDataLoader) else None
    test = trainer.evaluate(data.test, load_best_model=not valid, show_progress=show, both=both)
    pruning["test"] = trainer.pruning.as_dict()
    seconds = perf_counter() - begin
    report = both.report(data.train._dataset, data.test._dataset) if both else None
    return Outcome(valid, test, report, {part: found for part, found in pruning.items() if found}, seconds)
