import math

import pytest

from recbole_reg4rec.trainer.schedule import SCHEDULES, rate_factor


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_rises_linearly_to_one(schedule):
    assert [rate_factor(step, 100, 4, schedule) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_constant_stays():
    assert {rate_factor(step, 10, 0, "constant") for step in (0, 5, 9, 50)} == {1.0}


@pytest.mark.parametrize(
    ("schedule", "half", "quarter"),
    [("linear", 0.505, 0.7525), ("cosine", 0.505, 0.01 + 0.99 * (0.5 + math.sqrt(0.125)))],
)
def test_known_values(schedule, half, quarter):
    assert rate_factor(0, 100, 0, schedule) == pytest.approx(1.0)
    assert rate_factor(25, 100, 0, schedule) == pytest.approx(quarter)
    assert rate_factor(50, 100, 0, schedule) == pytest.approx(half)
    assert rate_factor(100, 100, 0, schedule) == pytest.approx(0.01)
    # Behind warm-up the fall covers the remaining steps; further training stays at the floor.
    assert rate_factor(60, 100, 20, schedule) == pytest.approx(half)
    assert rate_factor(1000, 100, 0, schedule) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (1, 0), (5, 5), (5, 9)])
def test_always_above_zero_and_at_most_one(schedule, steps, warmup):
    for step in range(12):
        assert 0 < rate_factor(step, steps, warmup, schedule) <= 1
