"""Batches of evaluation: every row once, histories of like length together, RecBole's batches beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_reg4rec.data.dataset import LOG_POSITION
from recbole_reg4rec.data.evaluation_loader import EvaluationLoader


def loader(toy_data: Any, users: int = 50, batch: int = 8) -> EvaluationLoader:
    rows = [(f"u{user}", f"i{(user + time) % 12}", time) for user in range(users) for time in range(3 + user * 7 % 9)]
    return toy_data(inter=rows, model="SASRecWhole", eval_batch_size=batch).data.test


def test_every_row_comes_once_beside_others_of_its_length(toy_data: Any) -> None:
    found = loader(toy_data)
    batches = [(interaction, targets) for interaction, _, _, targets in found]
    assert [len(targets) for _, targets in batches] == [8] * 6 + [2] and len(found) == 7
    lengths = [interaction["item_length"] for interaction, _ in batches]
    assert all(int(one.max() - one.min()) <= 2 for one in lengths)
    means = [float(one.float().mean()) for one in lengths[:-1]]
    assert means != sorted(means), "in a drawn order"
    positions = torch.cat([interaction[LOG_POSITION] for interaction, _ in batches])
    assert positions.sort().values.tolist() == found._dataset.inter_feat[LOG_POSITION].sort().values.tolist()
    again = torch.cat([interaction[LOG_POSITION] for interaction, *_ in found])
    assert torch.equal(positions, again), "the same every time"
    for interaction, targets in batches:
        assert torch.equal(interaction["item_id"], targets)


def test_as_in_data_is_what_recbole_gives(toy_data: Any) -> None:
    found = loader(toy_data)
    theirs = FullSortEvalDataLoader(found.config, found._dataset, found._sampler)
    for ours, other in zip(found.as_in_data(), theirs, strict=True):
        assert torch.equal(ours[0][LOG_POSITION], other[0][LOG_POSITION])
        assert all(torch.equal(one, two) for one, two in zip(ours[1:], other[1:], strict=True) if one is not None)


def test_rows_that_fill_their_batches_and_rows_of_less_than_one(toy_data: Any) -> None:
    for users, sizes in ((16, [8, 8]), (3, [3])):
        found = loader(toy_data, users)
        assert [len(targets) for *_, targets in found] == sizes
        assert np.array_equal(np.sort(found._order), np.arange(users))
