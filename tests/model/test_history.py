"""The encoder sees the past alone, in both forms, whatever the padding and the order of an item's tokens."""

from __future__ import annotations

import pytest
import torch

from recbole_reg4rec.model.history import HistoryEncoder, TokenTable

CODES = torch.tensor([[0, 0, 0], [1, 2, 3], [3, 2, 1], [0, 3, 2], [2, 2, 2], [1, 1, 0]])


def encoder(form: str, codes: torch.Tensor = CODES) -> HistoryEncoder:
    torch.manual_seed(0)
    table = TokenTable(codes, 4, 8)
    return HistoryEncoder(
        table, form, longest=6, layers=2, width=8, heads=2, inner=16, dropout=0.0, attention_dropout=0.0
    ).eval()


@pytest.mark.parametrize("form", ["fused", "flat"])
def test_a_later_item_changes_no_earlier_state(form: str) -> None:
    model = encoder(form)
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 5, 1]])
    first, second = model(one).last, model(other).last
    assert torch.allclose(first[:, :2], second[:, :2], atol=1e-6)
    assert not torch.allclose(first[:, 2:], second[:, 2:], atol=1e-3)


@pytest.mark.parametrize("form", ["fused", "flat"])
def test_padding_changes_nothing(form: str) -> None:
    model = encoder(form)
    short, padded = torch.tensor([[1, 2]]), torch.tensor([[1, 2, 0, 0]])
    assert torch.allclose(model(short).last, model(padded).last[:, :2], atol=1e-6)


def test_owner_says_which_states_a_position_may_read() -> None:
    items = torch.tensor([[1, 2, 3]])
    assert encoder("fused")(items).owner.tolist() == [0, 1, 2]
    flat = encoder("flat")(items)
    assert flat.owner.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert flat.states.shape == (1, 12, 8)
    assert flat.last.shape == (1, 3, 8)


def test_flat_form_does_not_see_the_order_of_codebooks() -> None:
    model, items = encoder("flat"), torch.tensor([[1, 2, 3]])
    before = model(items).last
    # Codebooks take other numbers: their tokens' embeddings move along.
    order = [2, 0, 1]
    moved = encoder("flat", CODES[:, order])
    weights = model.table.weight.detach().view(3, 4, 8)[order].reshape(12, 8)
    state = {**model.state_dict(), "table.weight": weights}
    moved.load_state_dict(state)
    assert torch.allclose(moved(items).last, before, atol=1e-5)


def test_the_padding_item_has_no_tokens() -> None:
    table = TokenTable(CODES, 4, 8)
    assert table.items(torch.tensor([0])).abs().sum() == 0
    expected = torch.stack([table.weight[1], table.weight[4 + 2], table.weight[8 + 3]])
    assert torch.equal(table.items(torch.tensor([1]))[0], expected)
    assert torch.equal(table.tokens(torch.tensor(2), torch.tensor(3)), table.weight[11])


def test_gradients_of_tokens_do_not_depend_on_the_order_of_threads() -> None:
    torch.manual_seed(0)
    codes = torch.randint(0, 64, (3000, 4))
    table, items = TokenTable(codes, 64, 32), torch.randint(1, 3000, (40, 100))
    weights = torch.randn(40, 100, 4, 32)
    threads, found = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        for _ in range(60):
            (grad,) = torch.autograd.grad((table.items(items) * weights).sum(), table.weight)
            found.add(grad.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


@pytest.mark.parametrize("form", ["fused", "flat"])
@pytest.mark.parametrize("count", [5, 40])
def test_histories_read_in_lots_of_like_length_are_as_read_at_once(form: str, count: int) -> None:
    model, generator = encoder(form), torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 6, (count,), generator=generator)
    items = torch.randint(1, 6, (count, 6), generator=generator) * (torch.arange(6) < lengths.unsqueeze(1))
    whole, read = model(items[:, : int(lengths.max())]), model.read(items, lengths)
    last = model.read_last(items, lengths)
    assert torch.equal(whole.owner, read.owner) and whole.causal == read.causal
    for number, length in enumerate(lengths.tolist()):
        mine = read.owner < length
        assert torch.allclose(whole.states[number][mine], read.states[number][mine], atol=1e-6)
        assert torch.allclose(whole.last[number, :length], read.last[number, :length], atol=1e-6)
        assert torch.allclose(whole.last[number, length - 1], last[number], atol=1e-6)
