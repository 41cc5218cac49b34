import math

import numpy as np
import pytest

from recbole_reg4rec.data.groups import Group
from recbole_reg4rec.trainer.measures import MEASURES, measure, measure_groups, measure_lists


def test_known_metrics():
    found = measure(np.array([1, 3, 7, 21, 0]))
    assert list(found) == list(MEASURES)
    assert (found["recall@5"], found["recall@10"], found["recall@20"]) == (0.4, 0.6, 0.6)
    assert found["ndcg@5"] == pytest.approx((1 + 1 / 2) / 5)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 5)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 7 + 1 / 21) / 5)


def test_a_target_that_is_ruled_out_is_never_found():
    assert set(measure(np.zeros(4, dtype=np.int64)).values()) == {0.0}


def test_lists():
    lists = np.array([[1, 2], [2, 0]])
    found = measure_lists(lists, np.array([3, 4]), np.array([0.0, 0.2, 0.4, 0.6, 0.8]))
    assert found["coverage@10"] == 2 / 4
    assert found["popularity@10"] == pytest.approx((0.2 + 0.4 + 0.4) / 3)
    assert found["target_popularity"] == pytest.approx(0.7)


def test_groups_average_to_the_whole():
    ranks = np.random.default_rng(0).integers(0, 40, size=300)
    cut = np.arange(300) % 3
    groups = {"third": [Group(str(number), cut == number, number, number) for number in range(3)]}
    (found,) = measure_groups(ranks, groups).values()
    assert [entry["n"] for entry in found] == [100, 100, 100]
    for name in ("recall@10", "ndcg@10"):
        assert sum(entry[name] for entry in found) / 3 == pytest.approx(measure(ranks)[name], abs=1e-6)
    assert found[0]["from"] == 0 and math.isclose(found[2]["to"], 2)
