"""Tokens as totals of items: the pieces that go through a small buffer equal the plain definition, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.model.marginals import book_marginals, pair_scores

ITEMS, BOOKS, WORDS, WIDTH, ROWS = 11, 3, 4, 5, 7


@pytest.fixture
def world() -> tuple[Tensor, Tensor, Tensor]:
    """States ``[R, d]``, items ``[n + 1, d]`` and codes ``[n + 1, M]``; token 3 of codebook 0 is nobody's."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(WORDS, (ITEMS + 1, BOOKS), generator=generator)
    codes[:, 0] %= 3
    states = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float32)
    return states, torch.randn(ITEMS + 1, WIDTH, generator=generator), codes


def shares(states: Tensor, items: Tensor, added: Tensor) -> Tensor:
    """By the definition, ``[R, n + 1]``, nothing for the padding item."""
    return torch.cat([torch.zeros(len(states), 1), (states @ items[1:].T + added[:, 1:]).softmax(1)], dim=1)


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("buffer", [1, 30, 10_000])
def test_a_whole_codebook_and_its_gradient(world: tuple[Tensor, Tensor, Tensor], buffer: int, extra: bool) -> None:
    states, items, codes = world
    added, entries = torch.zeros(ROWS, ITEMS + 1), None
    if extra:
        entries = torch.tensor([0, 0, 2, 6]), torch.tensor([3, 7, 1, 11]), torch.tensor([2.0, -1.0, -9.0, 4.0])
        added[entries[0], entries[1]] = entries[2]
    books = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    factor = torch.randn(ROWS, WORDS, generator=torch.Generator().manual_seed(1))
    plain = [states.clone().requires_grad_(), items.clone().requires_grad_()]
    carries = codes[:, books].T.unsqueeze(-1) == torch.arange(WORDS)
    total = (shares(*plain, added).unsqueeze(-1) * carries).sum(1)
    used = total.detach() > 0
    pieces = [states.clone().requires_grad_(), items.clone().requires_grad_()]
    got = book_marginals(pieces[0], pieces[1], codes, books, WORDS, buffer, entries)
    assert torch.allclose(got.detach().exp()[used], total.detach()[used], atol=1e-6)
    assert not used[books == 0][:, 3].any() and (got[books == 0][:, 3] < -80).all()
    (total[used].log() * factor[used]).sum().backward()
    (got * factor).sum().backward()
    for ours, theirs in zip(pieces, plain, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


@pytest.mark.parametrize("buffer", [1, 10_000])
def test_products_of_pairs_and_their_gradient(world: tuple[Tensor, Tensor, Tensor], buffer: int) -> None:
    states, items, _ = world
    # Rows without a pair, pairs named twice, columns in any order.
    rows, columns = torch.tensor([1, 1, 1, 4, 4, 6]), torch.tensor([7, 0, 7, 11, 3, 2])
    factor = torch.arange(1.0, 7.0)
    plain = [states.clone().requires_grad_(), items.clone().requires_grad_()]
    ours = [states.clone().requires_grad_(), items.clone().requires_grad_()]
    expected = (plain[0][rows] * plain[1][columns]).sum(1)
    found = pair_scores(*ours, rows, columns, buffer)
    assert torch.allclose(found, expected, atol=1e-6)
    (expected * factor).sum().backward()
    (found * factor).sum().backward()
    for one, other in zip(ours, plain, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)
    nothing = rows[:0]
    assert pair_scores(states, items, nothing, nothing, buffer).shape == (0,)


def test_products_of_pairs_say_nothing(world: tuple[Tensor, Tensor, Tensor], recwarn: pytest.WarningsRecorder) -> None:
    states, items, _ = world
    torch.set_warn_always(True)  # not once a process
    try:
        pair_scores(states, items, torch.tensor([0, 2]), torch.tensor([1, 1]))
    finally:
        torch.set_warn_always(False)
    assert not recwarn.list
