"""How time and memory grow with the catalogue: exponents by least squares in double logarithms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The ``b`` of ``value = a * size ** b`` that fits best; None with fewer than two sizes, or values not above 0.

    Args:
        sizes: of the catalogues, above 0.
        values: what was measured at each.
    """
    if len(set(sizes)) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
