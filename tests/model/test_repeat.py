"""Repeat evidence: which items count as seen, how long ago, and what is added."""

from __future__ import annotations

import numpy as np
import torch

from recbole_reg4rec.data.repeats import AGE_BUCKETS
from recbole_reg4rec.model.repeat import Repeat, newest_places


def _rising() -> Repeat:
    return Repeat(np.arange(AGE_BUCKETS, dtype=np.float64) + 1.0)


def test_items_seen_are_named_once_with_their_newest_age() -> None:
    items = torch.tensor([[5, 7, 5, 9], [3, 0, 0, 0]])
    queries = torch.tensor([[False, True, False, True], [True, False, False, False]])
    number, item, age = newest_places(items, queries)
    found = {(int(n), int(i), int(a)) for n, i, a in zip(number, item, age, strict=True)}
    assert found == {(0, 5, 1), (0, 7, 0), (1, 7, 2), (1, 5, 1), (1, 9, 0), (2, 3, 0)}
    assert number.tolist() == sorted(number.tolist())


def test_scores_are_those_of_the_newest_places() -> None:
    torch.manual_seed(0)
    items, repeat = torch.randint(1, 8, (6, 9)), _rising()
    queries = torch.zeros(6, 9, dtype=torch.bool)
    queries[:, -1] = True
    number, item, age = newest_places(items, queries)
    expected = torch.zeros(6, 10).index_put((number, item), repeat(age))
    assert torch.equal(repeat.scores(items, 10), expected)
    padded = torch.cat([torch.zeros(6, 2, dtype=torch.int64), items, torch.zeros(6, 3, dtype=torch.int64)], dim=1)
    assert torch.equal(repeat.scores(padded, 10), expected)


def test_nothing_is_added_to_items_never_seen_or_to_padding() -> None:
    added = _rising().scores(torch.tensor([[0, 2, 2, 0]]), 4)
    assert added[0].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_ages_fall_into_buckets_on_a_logarithmic_scale() -> None:
    ages = torch.tensor([0, 1, 3, 7, 10**9])
    assert _rising()(ages).tolist() == [1.0, 5.0, 9.0, 13.0, 64.0]
