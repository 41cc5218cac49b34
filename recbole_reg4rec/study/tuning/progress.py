"""What a study shows while it runs: a line for every trial that ended, and a bar with the best so far."""

from __future__ import annotations

import time
from datetime import timedelta

from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from recbole_reg4rec.study.tuning.plan import Plan
from recbole_reg4rec.study.tuning.slots import DEFAULT, FAILURE, Slot, counts
from recbole_reg4rec.study.tuning.trials import COST, SAME_AS, SETTINGS


class Progress:
    """Draws the state of a study; call it with the study's slots.

    Args:
        plan: of the study.
        bar: draw a bar as well as lines.
        deadline: `time.time` after which no trial begins.
    """

    def __init__(self, plan: Plan, bar: bool = True, deadline: float | None = None) -> None:
        self._plan, self._deadline = plan, deadline
        self._begin, self._known, self._before = time.time(), set[int](), 0
        self._first, self._ended, self._last = True, 0, self._begin
        form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}"
        self._bar = tqdm(total=plan.trials, desc="Study", bar_format=form, disable=not bar, ncols=110)

    def __call__(self, table: list[Slot]) -> None:
        ended = [slot for slot in table if slot.finished is not None]
        if self._first:
            # Those of earlier commands are counted, not told again.
            self._first, self._before = False, len(ended)
            self._known.update(slot.number for slot in ended)
            if ended:
                tqdm.write(f"{len(ended)} of {len(table)} trials are there already; going on")
        best = self._best(table)
        for slot in ended:
            if slot.number not in self._known and slot.finished is not None:
                self._known.add(slot.number)
                tqdm.write(self._line(slot.number, slot.finished, best, table))
        found = counts(table)
        self._bar.n = len(ended)
        self._bar.set_postfix_str(
            f"best {best.values[0]:.4f}, {found['pruned']} pruned, {found['failed']} failed, {self._left(table)}"
            if best
            else f"{found['running']} running, {found['failed']} failed"
        )

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def _best(self, table: list[Slot]) -> FrozenTrial | None:
        sign = -1.0 if self._plan.bigger[0] else 1.0
        done = [s.finished for s in table if s.finished is not None and s.finished.state == TrialState.COMPLETE]
        return min(done, key=lambda trial: sign * trial.values[0], default=None)

    def _line(self, number: int, trial: FrozenTrial, best: FrozenTrial | None, table: list[Slot]) -> str:
        if trial.state == TrialState.FAIL:
            result = f"failed: {trial.user_attrs.get(FAILURE, 'no reason was recorded')}"
        elif trial.state == TrialState.PRUNED:
            result = f"pruned after {len(trial.intermediate_values)} validations"
        else:
            pairs = zip(self._plan.objectives, trial.values, strict=True)
            result = ", ".join(f"{name} {value:.4f}" for name, value in pairs)
        if SAME_AS in trial.user_attrs:
            result += f" (the settings of Optuna's trial {trial.user_attrs[SAME_AS]} again)"
        kind = " (default settings)" if trial.user_attrs.get(DEFAULT) else ""
        cost = trial.user_attrs.get(COST, {})
        seconds = f", {cost['epochs']} epochs, {cost['train_seconds']:.1f} s" if cost else ""
        settings = " ".join(f"{k}={_short(v)}" for k, v in trial.user_attrs.get(SETTINGS, {}).items())
        so_far = f"; best {best.values[0]:.4f}" if best else ""
        return f"trial {number}{kind}: {result}{seconds}{so_far}, {self._left(table)}\n    {settings}"

    def _left(self, table: list[Slot]) -> str:
        """Time left, from the trials that ended since this command began."""
        ended = sum(slot.finished is not None for slot in table)
        if ended <= self._before:
            return "time left unknown"
        if ended != self._ended:
            self._ended, self._last = ended, time.time()
        # From the last end on the time runs down; it would grow with every second otherwise.
        pace = (self._last - self._begin) / (ended - self._before)
        seconds = max(0.0, pace * (len(table) - ended) - (time.time() - self._last))
        if self._deadline is not None:
            seconds = min(seconds, max(0.0, self._deadline - time.time()))
        return f"{timedelta(seconds=round(seconds))} left"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
