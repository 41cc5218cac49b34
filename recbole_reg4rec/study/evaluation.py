"""The command ``evaluate``: a trained model ranks once more, by other settings of decoding, one of them varied.

Nothing is trained and the checkpoint stays as it is. Validation is what is ranked unless the test part is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from tabulate import tabulate

from recbole_reg4rec.config.values import parse_value
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.process import process_setup
from recbole_reg4rec.study.leaderboard.statistics import Comparison, compare_with_best
from recbole_reg4rec.study.record import check_results_dir, peak_memory_mb, portable_settings, write_record
from recbole_reg4rec.study.trained import DECODING_SETTINGS, TrainedModel, load_trained
from recbole_reg4rec.trainer.trainer import SequenceTrainer
from recbole_reg4rec.trainer.weights import rank_metric
from recbole_reg4rec.versions import collect_versions

PARTS = ("valid", "test")


def evaluate(
    dataset: str,
    config_file_list: list[str] | None = None,
    command_line: dict[str, str] | None = None,
    checkpoint: str | None = None,
    model: str = "REG4Rec",
    part: str = "valid",
    vary: str | None = None,
    values: str | None = None,
    results_dir: str = "results",
) -> dict[str, Any]:
    """Ranks by a trained model, prints a table with a row for each value of the varied setting, and records the same.

    Args:
        dataset, config_file_list, command_line, checkpoint, model: see `study.trained.load_trained`.
        part: one of `PARTS`.
        vary: one of `DECODING_SETTINGS`; None ranks once.
        values: what it is set to, as a list; the first is what the others are compared with.
        results_dir: where ``evaluations/<name>.json`` goes.

    Returns:
        the record, as written.

    Raises:
        UserError: any mistake that the user can mend.
    """
    tried = _values(vary, values)
    if part not in PARTS:
        raise UserError(f"--part is '{part}', but must be one of {', '.join(PARTS)}")
    texts = dict(command_line or {})
    if vary in texts:
        raise UserError(f"setting {vary} is given as --{vary}={texts[str(vary)]}, but --vary says that it varies")
    folder = check_results_dir(Path(results_dir), "evaluations")
    asked = [{**texts, **({vary: text} if vary else {})} for text in tried]
    found: list[tuple[dict[str, Any], np.ndarray | None]] = []
    trained: TrainedModel | None = None
    for number, given in enumerate(asked):
        trained = load_trained(dataset, checkpoint, model, config_file_list, None, given, like=trained)
        if number == 0:
            # A mistake in the last value is told before the first is ranked by.
            for other in asked[1:]:
                load_trained(dataset, checkpoint, model, config_file_list, None, other, like=trained)
        found.append(_rank(trained, part))
    assert trained is not None
    rows = [row for row, _ in found]
    if vary:
        for row, text in zip(rows, tried, strict=True):
            row["value"] = parse_value(text)
        _compare(rows, [each for _, each in found], str(trained.config["valid_metric"]))
    record = {
        "model": model,
        "dataset": dataset,
        "seed": trained.config["seed"],
        "checkpoint": f"{trained.checkpoint.parent.name}/{trained.checkpoint.name}",
        "part": part,
        "protocol": {
            "masked": bool(trained.config["mask_history"]) if vary != "mask_history" else "varied",
            "order": trained.config["TIME_FIELD"],
            "history": trained.config["MAX_ITEM_LIST_LENGTH"],
            "eval_args": trained.settings["eval_args"],
        },
        "settings": {name: value for name, value in portable_settings(trained.settings).items() if name != vary},
        "vary": vary,
        "rows": rows,
        "peak_memory_mb": peak_memory_mb(),
        "versions": collect_versions(),
        "threads": {"count": torch.get_num_threads(), **process_setup()},
    }
    path = write_record(folder, f"{trained.checkpoint.parent.name}-{part}{f'-{vary}' if vary else ''}", record)
    print(evaluation_table(record))
    print(f"record: {path}")
    return record


def _values(vary: str | None, values: str | None) -> list[str]:
    """The values to try, as texts of the command line; a single empty one where nothing varies."""
    if vary is None and values is None:
        return [""]
    if vary is None:
        raise UserError(f"--values is '{values}', but no --vary says which setting has them; add --vary=NAME")
    if vary not in DECODING_SETTINGS:
        raise UserError(
            f"--vary is '{vary}', which is no setting of decoding, so that a trained model cannot be asked by another; "
            f"it must be one of {', '.join(sorted(DECODING_SETTINGS))}"
        )
    found = parse_value(values) if values is not None else None
    if not isinstance(found, list) or not found:
        raise UserError(f"--values is '{values}', but must list what {vary} is set to, e.g. --values=[5,10,20]")
    texts = [str(value) for value in found]
    if len(set(texts)) < len(texts):
        raise UserError(f"--values is '{values}', which names a value twice; name each once")
    return texts


def _rank(trained: TrainedModel, part: str) -> tuple[dict[str, Any], np.ndarray | None]:
    """Metrics, times and what CORP dropped; and the targets' ranks from 1, int64, where all items are ranked."""
    data = getattr(trained.data, part)
    if not data:
        raise UserError(f"--part is {part}, but the split of {trained.config['dataset']} has no such part (eval_args)")
    trainer = SequenceTrainer(
        trained.config,
        trained.model,
        trained.settings,
        trained.checkpoint,
        trained.checkpoint.with_name(f"{trained.checkpoint.stem}.last{trained.checkpoint.suffix}"),
    )
    with closing(trainer.tensorboard):
        metrics = trainer.evaluate(data, load_best_model=False, show_progress=bool(trained.config["show_progress"]))
    row = {
        "metrics": {name: round(value, 6) for name, value in metrics.items()},
        "targets": len(trainer.ranks),
        "seconds": round(trainer.decode_seconds, 3),
        "corp": trainer.pruning.as_dict(),
    }
    return row, trainer.ranks.numpy() + 1 if isinstance(data, FullSortEvalDataLoader) else None


def _compare(rows: list[dict[str, Any]], ranks: list[np.ndarray | None], metric: str) -> None:
    """Writes into each row but the first how it differs from the first in the validation metric."""
    value = rank_metric(metric)
    if value is None or any(each is None for each in ranks):
        return
    first, *others = (value(each) for each in ranks if each is not None)
    for row, other in zip(rows[1:], compare_with_best(first, others), strict=True):
        row["against_first"] = {"metric": metric, **_plain(other)}


def _plain(comparison: Comparison) -> dict[str, float]:
    found = vars(comparison)
    return {name: round(float(value), 6) for name, value in found.items()}


def evaluation_table(record: Mapping[str, Any]) -> str:
    """The rows side by side: metrics, difference from the first row, time, and what CORP dropped."""
    rows, vary = record["rows"], record["vary"]
    shown = [name for name in rows[0]["metrics"] if name.split("@")[0] in ("recall", "ndcg")] or list(
        rows[0]["metrics"]
    )
    compared = any("against_first" in row for row in rows)
    pruned = any(row["corp"] for row in rows)
    metric = next((row["against_first"]["metric"] for row in rows if "against_first" in row), "")
    header = [vary or "", *shown, *([f"{metric} less the first's", "p"] if compared else []), "ms a user"]
    header += ["paths pruned", "target lost"] if pruned else []
    lines = []
    for row in rows:
        line = [str(row["value"]) if vary else "", *(f"{row['metrics'][name]:.4f}" for name in shown)]
        if compared:
            line += _difference(row.get("against_first"))
        line.append(f"{1000 * row['seconds'] / max(row['targets'], 1):.2f}")
        if pruned:
            line += _pruned(row["corp"])
        lines.append(line)
    protocol = record["protocol"]
    masked = {True: "masked", False: "not masked"}.get(protocol["masked"], "masked or not")
    about = (
        f"model {record['model']}, data set {record['dataset']}, seed {record['seed']}, {record['part']} part, "
        f"{rows[0]['targets']} users; history {masked}, ordered by {protocol['order']}"
    )
    table = tabulate(lines, headers=header, tablefmt="simple", disable_numparse=True, stralign="right")
    corrected = "\np: paired over users, corrected by Holm for the number of values" if compared else ""
    return f"{table}\n\n{about}{corrected}"


def _difference(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", ""]
    reach = (found["high"] - found["low"]) / 2
    return [f"{found['difference']:+.4f} +- {reach:.4f}", f"{found['p']:.3f}"]


def _pruned(found: Mapping[str, Any]) -> list[str]:
    """Mean share of paths dropped at a check, and the share of users whose target was lost by it."""
    if not found:
        return ["", ""]
    shares = [step["pruned"] for step in found["steps"].values()]
    return [f"{sum(shares) / len(shares):.1%}", f"{found['target_lost']:.1%}"]
