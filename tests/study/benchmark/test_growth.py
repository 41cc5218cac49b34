import numpy as np
import pytest

from recbole_reg4rec.study.benchmark.growth import exponent
from recbole_reg4rec.study.benchmark.synthetic import write_catalogue


def test_a_power_is_recovered():
    sizes = [1e4, 1e5, 1e6]
    assert exponent(sizes, [3.0 * size**0.4 for size in sizes]) == pytest.approx(0.4)
    off = [1.1, 1 / 1.21, 1.1]  # a residual that is orthogonal to the line
    assert exponent(sizes, [size**0.4 * o for size, o in zip(sizes, off, strict=True)]) == pytest.approx(0.4)


@pytest.mark.parametrize(("sizes", "values"), [([1e4], [1.0]), ([1e4, 1e4], [1.0, 2.0]), ([1e4, 1e5], [0.0, 1.0])])
def test_no_exponent_without_two_sizes_or_with_nothing_measured(sizes, values):
    assert exponent(sizes, values) is None


def test_catalogue_is_as_promised(tmp_path):
    name = write_catalogue(tmp_path, 2000)
    inter = np.loadtxt(tmp_path / name / f"{name}.inter", skiprows=1, dtype=np.int64)
    users, items, times = inter.T
    lengths = np.bincount(users)
    assert len(lengths) == 1000 and lengths.min() == 5 and 9 < lengths.mean() < 11.5 and lengths.max() > 60
    assert all(np.array_equal(times[users == user], np.arange(lengths[user])) for user in range(20))
    lines = (tmp_path / name / f"{name}.item").read_text().splitlines()
    assert lines[0].split("\t") == ["item_id:token", "class:token", "title:token_seq"]
    numbers, classes, titles = zip(*(line.split("\t") for line in lines[1:]), strict=True)
    assert numbers == tuple(str(number) for number in range(2000)) and items.max() < 2000 and len(set(classes)) == 32
    assert len(set(titles)) > 1990, "hardly two items are alike"
    words = np.unique(" ".join(titles).split(), return_counts=True)[1]
    assert words.sum() == 6 * 2000 and words.max() > 500 and (words <= 5).mean() > 0.5
    popular = np.sort(np.bincount(items, minlength=2000))[::-1]
    assert popular[:20].sum() > 0.2 * len(items), "a hundredth of the items takes a fifth"
    follower = {}
    repeated = 0
    for here, there, same in zip(items, items[1:], users[1:] == users[:-1], strict=False):
        if same:
            repeated += follower.get(here) == there
            follower[here] = there
    assert repeated > 0.15 * len(items), "what follows an item often follows it again"
    assert (tmp_path / name / f"{name}.inter").read_text() == (
        (tmp_path / write_catalogue(tmp_path, 2000) / f"{name}.inter").read_text()
    )
