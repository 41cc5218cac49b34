import io

import pytest

from recbole_reg4rec.study.leaderboard.grid import Cell
from recbole_reg4rec.study.leaderboard.progress import Progress, clock


def cell(model, seed, dataset="d"):
    return Cell(model, "default", dataset, False, seed, f"{model}{seed}", model, f"{model}{seed}")


def test_the_estimate_goes_by_the_most_similar_cells():
    cells = [cell(model, seed) for model in "AB" for seed in (1, 2, 3)] + [cell("A", 1, "e")]
    progress = Progress(cells, show=False)
    assert progress.estimate() is None
    progress.note(cells[0], 10.0)
    assert progress.estimate() == pytest.approx(60.0), "as long as the only one known"
    progress.note(cells[3], 100.0)
    # A: 2 at 10; B: 2 at 100; A on another data set: the median of all, 55.
    assert progress.estimate() == pytest.approx(20 + 200 + 55)
    assert progress.estimate(workers=5) == pytest.approx(55)
    progress.failed(cells[1])
    assert progress.estimate() == pytest.approx(10 + 200 + 55)
    for one in cells:
        progress.note(one, 1.0)
    assert progress.estimate() == 0.0


def test_what_is_printed():
    out = io.StringIO()
    cells = [cell("A", 1), cell("B", 1)]
    progress = Progress(cells, stream=out)
    progress.start(cells[0], 1)
    progress.tick(1)
    progress.note(cells[0], 90.0)
    progress.end(cells[0], "done in 90 s")
    progress.start(cells[1], 2)
    first, second, third = out.getvalue().splitlines()
    assert first == "[0/2 done] A d seed 1 ... time left unknown until a cell has finished"
    assert second == "[1/2 done] A d seed 1: done in 90 s"
    assert third == "[1/2 done] B d seed 1 ... about 45 s left, shared by 2 processes, going by other models"
    quiet = io.StringIO()
    Progress(cells, show=False, stream=quiet).start(cells[0], 1)
    assert quiet.getvalue() == ""


def test_clock():
    assert [clock(seconds) for seconds in (3.4, 125, 7260, -1)] == ["3 s", "2 min 5 s", "2 h 1 min", "0 s"]
