"""The loop that trains codebooks, with a quantiser so small that what it does can be counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.tokenizer.training import train_codebooks


class Counted:
    """Each item's code is its first feature; the loss pulls one number to 0."""

    def __init__(self, epochs: int = 10, batch_size: int = 4, most: int | None = None) -> None:
        self.data = torch.arange(10.0).unsqueeze(1)
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.batches: list[list[int]] = []
        self.rates: list[float] = []
        self.unused: list[list[int]] = []
        shape = (1, 12)
        train_codebooks(
            self.data, self.optimizer, self.step, self.restart, shape, epochs, batch_size, "toy", False, most=most
        )

    def step(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.batches.append(rows.squeeze(1).int().tolist())
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return rows.long(), self.weight.square(), self.weight.detach()

    def restart(self, used: Tensor) -> None:
        assert not torch.is_grad_enabled()
        self.unused.append((~used[0]).nonzero().squeeze(1).tolist())


def test_every_epoch_sees_every_item_once_in_an_order_of_its_own() -> None:
    found = Counted(epochs=2)
    assert [len(batch) for batch in found.batches] == [4, 4, 2] * 2
    first, second = (sum(found.batches[begin : begin + 3], []) for begin in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_the_rate_falls_along_a_cosine_to_nothing() -> None:
    found = Counted(epochs=4)
    assert found.rates[0] == pytest.approx(0.1) and found.rates[6] == pytest.approx(0.05)
    assert found.rates == sorted(found.rates, reverse=True) and found.optimizer.param_groups[0]["lr"] < 1e-9
    assert 0 < float(found.weight) < 0.5


def test_unused_codewords_begin_anew_behind_all_epochs_but_the_last_tenth() -> None:
    found = Counted(epochs=20)
    assert found.unused == [[10, 11]] * 18


def test_an_epoch_may_see_fewer_at_random() -> None:
    found = Counted(epochs=6, most=5)
    seen = [sum(found.batches[begin : begin + 2], []) for begin in range(0, 12, 2)]
    assert all(len(items) == len(set(items)) == 5 for items in seen) and len(set(map(tuple, seen))) > 1
    assert all(len(unused) == 7 for unused in found.unused)


def test_the_same_generator_the_same_batches() -> None:
    torch.manual_seed(3)
    first = Counted().batches
    torch.manual_seed(3)
    assert Counted().batches == first
