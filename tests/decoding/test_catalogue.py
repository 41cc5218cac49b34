"""Feasibility against brute force over the catalogue."""

from __future__ import annotations

import itertools

import pytest
import torch

from recbole_reg4rec.decoding import catalogue as module
from recbole_reg4rec.decoding.catalogue import Candidates, Catalogue, feasible_log_softmax

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
        candidates: Candidates | None = None
        for book in order:
            chosen[book] = path[book]
            pair = torch.tensor([book]), torch.tensor([path[book]])
            candidates = catalogue.open(*pair) if candidates is None else catalogue.narrow(candidates, *pair)
            expected = brute_force(catalogue, chosen)
            assert candidates.padded()[0].tolist() == (sorted(expected) or [0])
            assert int(candidates.counts[0]) == len(expected)
            feasible = catalogue.feasible(candidates)[0] == 0
            for other in range(BOOKS):
                tokens = {int(catalogue.codes[item, other]) for item in expected}
                assert set(torch.nonzero(feasible[other]).squeeze(1).tolist()) == tokens


def test_slots_are_those_of_the_first_item_of_a_list_with_the_same_token(catalogue: Catalogue) -> None:
    slots = catalogue.slots()
    assert slots is not None and slots.dtype == torch.int32 and slots.shape == (BOOKS * ITEMS, BOOKS)
    for token in range(BOOKS * WORDS):
        start, count = int(catalogue.starts[token]), int(catalogue.counts[token])
        carried = catalogue.codes[catalogue.postings[start : start + count]].tolist()
        for place, own in enumerate(carried):
            first = [[other[book] for other in carried].index(own[book]) for book in range(BOOKS)]
            expected = [number * BOOKS + book for book, number in enumerate(first)]
            assert slots[start + place].tolist() == expected
    assert catalogue.slots() is slots


def test_no_slots_where_they_take_too_much_memory(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_TABLE", 4 * BOOKS * ITEMS * BOOKS - 1)
    assert catalogue.slots() is None
    monkeypatch.setattr(module, "_LARGEST_TABLE", 4 * BOOKS * ITEMS * BOOKS)
    assert catalogue.slots() is not None


def test_what_is_left_of_a_list_is_known_to_be_of_it(catalogue: Catalogue) -> None:
    books, tokens = torch.tensor([0, 2, 1]), torch.tensor([1, 3, 0])
    left = catalogue.open(books, tokens)
    for narrowing in ((1, 2), (2, 4)):
        items, owners = left.entries()
        posted = left.posted
        assert posted is not None and torch.equal(catalogue.postings[posted], items)
        row = (books * WORDS + tokens)[owners]
        assert bool(((posted >= catalogue.starts[row]) & (posted < (catalogue.starts + catalogue.counts)[row])).all())
        assert left.tokens is not None and torch.equal(left.tokens, books * WORDS + tokens)
        left = catalogue.narrow(left, *(torch.full((3,), value) for value in narrowing))
    assert Candidates(left.values, left.starts, left.counts).posted is None


def test_unused_tokens_and_the_padding_item_are_never_feasible() -> None:
    codes = torch.tensor([[4, 4], [0, 1], [0, 2]])
    catalogue = Catalogue(codes, 5)
    assert (catalogue.used == 0).tolist() == [[True, False, False, False, False], [False, True, True, False, False]]
    opened = catalogue.open(torch.tensor([0, 1]), torch.tensor([4, 2]))
    assert opened.padded().tolist() == [[0], [2]]
    assert (catalogue.feasible(opened) == 0).sum((1, 2)).tolist() == [0, 2]


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
    log_probs = feasible_log_softmax(logits, torch.where(feasible, 0.0, float("-inf")))
    assert torch.allclose(log_probs.exp().sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert not log_probs.isnan().any()
    assert (log_probs[~feasible] == float("-inf")).all()
    assert float(log_probs[2, 5]) == pytest.approx(0.0)


def carried(catalogue: Catalogue, items: list[int]) -> torch.Tensor:
    """What some of the items carries, bool ``[M, K]``, one item after the other."""
    found = torch.zeros(catalogue.codebooks, catalogue.codewords, dtype=torch.bool)
    for item in items:
        found[torch.arange(catalogue.codebooks), catalogue.codes[item]] = True
    return found


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("words", [2, 5, 40])
def test_lists_of_paths_equal_those_of_single_ones(table: bool, words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes collide where there are few words; where there are many, most lists are empty."""
    if not table:
        monkeypatch.setattr(module, "_LARGEST_TABLE", 0)
    generator = torch.Generator().manual_seed(words)
    # Some tokens are far more common than others.
    codes = (torch.rand(61, 4, generator=generator) ** 2 * words).long()
    catalogue = Catalogue(codes, words)
    books = torch.rand(3, 7, 4, generator=generator).argsort(-1)
    tokens = codes[torch.randint(1, 61, (3, 7), generator=generator)].gather(2, books)
    tokens[0, 3:] = torch.randint(0, words, (4, 4), generator=generator)
    candidates = catalogue.open(books[..., 0], tokens[..., 0])
    parents = torch.randint(0, 7, (3, 7), generator=generator)
    users = torch.arange(3).unsqueeze(1)
    books, tokens, candidates = books[users, parents], tokens[users, parents], candidates[users, parents]
    for step in range(4):
        if step:
            candidates = catalogue.narrow(candidates, books[..., step], tokens[..., step])
        feasible, padded = catalogue.feasible(candidates), candidates.padded()
        assert feasible.shape == (3, 7, 4, words)
        assert padded.shape == (3, 7, max(1, int(candidates.counts.max())))
        for row, path in itertools.product(range(3), range(7)):
            chosen = zip(books[row, path, : step + 1].tolist(), tokens[row, path, : step + 1].tolist(), strict=True)
            expected = sorted(brute_force(catalogue, dict(chosen)))
            assert padded[row, path].tolist() == expected + [0] * (padded.shape[2] - len(expected))
            assert torch.equal(feasible[row, path] == 0, carried(catalogue, expected))
            if expected:
                assert int(candidates[row : row + 1, path].last()) == expected[-1]
    assert set(feasible.unique().tolist()) <= {0.0, float("-inf")}


def test_dropped_paths_have_no_items(catalogue: Catalogue) -> None:
    tokens = torch.arange(WORDS).unsqueeze(0)
    opened = catalogue.open(torch.zeros_like(tokens), tokens)
    dead = torch.tensor([[False, True, False, True, False]])
    left = opened.without(dead)
    assert (left.padded()[dead] == 0).all() and torch.equal(left.counts[~dead], opened.counts[~dead])
    assert catalogue.feasible(left)[dead].isneginf().all()
    assert torch.equal(catalogue.feasible(left)[~dead], catalogue.feasible(opened)[~dead])
    nothing = opened.without(torch.ones_like(dead))
    narrowed = catalogue.narrow(nothing, torch.ones_like(tokens), tokens)
    assert narrowed.padded().tolist() == [[[0]] * WORDS] and catalogue.feasible(narrowed).isneginf().all()
