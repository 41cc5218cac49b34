from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from recbole_reg4rec.study.leaderboard.statistics import compare_with_best, holm


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_one_comparison_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    best, other = rng.random(300), rng.random(300) * 0.9
    (found,) = compare_with_best(best, [other])
    known = stats.ttest_rel(other, best)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    differences = other - best
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert found.difference == pytest.approx(differences.mean()) and not found.level


def test_it_agrees_with_a_permutation_test_where_most_values_are_zero():
    rng = np.random.default_rng(1)
    best = (rng.random(900) < 0.13) / np.log2(rng.integers(2, 12, 900))
    other = np.where(rng.random(900) < 0.25, (rng.random(900) < 0.09) / np.log2(rng.integers(2, 12, 900)), best)
    (found,) = compare_with_best(best, [other])
    differences = other - best
    signs = rng.choice([-1.0, 1.0], size=(20000, 900))
    p = (np.abs((signs * differences).mean(1)) >= abs(differences.mean())).mean()
    assert found.p == pytest.approx(p, abs=0.02)


def test_correction_is_over_all_rows():
    rng = np.random.default_rng(2)
    best = rng.random(200)
    others = [best - 0.02 + 0.1 * rng.standard_normal(200) for _ in range(5)]
    alone = [compare_with_best(best, [other])[0].p for other in others]
    assert [found.p for found in compare_with_best(best, others)] == pytest.approx(holm(alone))


def test_equal_rows_and_single_targets_are_level():
    values = np.array([0.0, 1.0, 0.5])
    (same,) = compare_with_best(values, [values.copy()])
    assert (same.p, same.effect, same.difference, same.level) == (1.0, 0.0, 0.0, True)
    (single,) = compare_with_best(np.array([1.0]), [np.array([0.0])])
    assert single.level
    (shifted,) = compare_with_best(values, [values - 0.25])
    assert shifted.p == 0.0 and shifted.effect == -np.inf and not shifted.level


def test_false_alarms_are_rare():
    """Two equally good rows: about one in twenty is called different."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(400):
        a, b = (rng.random((2, 250)) < 0.12).astype(float)
        alarms += not compare_with_best(a, [b])[0].level
    assert 5 <= alarms <= 40
