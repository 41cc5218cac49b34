"""Feasibility against brute force over the catalogue."""

from __future__ import annotations

import itertools

import pytest
import torch

from recbole_reg4rec.decoding.catalogue import Catalogue, feasible_log_softmax

BOOKS, WORDS, ITEMS = 3, 5, 20


@pytest.fixture(params=[0, 1, 2])
def catalogue(request: pytest.FixtureRequest) -> Catalogue:
    generator = torch.Generator().manual_seed(request.param)
    codes = torch.randint(0, WORDS, (ITEMS + 1, BOOKS), generator=generator)
    codes[0] = 0
    return Catalogue(codes, WORDS)


def brute_force(catalogue: Catalogue, chosen: dict[int, int]) -> set[int]:
    return {
        item
        for item in range(1, catalogue.items + 1)
        if all(int(catalogue.codes[item, book]) == token for book, token in chosen.items())
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(BOOKS))))
def test_candidates_and_tokens_equal_brute_force_in_every_order(catalogue: Catalogue, order: tuple[int, ...]) -> None:
    for path in itertools.product(range(WORDS), repeat=BOOKS):
        chosen: dict[int, int] = {}
        candidates: torch.Tensor | None = None
        for book in order:
            chosen[book] = path[book]
            pair = torch.tensor([book]), torch.tensor([path[book]])
            candidates = catalogue.open(*pair) if candidates is None else catalogue.narrow(candidates, *pair)
            expected = brute_force(catalogue, chosen)
            assert set(candidates[0].tolist()) - {0} == expected
            feasible = catalogue.feasible(candidates)[0]
            for other in range(BOOKS):
                tokens = {int(catalogue.codes[item, other]) for item in expected}
                assert set(torch.nonzero(feasible[other]).squeeze(1).tolist()) == tokens


def test_unused_tokens_and_the_padding_item_are_never_feasible() -> None:
    codes = torch.tensor([[4, 4], [0, 1], [0, 2]])
    catalogue = Catalogue(codes, 5)
    assert catalogue.used.tolist() == [[True, False, False, False, False], [False, True, True, False, False]]
    assert catalogue.open(torch.tensor([0]), torch.tensor([4])).tolist() == [[0]]


def test_batches_of_any_shape_equal_single_rows(catalogue: Catalogue) -> None:
    books = torch.randint(0, BOOKS, (2, 7))
    tokens = torch.randint(0, WORDS, (2, 7))
    together = catalogue.feasible(catalogue.open(books, tokens))
    for row, column in itertools.product(range(2), range(7)):
        alone = catalogue.feasible(catalogue.open(books[row, column], tokens[row, column]))
        assert torch.equal(together[row, column], alone)


def test_feasible_log_softmax_sums_to_one_and_never_gives_nan() -> None:
    logits = torch.randn(4, 6)
    feasible = torch.tensor([[True] * 6, [True, False] * 3, [False] * 5 + [True], [False] * 6])
    log_probs = feasible_log_softmax(logits, feasible)
    assert torch.allclose(log_probs.exp().sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert not log_probs.isnan().any()
    assert (log_probs[~feasible] == float("-inf")).all()
    assert float(log_probs[2, 5]) == pytest.approx(0.0)
