"""Learning rate as a function of the step alone, so that resuming needs no state."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine", "linear")


def rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Factor on ``learning_rate``, in ``(0, 1]``.

    Args:
        step: optimiser steps taken so far, from 0.
        steps: steps in all epochs together.
        warmup: steps of linear rise at the start.
        schedule: one of `SCHEDULES`; cosine and linear fall to a hundredth.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    left = 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return 0.01 + 0.99 * left
