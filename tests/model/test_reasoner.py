"""Paths that are followed, copied and reordered equal paths walked alone."""

from __future__ import annotations

import pytest
import torch

from recbole_reg4rec.model.history import HistoryEncoder, ItemVectors, TokenTable
from recbole_reg4rec.model.reasoner import Reasoner

CODES = torch.tensor([[0, 0], [1, 2], [3, 2], [0, 3], [2, 2]])
SIZES = {"width": 8, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(params=[(True, False), (False, False), (True, True), (False, True)])
def parts(request: pytest.FixtureRequest) -> tuple[HistoryEncoder, Reasoner]:
    torch.manual_seed(0)
    table = TokenTable(CODES, 4, 8)
    encoder = HistoryEncoder(table, "fused", 5, layers=1, **SIZES)
    start, grounded = request.param
    reasoner = Reasoner(table, categories=3, layers=2, start_from_history=start, grounded=grounded, **SIZES)
    if reasoner.correct is not None:
        torch.nn.init.normal_(reasoner.correct.weight)
    return encoder.eval(), reasoner.eval()


def walk(parts: tuple[HistoryEncoder, Reasoner], items: torch.Tensor, path: list[tuple[int, int]]) -> torch.Tensor:
    """State after a path, for one user, one path."""
    encoder, reasoner = parts
    history = encoder(items)
    session = reasoner.session(history, history.last[:, -1:], None, causal=False)
    hidden = session.begin()
    for book, token in path:
        hidden = session.take(reasoner.table.tokens(torch.tensor([[book]]), torch.tensor([[token]])))
    return hidden[0, 0]


def test_followed_paths_equal_paths_walked_alone(parts: tuple[HistoryEncoder, Reasoner]) -> None:
    encoder, reasoner = parts
    items = torch.tensor([[1, 2, 3], [4, 1, 2]])
    history = encoder(items)
    session = reasoner.session(history, history.last[:, -1:], None, causal=False)
    session.begin()
    session.follow(torch.tensor([[0, 0], [0, 0]]))
    books, tokens = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[3, 2], [1, 0]])
    session.take(reasoner.table.tokens(books, tokens))
    # The first user's second path takes both places, the second user's change places.
    parents = torch.tensor([[1, 1], [1, 0]])
    session.follow(parents)
    last_books, last_tokens = torch.tensor([[0, 0], [1, 0]]), torch.tensor([[1, 2], [2, 3]])
    hidden = session.take(reasoner.table.tokens(last_books, last_tokens))
    for user in range(2):
        for place in range(2):
            parent = int(parents[user, place])
            path = [
                (int(books[user, parent]), int(tokens[user, parent])),
                (int(last_books[user, place]), int(last_tokens[user, place])),
            ]
            alone = walk(parts, items[user : user + 1], path)
            assert torch.allclose(hidden[user, place], alone, atol=1e-5)


def test_the_same_tokens_in_another_order_are_another_state(parts: tuple[HistoryEncoder, Reasoner]) -> None:
    items = torch.tensor([[1, 2, 3]])
    one = walk(parts, items, [(0, 1), (1, 2)])
    other = walk(parts, items, [(1, 2), (0, 1)])
    assert not torch.allclose(one, other, atol=1e-3)


def test_heads_have_the_shapes_they_say(parts: tuple[HistoryEncoder, Reasoner]) -> None:
    _, reasoner = parts
    hidden = torch.randn(6, 5, 8)
    assert reasoner.token_logits(hidden).shape == (6, 5, 2, 4)
    categories = reasoner.category_logits(hidden)
    assert categories.shape == (6, 5, 4)
    assert (categories.argmax(-1) > 0).all()


def test_a_grounded_decoder_begins_by_correcting_nothing() -> None:
    torch.manual_seed(0)
    table = TokenTable(CODES, 4, 8)
    encoder = HistoryEncoder(table, "fused", 5, layers=1, **SIZES)
    reasoner = Reasoner(table, categories=3, layers=1, start_from_history=True, grounded=True, **SIZES)
    items, path = torch.tensor([[1, 2, 3]]), [(0, 1), (1, 2)]
    hidden = walk((encoder, reasoner), items, path)
    assert torch.equal(reasoner.query(hidden), reasoner.project(encoder(items).last[0, -1]))
    other = walk((encoder, reasoner), items, [(0, 1), (1, 3)])
    assert torch.equal(reasoner.query(hidden), reasoner.query(other))
    # Categories are told from the path at once.
    assert not torch.allclose(reasoner.category_logits(hidden), reasoner.category_logits(other))
    assert reasoner.correct is not None
    (walk((encoder, reasoner), items, path) ** 2).sum().backward()
    assert reasoner.correct.weight.grad is not None and reasoner.correct.weight.grad.abs().sum() > 0


def test_items_are_compared_by_the_sum_of_their_tokens_logits() -> None:
    torch.manual_seed(0)
    reasoner = Reasoner(TokenTable(CODES, 4, 8), 0, layers=1, start_from_history=True, **SIZES)
    with torch.no_grad():
        reasoner.bias.normal_()
        hidden = torch.randn(6, 8)
        logits = torch.cat([reasoner.query(hidden), torch.ones(6, 1)], dim=1) @ reasoner.vectors().T
        expected = reasoner.token_logits(hidden)[:, torch.arange(2), CODES[1:]].sum(-1)
        assert torch.allclose(logits[:, 1:], expected, atol=1e-5)
        assert (logits[:, 0] == 0).all()


def test_item_vectors_are_made_anew_when_a_weight_changes() -> None:
    table = TokenTable(CODES, 4, 8)
    vectors = ItemVectors(table)
    with torch.no_grad():
        first = vectors()
        assert vectors() is first
        table.weight.add_(1.0)
        second = vectors()
        assert torch.allclose(second[1:], first[1:] + 2.0, atol=1e-6) and (second[0] == 0).all()
        table.load_state_dict({"weight": torch.zeros(8, 8)})
        assert (vectors() == 0).all()
    assert vectors() is not vectors(), "with a gradient nothing is kept"
