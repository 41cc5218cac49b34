"""Autograd's anomaly detection, which RecBole leaves switched on, kept away from what trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_anomaly_detection() -> Iterator[None]:
    """A context, or a decorator, in which autograd keeps no stack of every operation and looks at no gradient for NaN.

    Importing any sequential model of RecBole 1.2.1 imports all of them, and `sine.py` switches the detection on for the
    whole process: small models train several times slower then. What was switched on before is so afterwards.
    """
    found = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    torch.autograd.set_detect_anomaly(False)
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(*found)
