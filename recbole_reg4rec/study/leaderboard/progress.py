"""Where the whole grid stands, and how long it may still take."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from statistics import median
from time import monotonic
from typing import TextIO

from recbole_reg4rec.study.leaderboard.grid import Cell


class Progress:
    """Tells what happens, a line an event; on a terminal also a line that follows the cell at work.

    Args:
        cells: the whole grid.
        show: False keeps silent except for `say`.
        stream: where to, standard output when not given.
    """

    def __init__(self, cells: Iterable[Cell], show: bool = True, stream: TextIO | None = None) -> None:
        self._cells = list(cells)
        self._show = show
        self._out = stream or sys.stdout
        self._live = show and self._out.isatty()
        self._seconds: dict[Cell, float] = {}
        self._done: set[Cell] = set()
        self._at_work: tuple[Cell, float] | None = None

    def note(self, cell: Cell, seconds: float) -> None:
        """A finished cell and how long it took in all."""
        self._done.add(cell)
        self._seconds[cell] = seconds

    def failed(self, cell: Cell) -> None:
        """A cell that will not be tried again now."""
        self._done.add(cell)

    def estimate(self, workers: int = 1) -> float | None:
        """Seconds until the grid is done, or None while nothing is known to judge by.

        A cell is taken to last as long as those of the same model, variant and data set did at the median, otherwise
        of the same data set, otherwise of all.
        """
        left = [cell for cell in self._cells if cell not in self._done]
        if not left:
            return 0.0
        if not self._seconds:
            return None
        total = sum(self._expected(cell) for cell in left)
        if self._at_work is not None and self._at_work[0] in left:
            cell, begin = self._at_work
            total -= min(monotonic() - begin, self._expected(cell))
        return total / max(workers, 1)

    def _expected(self, cell: Cell) -> float:
        def similar(*names: str) -> list[float]:
            wanted = [getattr(cell, name) for name in names]
            return [s for other, s in self._seconds.items() if [getattr(other, name) for name in names] == wanted]

        for names in (("model", "variant", "dataset"), ("dataset",), ()):
            found = similar(*names)
            if found:
                return median(found)
        return 0.0

    def start(self, cell: Cell, workers: int) -> None:
        self._at_work = (cell, monotonic())
        self.tell(f"{self._place()} {cell.title} ... {self._left(workers)}")

    def tick(self, workers: int) -> None:
        """Refreshes the line on a terminal."""
        if self._live and self._at_work is not None:
            cell, begin = self._at_work
            text = f"{self._place()} {cell.title}: {clock(monotonic() - begin)}; {self._left(workers)}"
            self._out.write(f"\r\033[K{text[:150]}")
            self._out.flush()

    def end(self, cell: Cell, text: str) -> None:
        self._at_work = None
        self.tell(f"{self._place()} {cell.title}: {text}")

    def say(self, text: str) -> None:
        """A line that is printed in any case."""
        self._clear()
        print(text, file=self._out, flush=True)

    def tell(self, text: str) -> None:
        """A line that `show` can silence."""
        if self._show:
            self.say(text)

    def _clear(self) -> None:
        if self._live:
            self._out.write("\r\033[K")

    def _place(self) -> str:
        total = str(len(self._cells))
        return f"[{str(len(self._done)).rjust(len(total))}/{total} done]"

    def _left(self, workers: int) -> str:
        seconds = self.estimate(workers)
        if seconds is None:
            return "time left unknown until a cell has finished"
        shared = f", shared by {workers} processes" if workers > 1 else ""
        timed = {(cell.model, cell.variant, cell.dataset) for cell in self._seconds}
        new = any((c.model, c.variant, c.dataset) not in timed for c in self._cells if c not in self._done)
        return f"about {clock(seconds)} left{shared}{', going by other models' if new else ''}"


def clock(seconds: float) -> str:
    """``45 s``, ``12 min 5 s``, ``3 h 20 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
