"""CORP: while decoding, paths whose steps contradict each other are dropped (docs/method.md, 4; rule: our choice).

Every step of a path predicts the item's category. A path believes in the mean of the distributions of its steps so
far; the agreement of its newest step is what both hold in common, ``sum_c min(newest_c, belief_c)``: 1 where they are
the same, 0 where no category is in both, and for certain predictions the share of earlier steps that named the same
category. Below the threshold the path is dropped, so that a wrong turn spreads no further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_reg4rec.decoding.catalogue import Candidates, pick_paths
from recbole_reg4rec.errors import UserError


@dataclass(frozen=True)
class CorpRule:
    """What is pruned. ``threshold``: agreement below which a path is dropped, in ``(0, 1]``.

    ``steps``: those that are checked, counted from 1, ascending; the first has nothing before it.
    ``min_beams``: paths of a user that are kept whatever they say, those that agree best.
    """

    threshold: float
    steps: tuple[int, ...]
    min_beams: int

    @property
    def last(self) -> int:
        """The last step that is checked."""
        return self.steps[-1]


@dataclass(frozen=True)
class PrunedStep:
    """What a check saw and did, for ``B`` users and ``W`` paths that have chosen ``step - 1`` tokens.

    ``alive``, ``pruned``: bool ``[B, W]``, paths before the check, and those that it dropped. ``agreement``,
    ``scores``: float32 ``[B, W]``, the latter log-probabilities before the check. ``books``, ``tokens``: int64
    ``[B, W, step - 1]``. ``spelled``: items that the path could still have spelled, lists in ``[B, W]``; of dead paths
    they mean nothing.
    """

    step: int
    alive: Tensor
    pruned: Tensor
    agreement: Tensor
    scores: Tensor
    books: Tensor
    tokens: Tensor
    spelled: Candidates

    @property
    def candidates(self) -> Tensor:
        """Items that each living path could still have spelled, int64 ``[B, W, P]``, 0 fills up."""
        return self.spelled.without(~self.alive).padded()

    def spells(self, targets: Tensor) -> Tensor:
        """Living paths that could still have spelled their user's target, int64 ``[B]``: bool ``[B, W]``."""
        items, owners = self.spelled.entries()
        spells = torch.zeros(self.alive.numel(), dtype=torch.bool, device=items.device)
        spells[owners[items == targets.to(items.device)[owners // self.alive.shape[1]]]] = True
        return spells.view(self.alive.shape) & self.alive


def corp_rule(config: Any) -> CorpRule | None:
    """The rule of the settings ``corp`` and ``corp_*``; None where it is off or can prune nothing (threshold 0).

    Raises:
        UserError: a step beyond the last, no step to check, as many paths protected as there are, or a category head
            that nothing trains.
    """
    threshold = float(config["corp_threshold"] or 0.0)
    if not config["corp"] or threshold == 0.0:
        return None
    chosen, keep = config["corp_steps"], int(config["corp_min_beams"])
    books = min(int(config["codebooks"]), int(config["reasoning_steps"]))
    if books < 2:
        raise UserError("setting corp is True, but codebooks is 1, so that no step has one before it; set corp: False")
    steps = tuple(range(2, books + 1)) if chosen == "all" else tuple(sorted(set(chosen)))
    if not steps or steps[-1] > books:
        raise UserError(
            f"setting corp_steps is {chosen}, but must be all or name steps from 2 to {books}, the steps of a path"
        )
    if keep >= int(config["beam_width"]):
        raise UserError(
            f"setting corp_min_beams is {keep} and beam_width {config['beam_width']}, so that nothing could ever be "
            "pruned; make corp_min_beams smaller, or set corp: False"
        )
    if float(config["category_weight"]) == 0.0:
        raise UserError(
            "setting corp is True, but category_weight is 0, so that nothing trains the categories that it compares; "
            "make category_weight larger, or set corp: False"
        )
    return CorpRule(threshold, steps, keep)


def agreement(newest: Tensor, belief: Tensor) -> Tensor:
    """What two category distributions ``[..., C]`` hold in common: ``[...]``, in ``[0, 1]``, 1 only for equal ones."""
    return torch.minimum(newest, belief).sum(-1).clamp(max=1.0)


def prune(agreement: Tensor, alive: Tensor, rule: CorpRule) -> Tensor:
    """Which of the living paths are dropped: float ``[B, W]`` and bool ``[B, W]`` to bool ``[B, W]``.

    Among those below the threshold the worst go first, until ``min_beams`` are left; of equals the first stay.
    """
    order = agreement.masked_fill(~alive, -1.0).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return alive & (agreement < rule.threshold) & (rank >= rule.min_beams)


class Reflection:
    """CORP within one search: carries the beliefs of its paths from step to step.

    Args:
        rule: what is pruned.
        categories: gives the category log-probabilities of the newest states, float32 ``[B, Q, C]``.
    """

    def __init__(self, rule: CorpRule, categories: Callable[[], Tensor]) -> None:
        self.rule, self._categories = rule, categories
        self.checks: list[PrunedStep] = []
        self._seen = 1
        self._total = categories().exp()

    def wants(self, step: int) -> bool:
        """Whether ``step``, counted from 1, or one behind it is checked."""
        return step <= self.rule.last

    def check(self, parents: Tensor, scores: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor:
        """Looks back from the newest states of the paths that continue ``parents``, int64 ``[B, W]``.

        Returns:
            scores ``[B, W]``, -inf where a path is dropped.
        """
        newest = self._categories().exp()
        total = pick_paths(self._total, parents)
        step = self._seen + 1
        if step in self.rule.steps:
            alive = ~scores.isinf()
            agreed = agreement(newest, total / self._seen)
            drop = prune(agreed, alive, self.rule)
            self.checks.append(PrunedStep(step, alive, drop, agreed, scores, books, tokens, candidates))
            scores = scores.masked_fill(drop, float("-inf"))
        self._total, self._seen = total + newest, step
        return scores


class PruningStatistics:
    """Counts what CORP dropped over many searches whose targets are known; see `as_dict`."""

    def __init__(self) -> None:
        self._users = 0
        self._lost = 0
        self._steps: dict[int, Tensor] = {}

    def add_batch(self, parts: Sequence[tuple[PrunedStep, ...]], targets: Tensor) -> None:
        """Adds the checks of a batch that was searched in parts, each with the users behind those of the one before."""
        begin = 0
        for checks in parts:
            users = len(checks[0].alive)
            self.add(checks, targets[begin : begin + users])
            begin += users

    def add(self, checks: tuple[PrunedStep, ...], targets: Tensor) -> None:
        """Adds the checks of one search, whose users look for ``targets``, int64 ``[B]``."""
        lost = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
        for check in checks:
            spells = check.spells(targets)
            gone = (spells & check.pruned).any(-1)
            counts = [check.alive.sum(), check.pruned.sum(), spells.any(-1).sum(), gone.sum()]
            self._steps[check.step] = self._steps.get(check.step, 0) + torch.stack(counts).cpu()
            lost |= gone.to(lost.device)
        self._users += len(targets)
        self._lost += int(lost.sum())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for records; empty where nothing was checked.

        ``target_lost``: share of users of whom a path was dropped that could still have spelled the target. ``steps``:
        by step, the share of living paths that were dropped (``pruned``), and the shares of users with the target
        within reach of the beam before the check (``target_in_reach``) and of the paths dropped (``target_lost``).
        """
        if not self._steps:
            return {}
        steps = {}
        for step, counts in sorted(self._steps.items()):
            alive, pruned, reach, gone = counts.tolist()
            steps[str(step)] = {
                "pruned": pruned / max(alive, 1),
                "target_in_reach": reach / self._users,
                "target_lost": gone / self._users,
            }
        return {"users": self._users, "target_lost": self._lost / self._users, "steps": steps}
