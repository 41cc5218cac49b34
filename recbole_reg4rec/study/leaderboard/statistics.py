"""Whether two rows differ: a paired test over the test targets, with correction, effect size and interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """One row against the best one.

    ``difference``: mean of (row - best) over targets, with its 95% interval ``low`` to ``high``. ``effect``: the mean
    difference in standard deviations of the differences (Cohen's d for pairs). ``p``: two-sided, corrected by Holm.
    """

    difference: float
    low: float
    high: float
    effect: float
    p: float

    @property
    def level(self) -> bool:
        """Whether the row cannot be told apart from the best."""
        return self.p >= ALPHA


def compare_with_best(best: np.ndarray, others: Sequence[np.ndarray]) -> list[Comparison]:
    """Paired t-tests over targets, Holm's correction over all of ``others`` (our choice).

    With hundreds of targets and more, the mean of the differences is as good as normal, so that the t-test asks what
    the tables show, means, where a rank test would ask about medians of values that are nearly all zero.

    Args:
        best: float ``[targets]``, the metric of each target, averaged over seeds.
        others: the same of the other rows, in the same order of targets.
    """
    raw = [_paired(other - best) for other in others]
    corrected = holm([p for *_, p in raw])
    return [Comparison(*values[:4], p) for values, p in zip(raw, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; the order is kept."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    found, largest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        found[index] = largest
    return found


def _paired(differences: np.ndarray) -> tuple[float, float, float, float, float]:
    count, mean = len(differences), float(differences.mean())
    spread = float(differences.std(ddof=1)) if count > 1 else 0.0
    if spread < 1e-12:
        # All pairs differ alike: by nothing, or so that no test is needed. One pair tells nothing.
        same = abs(mean) < 1e-12 or count < 2
        return mean, mean, mean, 0.0 if same else float(np.copysign(np.inf, mean)), 1.0 if same else 0.0
    reach = float(stats.t.ppf(1 - ALPHA / 2, count - 1)) * spread / count**0.5
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return mean, mean - reach, mean + reach, mean / spread, p
