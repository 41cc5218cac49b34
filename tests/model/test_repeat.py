"""Repeat evidence: which items count as seen, how long ago, and what is added."""

from __future__ import annotations

import numpy as np
import torch

from recbole_reg4rec.data.repeats import AGE_BUCKETS
from recbole_reg4rec.model.repeat import Repeat, SeenOdds, newest_places


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


def _some_odds() -> tuple[SeenOdds, torch.Tensor]:
    """Of four contexts and six items, the last context having seen nothing, and the same as a table."""
    number, seen = torch.tensor([2, 0, 0, 1]), torch.tensor([4, 5, 1, 3])
    values = torch.tensor([-2.0, -3.0, 0.5, 7.0])
    return SeenOdds.of(number, seen, values, 4, 6), torch.zeros(4, 6).index_put((number, seen), values)


def test_odds_are_found_by_context_and_item() -> None:
    odds, table = _some_odds()
    assert torch.equal(odds.table(), table)
    contexts, items = torch.arange(4).repeat_interleave(6), torch.arange(6).repeat(4)
    assert torch.equal(odds.look_up(contexts, items).view(4, 6), table)
    none = SeenOdds.of(*(torch.zeros(0, dtype=torch.int64),) * 2, torch.zeros(0), 4, 6)
    assert not none.look_up(contexts, items).any() and not none.table().any()


def test_odds_of_some_contexts_in_another_order_and_more_than_once() -> None:
    odds, table = _some_odds()
    chosen = torch.tensor([2, 3, 0, 0])
    taken = odds.take(chosen)
    assert torch.equal(taken.table(), table[chosen])
    rows, items, values = taken.entries()
    assert rows.tolist() == sorted(rows.tolist()) and torch.equal(table[chosen][rows, items], values)
    assert torch.equal(taken.places, taken.places.sort().values), "places stay in order, so that they can be looked up"
    assert odds.take(torch.zeros(0, dtype=torch.int64)).table().shape == (0, 6)
