"""Time-slices of a loader: each goes on where the last one stopped, so that long and short batches come as they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_reg4rec.data.sequences import TARGETS


class Batches:
    """The batches of a loader without end, epoch after epoch.

    Args:
        loader: gives the batches of one epoch when iterated.
        begin_epoch: told the number of every epoch, from 0, before its first batch.
    """

    def __init__(self, loader: Any, begin_epoch: Callable[[int], None] = lambda epoch: None) -> None:
        self.loader = loader
        self._begin_epoch = begin_epoch
        self._batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        epoch = 0
        while True:
            self._begin_epoch(epoch)
            yield from self.loader
            epoch += 1

    def take(self, seconds: float, count: Callable[[Any], int], slice_: Slice) -> Iterator[Any]:
        """Batches until the time is over, at least one; what was taken is counted in ``slice_``."""
        begin = perf_counter()
        while slice_.batches == 0 or perf_counter() - begin < seconds:
            batch = next(self._batches)
            slice_.batches += 1
            slice_.count += count(batch)
            yield batch


class Slice:
    """What a slice has done so far: ``batches``, and ``count`` targets or users."""

    def __init__(self) -> None:
        self.batches = self.count = 0


class TrainingSlice(Slice):
    """Stands in for a training loader during a slice; counts the trained targets."""

    def __init__(self, batches: Batches, seconds: float) -> None:
        super().__init__()
        self._source, self._seconds = batches, seconds

    def __len__(self) -> int:
        # Of the whole epoch, which is what the schedule of the learning rate goes by.
        return len(self._source.loader)

    def __iter__(self) -> Iterator[Any]:
        return self._source.take(self._seconds, _targets, self)


class TestSlice(FullSortEvalDataLoader, Slice):
    """The loader of a test part that ends when the time is over; counts the users."""

    __test__ = False  # no test, whatever pytest takes it for

    def __init__(self, batches: Batches, seconds: float) -> None:
        # The same loader under another class; the trainer asks for one of RecBole's kind.
        self.__dict__.update(batches.loader.__dict__)
        self.__dict__.update(batches=0, count=0, _source=batches, _seconds=seconds)

    def __iter__(self) -> Iterator[Any]:
        return self._source.take(self._seconds, lambda batch: len(batch[0]), self)


def _targets(batch: Any) -> int:
    """One a row, or what a whole sequence marks."""
    return int((batch[TARGETS] > 0).sum()) if TARGETS in batch else len(batch)
