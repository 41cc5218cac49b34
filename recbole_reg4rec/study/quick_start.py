"""The main job: trains, evaluates, records."""

from __future__ import annotations

from contextlib import closing
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.utils import set_color

from recbole_reg4rec.config import resolved_settings
from recbole_reg4rec.study.pipeline import (
    build_model,
    configure,
    data_fingerprint,
    prepare_data,
    start_logging,
    tokenize_data,
)
from recbole_reg4rec.study.record import (
    check_results_dir,
    peak_gpu_memory_mb,
    peak_memory_mb,
    portable_settings,
    write_record,
)
from recbole_reg4rec.study.report import result_table, tokenizer_table
from recbole_reg4rec.trainer.checkpoint import settings_hash
from recbole_reg4rec.trainer.trainer import SequenceTrainer
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
    settings = resolved_settings(config)
    name = f"{config['model']}-{dataset}-seed{config['seed']}-{settings_hash(settings)}"
    best = Path(checkpoint) if checkpoint else Path(config["checkpoint_dir"]) / name / "best.pth"
    last = best.with_name(f"{best.stem}.last{best.suffix}")
    start_logging(config)
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
    tokens = tokenize_data(config, data) if getattr(config.model_class, "needs_tokens", False) else None
    if tokens is not None:
        logger.info("%s\n%s", set_color("tokenizer", "pink"), tokenizer_table(tokens.codes.report))
    recommender = build_model(config, data, tokens)
    logger.info(recommender)
    trainer = SequenceTrainer(config, recommender, settings, best, last, data_fingerprint(data, tokens))
    # RecBole leaves the writer open, with a thread that writes to a relative path minutes later.
    with closing(trainer.tensorboard):
        if resume and last.is_file():
            trainer.resume_checkpoint(last)
        elif resume:
            logger.info("nothing to resume: %s does not exist; starting from the beginning", last)
        trainer.fit(data.train, data.valid, show_progress=bool(config["show_progress"]))
    evaluate_begin = perf_counter()
    show = bool(config["show_progress"])
    valid = trainer.evaluate(data.valid, show_progress=show) if data.valid else {}
    test = trainer.evaluate(data.test, load_best_model=not valid, show_progress=show)
    evaluate_seconds = perf_counter() - evaluate_begin
    logger.info(set_color("best valid ", "yellow") + f": {valid}")
    logger.info(set_color("test result", "yellow") + f": {test}")
    record = {
        "model": config["model"],
        "dataset": dataset,
        "seed": config["seed"],
        "settings": portable_settings(settings),
        "protocol": {
            "masked": bool(config["mask_history"]),
            "order": config["TIME_FIELD"],
            "history": config["MAX_ITEM_LIST_LENGTH"],
            "eval_args": settings["eval_args"],
        },
        "data": statistics.as_dict(),
        "tokenizer": {**tokens.codes.report, "cached": tokens.codes.cached, "fingerprint": tokens.codes.fingerprint}
        if tokens
        else {},
        "valid": valid,
        "test": test,
        "seconds": {
            "data": round(data_seconds, 3),
            "tokenizer": round(tokens.seconds, 3) if tokens else 0.0,
            "train": round(trainer.train_seconds, 3),
            "evaluate": round(evaluate_seconds, 3),
            "total": round(perf_counter() - begin, 3),
        },
        "targets_per_second": round(trainer.trained_targets / max(trainer.train_seconds, 1e-9), 1),
        "parameters": sum(p.numel() for p in recommender.parameters() if p.requires_grad),
        "epochs": trainer.epochs_log,
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(),
        "checkpoint": str(best),
        "versions": collect_versions(),
    }
    path = write_record(runs, name, record)
    print(result_table(record))
    print(f"record: {path}")
    return record
