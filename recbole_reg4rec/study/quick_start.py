"""The main job: trains, evaluates, records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

import filelock
import torch
from recbole.utils import set_color

from recbole_reg4rec.config import given_settings, resolved_settings
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import exclusive
from recbole_reg4rec.process import process_setup
from recbole_reg4rec.study.job import assemble, evaluate, train
from recbole_reg4rec.study.pipeline import best_checkpoint, configure, start_logging
from recbole_reg4rec.study.record import (
    check_results_dir,
    peak_gpu_memory_mb,
    peak_memory_mb,
    portable_settings,
    write_record,
)
from recbole_reg4rec.study.report import result_table
from recbole_reg4rec.trainer.checkpoint import check_checkpoint_path
from recbole_reg4rec.versions import collect_versions


def run(
    model: str,
    dataset: str,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    command_line: dict[str, str] | None = None,
    resume: bool = False,
    checkpoint: str | None = None,
    results_dir: str = "results",
) -> dict[str, Any]:
    """Runs one model on one data set with one seed, from files to the record.

    Args:
        model: name of a model, see `study.registry`.
        dataset: name of a data set.
        config_file_list, config_dict, command_line: settings, later ones win.
        resume: continue behind the last finished epoch, where there is one.
        checkpoint: file of the best model; ``<name>.last`` beside it holds the state of training.
        results_dir: where ``runs/<name>.json`` goes.

    Returns:
        the record, as written.

    Raises:
        UserError: any mistake that the user can mend.
    """
    begin = perf_counter()
    config = configure(model, dataset, config_file_list, config_dict, command_line)
    runs = check_results_dir(Path(results_dir))
    start_logging(config)
    with _alone_with(best_checkpoint(config, resolved_settings(config), checkpoint)):
        job = assemble(config, checkpoint, resume)
        train(job, resume)
        outcome = evaluate(job)
    logger, tokens, trainer = getLogger(), job.tokens, job.trainer
    logger.info(set_color("best valid ", "yellow") + f": {outcome.valid}")
    logger.info(set_color("test result", "yellow") + f": {outcome.test}")
    record = {
        "model": config["model"],
        "dataset": dataset,
        "seed": config["seed"],
        "settings": portable_settings(job.settings),
        "given": sorted(given_settings(config) & portable_settings(job.settings).keys()),
        "protocol": {
            "masked": bool(config["mask_history"]),
            "order": config["TIME_FIELD"],
            "history": config["MAX_ITEM_LIST_LENGTH"],
            "eval_args": job.settings["eval_args"],
        },
        "data": job.data.dataset.statistics.as_dict(),
        "tokenizer": {**tokens.codes.report, "cached": tokens.codes.cached, "fingerprint": tokens.codes.fingerprint}
        if tokens
        else {},
        "valid": outcome.valid,
        "test": outcome.test,
        "corp": outcome.pruning,
        "weights": trainer.weight_fit.as_dict() if trainer.weight_fit else {},
        "gate": trainer.gate_fit.as_dict() if trainer.gate_fit else {},
        "seconds": {
            "data": round(job.data_seconds, 3),
            "tokenizer": round(tokens.seconds, 3) if tokens else 0.0,
            "train": round(trainer.train_seconds, 3),
            "evaluate": round(outcome.seconds, 3),
            "decode": round(trainer.decode_seconds, 3),
            "total": round(perf_counter() - begin, 3),
        },
        "targets_per_second": round(trainer.trained_targets / max(trainer.train_seconds, 1e-9), 1),
        "parameters": sum(p.numel() for p in job.recommender.parameters() if p.requires_grad),
        # Of models whose sizes may go by the data: what `auto` came to.
        "shape": dict(getattr(job.recommender, "shape", {})),
        "stages": trainer.stage_summary(),
        "epochs": trainer.epochs_log,
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(),
        # Of the path only what another machine has too.
        "checkpoint": f"{job.best.parent.name}/{job.best.name}",
        "versions": collect_versions(),
        "threads": {"count": torch.get_num_threads(), **process_setup()},
    }
    path = write_record(runs, job.name, record, outcome.report)
    print(result_table(record))
    print(f"record: {path}")
    return record


@contextmanager
def _alone_with(best: Path) -> Iterator[None]:
    """No other run writes this checkpoint meanwhile: one with other ``epochs``, say, has the same file by default.

    Raises:
        UserError: another run does, or the folder cannot be written.
    """
    check_checkpoint_path(best)
    try:
        with exclusive(best.with_name(f".{best.name}.lock"), keep=True, wait=False):
            yield
    except filelock.Timeout as error:
        raise UserError(
            f"another run is writing checkpoint {best} at this moment; wait for its end, or give another --checkpoint"
        ) from error
