"""Both ways to turn states into token probabilities, against their definitions on a whole model."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.decoding.beam import surest
from recbole_reg4rec.decoding.scoring import item_scores
from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.catalogue_scorer import CatalogueScorer
from recbole_reg4rec.model.repeat import SeenOdds
from recbole_reg4rec.model.scorers import CodebookScorer, OpenTokens, reasoning_steps

ITEMS, BOOKS, WORDS = 12, 3, 4


@pytest.fixture
def make(toy_data: Any) -> Any:
    """A factory of a random model in evaluation mode."""

    def build(**settings: Any) -> Any:
        settings = {"codebooks": BOOKS, "codebook_size": WORDS, "n_layers": 2, "beam_width": 20, **settings}
        model = toy_data(**settings).model.eval()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(0.4 * torch.randn(weights.shape, generator=generator))
        return model

    return build


def item_shares(model: Any, hidden: Tensor, alive: Tensor) -> Tensor:
    """Softmax over some items by their tokens' logits and vectors of their own: ``[d]`` to ``[len(alive)]``."""
    logits = model.reasoner.token_logits(hidden)
    score = logits[torch.arange(BOOKS), model.catalogue.codes[alive]].sum(1)
    identity = model.reasoner.vectors.identity
    if identity is not None:
        score = score + identity.weight[alive] @ model.reasoner.query(hidden)
    return score.softmax(0)


@pytest.mark.parametrize("identity", [False, True])
def test_a_token_gets_the_total_of_the_items_that_carry_it(make: Any, identity: bool) -> None:
    model = make(reason_identity=identity)
    assert (model.reasoner.vectors.identity is not None) == identity
    codes, hidden = model.catalogue.codes, torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    scorer = model.scorer(model.reasoner)
    assert isinstance(scorer, CatalogueScorer)
    token = codes[torch.tensor([3, 7]), 1]
    candidates = model.catalogue.open(torch.tensor([1, 1]), token)
    first, second = scorer.log_probs(hidden, None).exp(), scorer.log_probs(hidden, candidates).exp()
    answers = scorer.answer(hidden, candidates)
    for row in range(2):
        every = torch.arange(1, ITEMS + 1)
        left = every[codes[1:, 1] == token[row]]
        for alive, found in ((every, first[row]), (left, second[row])):
            expected = torch.zeros(BOOKS, WORDS)
            for item, share in zip(alive, item_shares(model, hidden[row], alive), strict=True):
                expected[torch.arange(BOOKS), codes[item]] += share
            assert torch.allclose(found, expected, atol=1e-5)
        wanted = item_shares(model, hidden[row], left).log()
        assert torch.allclose(answers[row, : len(left)], wanted, atol=1e-5)
        assert answers[row, len(left) :].isinf().all()
    books = torch.tensor([2, 0])
    for given, table in ((None, first), (candidates, second)):
        allowed = scorer.open(books, given)
        own = in_columns_of_all(scorer.book_log_probs(hidden, books, allowed, 1.0).exp(), allowed)
        assert torch.allclose(own, table[torch.arange(2), books], atol=1e-5)
        warm = in_columns_of_all(scorer.book_log_probs(hidden, books, allowed, 2.0).exp(), allowed)
        assert torch.allclose(warm, own.sqrt() / own.sqrt().sum(1, keepdim=True), atol=1e-5)
        closed = torch.tensor([[True, False, False], [False, True, False]])
        sure = scorer.confidence(hidden, given, closed)
        assert torch.allclose(sure[~closed], table.amax(-1).log()[~closed], atol=1e-5) and sure[closed].isinf().all()


def in_columns_of_all(values: Tensor, allowed: OpenTokens) -> Tensor:
    """What stands in the columns of the tokens that are open, in a column for each of all tokens, 0 for the others."""
    if allowed.tokens is None:
        return values
    paths, columns = (allowed.tokens >= 0).nonzero(as_tuple=True)
    tokens = allowed.token(paths, columns)
    assert torch.equal(allowed.column(paths, tokens), columns)
    assert not values[allowed.tokens < 0].any()
    return torch.zeros(len(values), WORDS).index_put((paths, tokens), values[paths, columns])


@pytest.mark.parametrize("kind", ["catalogue", "codebook"])
def test_no_path_at_all_is_no_mistake(make: Any, kind: str) -> None:
    model = make(token_softmax=kind)
    none, books = torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64)
    scorer, candidates = model.scorer(model.reasoner), model.catalogue.open(books, books)
    for given in (None, candidates):
        assert len(scorer.book_log_probs(none, books, scorer.open(books, given), 1.0)) == 0
    assert scorer.log_probs(none, candidates).shape == (0, BOOKS, WORDS)


@pytest.mark.parametrize("kind", ["catalogue", "codebook"])
def test_the_loss_is_that_of_the_probabilities(make: Any, kind: str) -> None:
    model = make(token_softmax=kind)
    hidden = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    targets, scorer, codes = torch.tensor([1, 5, 5, 12]), model.scorer(model.reasoner), model.catalogue.codes
    books = torch.tensor([0, 1, 2, 0])
    candidates = model.catalogue.open(books, codes[targets, books])
    is_open = torch.ones(4, BOOKS, dtype=torch.bool)
    for given in (None, candidates):
        if given is not None:
            is_open = is_open.scatter(1, books.unsqueeze(1), False)
        log_probs = scorer.log_probs(hidden, given).detach()
        tokens = log_probs.gather(2, codes[targets].unsqueeze(-1)).squeeze(-1)
        if kind == "catalogue":
            items = [
                item_shares(model, state, alive)[alive.tolist().index(int(target))].log()
                for state, target, alive in zip(hidden, targets, alive_items(model, targets, books, given), strict=True)
            ]
            expected = -torch.stack(items).mean()
        else:
            expected = -tokens[is_open].mean()
        loss = scorer.loss(hidden, given, targets, is_open)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


@pytest.mark.parametrize("kind", ["catalogue", "codebook"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_first_book_is_the_surest_one_and_says_what_it_holds(make: Any, kind: str, temperature: float) -> None:
    model = make(token_softmax=kind)
    scorer = model.scorer(model.reasoner)
    hidden = torch.randn(300, 8, generator=torch.Generator().manual_seed(4))
    books, log_probs = scorer.first(hidden, temperature)
    closed = torch.zeros(len(hidden), BOOKS, dtype=torch.bool)
    assert torch.equal(books, surest(scorer.confidence(hidden, None, closed)).squeeze(-1))
    assert len(set(books.tolist())) == BOOKS and not log_probs.requires_grad
    expected = scorer.book_log_probs(hidden, books, scorer.open(books, None), temperature)
    assert torch.allclose(log_probs.exp(), expected.exp(), atol=1e-6)
    assert torch.equal(log_probs.isinf(), expected.isinf())


def alive_items(model: Any, targets: Tensor, books: Tensor, given: Any) -> list[Tensor]:
    """Items left to each prefix."""
    codes, every = model.catalogue.codes, torch.arange(1, ITEMS + 1)
    if given is None:
        return [every] * len(targets)
    return [every[codes[1:, book] == codes[target, book]] for target, book in zip(targets, books, strict=True)]


@pytest.mark.parametrize("each", [1, 2])
def test_odds_of_a_context_stand_beside_the_logits(make: Any, each: int) -> None:
    """Whatever is asked of the scorer, by the definition; states of a context are neighbours, or `at` says whose."""
    model, every = make(), torch.arange(1, ITEMS + 1)
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn(3 * each, 8, generator=generator)
    contexts = torch.arange(3).repeat_interleave(each)
    seen = torch.tensor([[0, 2], [0, 9], [1, 4], [1, 5], [1, 12]]).T
    odds = SeenOdds.of(*seen, torch.randn(5, generator=generator) * 3, 3, ITEMS + 1)
    table, codes = odds.table(), model.catalogue.codes
    targets = torch.randint(1, ITEMS + 1, (len(hidden),), generator=generator)
    books = torch.randint(BOOKS, (len(hidden),), generator=generator)
    candidates = model.catalogue.open(books, codes[targets, books])
    turned = torch.randperm(len(hidden), generator=generator)
    plain = model.scorer(model.reasoner, odds=odds)
    moved = model.catalogue.open(books[turned], codes[targets[turned], books[turned]])
    asked = [(plain, torch.arange(len(hidden)), candidates), (plain.at(contexts[turned]), turned, moved)]
    for scorer, order, left in asked:
        shares = [torch.zeros(ITEMS + 1) for _ in order]
        narrowed = [torch.zeros(ITEMS + 1) for _ in order]
        for place, row in enumerate(order.tolist()):
            logits = model.reasoner.token_logits(hidden[row])
            score = logits[torch.arange(BOOKS), codes].sum(1) + table[contexts[row]]
            shares[place][1:] = score[1:].softmax(0)
            alive = every[codes[1:, books[row]] == codes[targets[row], books[row]]]
            narrowed[place][alive] = score[alive].softmax(0)
        whole, rest = torch.stack(shares).detach(), torch.stack(narrowed).detach()
        states, wanted, number = hidden[order], targets[order], torch.arange(len(order))
        carries = torch.nn.functional.one_hot(codes, WORDS).float()
        of_tokens, of_rest = (torch.einsum("ri,imk->rmk", part, carries) for part in (whole, rest))
        with torch.no_grad():
            assert torch.allclose(scorer.item_log_probs(states).exp(), whole, atol=1e-5)
            assert torch.allclose(scorer.log_probs(states, None).exp(), of_tokens, atol=1e-5)
            assert torch.allclose(scorer.log_probs(states, left).exp(), of_rest, atol=1e-5)
            first, held = scorer.first(states, 1.0)
            assert torch.allclose(held.exp(), of_tokens[number, first], atol=1e-5)
            open_tokens = scorer.open(books[order], None)
            of_book = scorer.book_log_probs(states, books[order], open_tokens, 1.0).exp()
            assert torch.allclose(of_book, of_tokens[number, books[order]], atol=1e-5)
            sure = scorer.confidence(states, left, torch.zeros(len(order), BOOKS, dtype=torch.bool))
            assert torch.allclose(sure.exp(), of_rest.amax(-1), atol=1e-5)
            for given, part in ((None, whole), (left, rest)):
                expected = -part[number, wanted].log().mean()
                loss = scorer.loss(states, given, wanted, torch.ones(len(order), BOOKS, dtype=torch.bool))
                assert float(loss) == pytest.approx(float(expected), abs=1e-4)


class Unmoved:
    """A session whose states stay what they were before the first token."""

    def __init__(self, states: Tensor) -> None:
        self.states = states

    def begin(self) -> Tensor:
        return self.states

    def follow(self, parents: Tensor) -> None:
        pass

    def take(self, embedded: Tensor) -> Tensor:
        return self.states.expand(-1, embedded.shape[1], -1)


@pytest.mark.parametrize("order", ["confidence", "fixed", "random"])
@pytest.mark.parametrize("steps", [2, 3])
def test_where_steps_change_no_state_every_path_says_what_was_known_before(
    make: Any, order: str, steps: int, monkeypatch: Any
) -> None:
    """The chain rule: whatever the order and number of steps, any path to an item has its probability."""
    model = make(decoding_order=order, reasoning_steps=steps)
    states = torch.randn(5, 1, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(model, "_session", lambda history, last, lengths: Unmoved(states))
    with torch.no_grad():
        paths = model.reason(torch.tensor([[1, 2]] * 5), torch.tensor([2] * 5))
        scores = item_scores(paths, model.catalogue)
        prior = model.scorer(model.reasoner).item_log_probs(states[:, 0])
    assert paths.books.shape[2] <= steps - (steps < BOOKS)
    assert torch.allclose(scores[:, 1:], prior[:, 1:], atol=1e-4)
    for row, path in itertools.product(range(5), range(paths.scores.shape[1])):
        for item, answer in zip(paths.items[row, path].tolist(), _answers(paths, row, path), strict=True):
            if item and not paths.scores[row, path].isinf():
                assert float(paths.scores[row, path] + answer) == pytest.approx(float(prior[row, item]), abs=1e-4)


def _answers(paths: Any, row: int, path: int) -> Tensor:
    return torch.zeros(paths.items.shape[2]) if paths.answers is None else paths.answers[row, path]


def test_ending_early_is_for_the_catalogue_alone(make: Any) -> None:
    base = {"codebooks": 5, "token_softmax": "catalogue"}
    assert reasoning_steps({**base, "reasoning_steps": 3}) == 3
    assert reasoning_steps({**base, "reasoning_steps": 9}) == 5
    with pytest.raises(UserError, match="reasoning_steps is 4 and codebooks 5"):
        reasoning_steps({**base, "reasoning_steps": 4, "token_softmax": "codebook"})
    model = make(token_softmax="codebook")
    assert isinstance(model.scorer(model.reasoner), CodebookScorer)
    assert model.reason(torch.tensor([[1, 2]]), torch.tensor([2])).prior is None
