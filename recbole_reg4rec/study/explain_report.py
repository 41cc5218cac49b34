"""The command ``explain``: explanations as a table in the terminal and as JSON."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.files import whole_file
from recbole_reg4rec.study.explain import Explainer
from recbole_reg4rec.study.explanation import Explanation, ItemExplanation, PrunedPath, Step
from recbole_reg4rec.study.record import portable_settings
from recbole_reg4rec.study.trained import DECODING_SETTINGS

_PRUNED_SHOWN = 5


def explain(
    dataset: str,
    config_file_list: list[str] | None = None,
    command_line: dict[str, str] | None = None,
    checkpoint: str | None = None,
    users: str | None = None,
    items: str | None = None,
    top: str | None = None,
    json: str | None = None,
) -> list[Explanation]:
    """Loads a trained REG4Rec, prints why it recommends what it does, and returns the same.

    Args:
        dataset: name of the data set.
        config_file_list, command_line, checkpoint: see `study.trained.load_trained`.
        users: ids of users of the test set, separated by commas; where items are not given either, its first user.
        items: ids of a history given by hand, oldest first, separated by commas.
        top: how many items, from 1; default 10.
        json: file to write the same to.

    Raises:
        UserError: any mistake that the user can mend.
    """
    depth = _depth(top)
    explainer = Explainer.load(dataset, checkpoint, config_file_list, None, command_line)
    names = _names(users, "users") if users is not None or items is not None else explainer.test_users[:1]
    found = explainer.users(names, depth)
    if items is not None:
        found.append(explainer.items(_names(items, "items"), depth))
    for explanation in found:
        print(explanation_table(explanation))
        print()
    if json is not None:
        _write(Path(json), explainer, found)
        print(f"explanations: {json}")
    return found


def _depth(top: str | None) -> int:
    if top is None:
        return 10
    if not top.isascii() or not top.isdigit() or int(top) == 0:
        raise UserError(f"--top is '{top}', but must be a whole number from 1: how many items are explained")
    return int(top)


def _names(text: str | None, argument: str) -> list[str]:
    if text is None:
        return []
    names = _listed(text)
    if names is None:
        names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--{argument} is '{text}', which names nothing; give ids separated by commas")
    return names


def _listed(text: str) -> list[str] | None:
    """Ids as a JSON list of texts, for those with commas or spaces at an end; None where it is none."""
    try:
        found = json_text.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


def _write(path: Path, explainer: Explainer, found: list[Explanation]) -> None:
    trained = explainer.trained
    content = {
        "model": trained.config["model"],
        "dataset": trained.config["dataset"],
        "checkpoint": str(trained.checkpoint),
        "decoding": {name: value for name, value in trained.settings.items() if name in DECODING_SETTINGS},
        "settings": portable_settings(trained.settings),
        "explanations": [explanation.as_dict() for explanation in found],
    }
    try:
        with whole_file(path, "w", encoding="utf-8") as file:
            json_text.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
    except OSError as error:
        raise UserError(f"file {path} cannot be written ({error.strerror}); name another by --json") from error


def explanation_table(explanation: Explanation) -> str:
    """One explanation as text: the top items with their steps, the held-out item, and the paths that were dropped."""
    who = f"user {explanation.user}" if explanation.user is not None else "history given by hand"
    newest = ", ".join(explanation.history[-5:])
    lines = [f"{who}: {len(explanation.history)} items read, the newest {newest}", "", _items_table(explanation.top)]
    if explanation.target is not None:
        lines += ["", f"held-out item, at rank {explanation.target.rank}:", "", _items_table((explanation.target,))]
    if explanation.pruned:
        shown = explanation.pruned[:_PRUNED_SHOWN]
        lost = any(path.held_target for path in explanation.pruned)
        lines += [
            "",
            f"paths dropped by CORP: {len(explanation.pruned)}"
            f"{', one of them towards the held-out item' if lost else ''}; the {len(shown)} most probable:",
            "",
            _pruned_table(shown),
        ]
    return "\n".join(lines)


def _items_table(items: tuple[ItemExplanation, ...]) -> str:
    header = ["rank", "item", "score", "step", "codebook", "token", "p", "category", "agrees", "the token's items"]
    rows: list[list[Any]] = []
    for item in items:
        name = f"{item.item} {item.title}".strip()
        name = (name if len(name) <= 36 else name[:35].rstrip() + "…") + (" (seen)" if item.seen else "")
        head: list[Any] = [item.rank, name, f"{item.score:.3f}"]
        if not item.steps:
            rows.append(
                [*head, "-", "", "", "", "", "", "no path leads here: ranked by what was likely before the first step"]
            )
        for step in item.steps:
            rows.append([*head, *_step_cells(step)])
            head = ["", "", ""]
        if len(item.evidence) > 1:
            parts = "; ".join(f"{part.name} {part.contribution:.3f}" for part in item.evidence)
            rows.append(["", "", "", "", "", "", "", "", "", f"evidence: {parts}"])
    return tabulate(rows, headers=header, tablefmt="simple", disable_numparse=True)


def _step_cells(step: Step) -> list[str]:
    agrees = "" if step.agreement is None else f"{step.agreement:.2f}"
    return [
        str(step.number),
        "" if step.codebook is None else str(step.codebook),
        "" if step.token is None else str(step.token),
        "" if step.probability is None else f"{step.probability:.3f}",
        f"{step.category} {step.category_probability:.2f}",
        agrees,
        step.meaning,
    ]


def _pruned_table(paths: tuple[PrunedPath, ...]) -> str:
    header = ["step", "path (codebook:token)", "log p", "before", "now", "agrees", "could have led to", "last token"]
    rows = []
    for path in paths:
        chosen = [step for step in path.steps if step.codebook is not None]
        rows.append(
            [
                str(path.step),
                " ".join(f"{step.codebook}:{step.token}" for step in chosen),
                f"{path.log_probability:.2f}",
                path.before,
                path.now,
                f"{path.agreement:.2f} < {path.threshold:g}",
                f"{path.items}, e.g. {', '.join(path.examples)}",
                chosen[-1].meaning,
            ]
        )
    return tabulate(rows, headers=header, tablefmt="simple", disable_numparse=True)
