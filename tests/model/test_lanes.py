"""Users of a batch in several threads: the same scores to the bit, and nothing of torch left changed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from toys import cyclic_rows

from recbole_reg4rec.decoding.corp import PruningStatistics
from recbole_reg4rec.model import lanes
from recbole_reg4rec.model.lanes import Lanes, most_lanes

CPU = torch.device("cpu")
PRUNING = {"corp": True, "corp_threshold": 0.999, "corp_min_beams": 1, "codebooks": 3, "codebook_size": 3}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Toys have few users; and threads of torch are those of before when a test ends."""
    monkeypatch.setattr(lanes, "_LEAST", 4)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _toy(toy_data: Any, **settings: Any) -> tuple[Any, Any]:
    evidence = {"item_path": True, "memory": True, "repeat": True, "gate": True}
    toy = toy_data(cyclic_rows(users=31), eval_batch_size=64, **{**evidence, **settings})
    with torch.enable_grad():  # for the tokenizer
        return toy.model.eval(), next(iter(toy.data.test))[0]


@pytest.mark.parametrize("settings", [{}, PRUNING, {"decoding_order": "random"}, {"token_softmax": "codebook"}])
@torch.no_grad()
def test_scores_are_those_of_one_thread(toy_data: Any, settings: dict[str, Any]) -> None:
    model, users = _toy(toy_data, **settings)
    model.reasoner.category.weight.mul_(20.0)  # untrained, all steps would agree
    model.keeps_rest = True
    targets = users[model.ITEM_ID]
    found: dict[int, list[Any]] = {}
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        scores, counts = model.full_sort_predict(users), PruningStatistics()
        counts.add_batch(model.checks, targets)
        assert len(model.checks) == (threads if "corp" in settings else 0)
        found[threads] = [scores, model.rest, *model.evidence(users).values(), model.summed(users)[0]]
        found[threads].append(counts.as_dict())
        assert torch.get_num_threads() == threads
    for threads in (2, 3):
        assert found[threads][-1] == found[1][-1]
        assert all(map(torch.equal, found[threads][:-1], found[1][:-1]))
    assert bool(found[1][-1]) == ("corp" in settings)


@torch.no_grad()
def test_more_users_at_once_take_what_is_theirs(toy_data: Any) -> None:
    model, users = _toy(toy_data)
    torch.set_num_threads(1)
    alone = torch.cat([model.full_sort_predict(users[row : row + 1]) for row in range(len(users))])
    torch.set_num_threads(4)
    for _ in range(3):  # what threads keep for the next batch is not what that reads
        assert torch.allclose(model.full_sort_predict(users), alone, atol=1e-5)
    other = copy.deepcopy(model)
    assert torch.equal(other.full_sort_predict(users), model.full_sort_predict(users))


def test_how_many_threads(toy_data: Any) -> None:
    model, _ = _toy(toy_data)
    torch.set_num_threads(2)
    assert most_lanes(CPU) == 2 and most_lanes(torch.device("cuda")) == 1

    def parts(users: int) -> list[tuple[int, int]]:
        return Lanes().each(model, users, lambda _, rows: (rows.start, rows.stop))

    assert parts(9) == [(0, 9)], "with gradients all are one"
    with torch.no_grad():
        assert parts(9) == [(0, 4), (4, 9)]
        assert parts(7) == [(0, 7)], "less than four each"
        torch.set_num_threads(16)
        assert len(parts(100)) == 4, "more would wait for one another"


@torch.no_grad()
def test_each_thread_has_its_share_of_threads_and_writes_into_memory_of_its_own(toy_data: Any) -> None:
    model, _ = _toy(toy_data)
    torch.set_num_threads(4)
    kept, together = Lanes(), threading.Barrier(2)
    memory: list[set[int]] = []

    def work(own: Any, rows: slice) -> int:
        together.wait(timeout=60)  # both at a time
        assert torch.get_num_threads() == 2 and not torch.is_grad_enabled()
        assert own.item_path is model.item_path and own.reasoner.table.weight is model.reasoner.table.weight
        return own.catalogue.scratch(1000).data_ptr()

    for _ in range(2):
        memory.append(set(kept.each(model, 8, work)))
    assert len(memory[0]) == 2 and memory[0] == memory[1], "kept for the next batch"


@torch.no_grad()
def test_an_error_in_a_thread_is_raised_and_the_number_of_threads_restored(toy_data: Any) -> None:
    model, _ = _toy(toy_data)
    torch.set_num_threads(2)

    def work(own: Any, rows: slice) -> None:
        if rows.start:
            raise ValueError("in the second")

    with pytest.raises(ValueError, match="in the second"):
        Lanes().each(model, 8, work)
    assert torch.get_num_threads() == 2
