"""Scores the users of a batch in several threads of Python, on a CPU (our choice; docs/performance.md).

A search for paths consists of many small steps, too small for OpenMP's threads to gain much by dividing each. Users
have nothing to do with each other, so that each thread of Python may have some of them, and steps of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from recbole_reg4rec.decoding.catalogue import Catalogue

_Model = TypeVar("_Model", bound=nn.Module)
_Found = TypeVar("_Found")

# Of Python code only one thread runs at a time, so that with more they would wait for one another.
_MOST = 4
# Users that a thread should have at least: steps with fewer cost nearly as much.
_LEAST = 32


def most_lanes(device: torch.device) -> int:
    """How many threads score at a time, whatever the batch: 1 on a GPU, and where torch has one thread."""
    return min(torch.get_num_threads(), _MOST) if device.type == "cpu" else 1


class Lanes:
    """What threads that score at a time have for themselves: catalogues with memory of their own, kept from batch to
    batch; weights are shared."""

    def __init__(self) -> None:
        self._catalogues: list[Catalogue] = []

    def each(self, model: _Model, users: int, work: Callable[[_Model, slice], _Found]) -> list[_Found]:
        """``work(model, rows)`` for users of a batch, ``rows`` of it in each thread; what it gives, in their order.

        Args:
            model: on a CPU or GPU, with a ``catalogue``; each thread gets a copy that shares all but what its search
                writes into. With gradients, on a GPU or for few users it is called once, for all.
            users: of the batch.
        """
        catalogue = model.catalogue
        assert isinstance(catalogue, Catalogue)
        lanes = max(1, min(most_lanes(catalogue.codes.device), users // _LEAST))
        if lanes == 1 or torch.is_grad_enabled():
            return [work(model, slice(0, users))]
        self._catalogues += [catalogue.for_another_thread() for _ in range(len(self._catalogues), lanes)]
        threads = torch.get_num_threads()

        @torch.no_grad()
        def begin(lane: int) -> _Found:
            torch.set_num_threads(threads // lanes)
            own = copy.copy(model)
            own._modules = {**model._modules, "catalogue": self._catalogues[lane]}
            return work(own, slice(users * lane // lanes, users * (lane + 1) // lanes))

        try:
            with ThreadPoolExecutor(lanes) as pool:
                return list(pool.map(begin, range(lanes)))
        finally:
            # Threads of torch's that are still to come would take the number said last, by whichever thread.
            torch.set_num_threads(threads)
