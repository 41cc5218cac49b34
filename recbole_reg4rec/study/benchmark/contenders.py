"""Who is timed: stock-style training on prefixes, and the models of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_reg4rec.config.settings import known_settings, nearest
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.study.leaderboard.grid import load_variants
from recbole_reg4rec.study.registry import find_model

PREFIXES, WHOLE, ALL, PAPER = "SASRec", "SASRecWhole", "REG4Rec", "REG4Rec:paper"
ALIGNED, ALL_CORP, PAPER_CORP = "REG4Rec:paper-aligned", "REG4Rec:corp", "REG4Rec:paper-corp"
TIGER, RPG = "TIGER", "RPG"


@dataclass(frozen=True)
class Contender:
    """One model in one form. ``settings``: what makes the form, over the model's own.

    ``trains``, ``evaluates``: whether its training and its evaluation are timed. ``aligns``: whether the training is
    stage 2. ``profiles``: whether the time of decoding is told by part. ``scales``: whether it meets synthetic
    catalogues.
    """

    name: str
    model: str
    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = True
    evaluates: bool = True
    aligns: bool = False
    profiles: bool = False
    scales: bool = False


def all_contenders() -> list[Contender]:
    """Everybody, in the order in which they take turns."""
    forms = load_variants()["REG4Rec"]

    def form(name: str, what: str, **more: Any) -> Contender:
        return Contender(name, "REG4Rec", what, forms[name.partition(":")[2]], **more)

    return [
        Contender(
            PREFIXES,
            "SASRec",
            "RecBole's SASRec on prefixes, a row a target, as RecBole trains but for anomaly detection",
        ),
        Contender(WHOLE, "SASRecWhole", "the same network on whole sequences", scales=True),
        Contender(ALL, "REG4Rec", "all evidence; stage 1", profiles=True, scales=True),
        form(PAPER, "the paper's model; stage 1", profiles=True, scales=True),
        form(ALIGNED, "the paper's model; stage 2", evaluates=False, aligns=True),
        Contender(ALL_CORP, "REG4Rec", "all evidence, decoded with CORP", {"corp": True}, trains=False, profiles=True),
        form(PAPER_CORP, "the paper's model, decoded with CORP", trains=False, profiles=True),
        Contender(TIGER, "TIGER", "semantic ids, flat histories"),
        Contender(RPG, "RPG", "all tokens in parallel"),
    ]


def choose(names: Sequence[str] | None) -> list[Contender]:
    """Those named, or everybody.

    Raises:
        UserError: nobody has that name.
    """
    known = {contender.name: contender for contender in all_contenders()}
    if names is None:
        return list(known.values())
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            advice = f"did you mean {guess}?" if guess else f"there are {', '.join(known)}"
            raise UserError(f"--models: `{name}` is not among the models that are timed; {advice}")
    return [contender for name, contender in known.items() if name in names]


def settings_for(contenders: Sequence[Contender], settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Of the settings given those that each contender knows, by its name.

    Raises:
        UserError: one that nobody knows, or one that makes the form of a contender.
    """
    known = {contender.model: known_settings(find_model(contender.model)) for contender in contenders}
    everywhere: set[str] = set().union(*known.values())
    for name in settings:
        if name not in everywhere:
            guess = nearest(name, everywhere)
            advice = f"did you mean `{guess}`?" if guess else "--help lists the settings there are"
            raise UserError(f"unknown setting `{name}` (on the command line); {advice}")
        for contender in contenders:
            if name in contender.settings:
                raise UserError(
                    f"--{name} is given, but {contender.name} says {name}={contender.settings[name]}; leave it out, or "
                    "choose other models by --models"
                )
    return {
        contender.name: {name: text for name, text in settings.items() if name in known[contender.model]}
        for contender in contenders
    }
