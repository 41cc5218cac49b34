"""Beam search against exhaustive enumeration, with a model whose logits depend on the order of the path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.decoding.beam import beam_search
from recbole_reg4rec.decoding.catalogue import Candidates, Catalogue
from recbole_reg4rec.decoding.scoring import item_scores, parallel_scores, path_scores

BOOKS, WORDS, ITEMS = 3, 4, 24


def unique_codes(seed: int, items: int = ITEMS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*(torch.arange(WORDS) for _ in range(BOOKS)))
    chosen = every[torch.randperm(len(every), generator=generator)[:items]]
    return torch.cat([torch.zeros(1, BOOKS, dtype=torch.int64), chosen])


class ToyModel:
    """Logits from a random function of the user and of the tokens so far, in their order."""

    def __init__(self, users: list[int]) -> None:
        self.users = users
        self.paths: list[list[tuple[tuple[int, int], ...]]] = [[()] for _ in users]

    def logits(self, user: int, path: tuple[tuple[int, int], ...]) -> Tensor:
        seed = hash((user, path)) % (2**31)
        return 3.0 * torch.randn(BOOKS, WORDS, generator=torch.Generator().manual_seed(seed))

    def first(self) -> Tensor:
        return torch.stack([self.logits(user, ()) for user in self.users]).unsqueeze(1)

    def advance(self, parents: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor:
        self.paths = [
            [
                (*self.paths[row][int(parents[row, w])], (int(books[row, w]), int(tokens[row, w])))
                for w in range(parents.shape[1])
            ]
            for row in range(len(self.users))
        ]
        rows = zip(self.users, self.paths, strict=True)
        return torch.stack([torch.stack([self.logits(user, path) for path in paths]) for user, paths in rows])


def exhaustive(codes: Tensor, user: int, order: str, branch: int) -> dict[int, float]:
    """Probability of every item, by walking all paths; an independent statement of the rule."""
    model = ToyModel([user])
    out = dict.fromkeys(range(1, len(codes)), 0.0)

    def walk(path: tuple[tuple[int, int], ...], items: list[int], probability: float) -> None:
        if len(path) == BOOKS:
            for item in items:
                out[item] += probability
            return
        closed = {book for book, _ in path}
        logits = model.logits(user, path)
        tables: dict[int, dict[int, float]] = {}
        for book in set(range(BOOKS)) - closed:
            tokens = {int(codes[item, book]) for item in items}
            total = sum(math.exp(float(logits[book, token])) for token in tokens)
            tables[book] = {token: math.exp(float(logits[book, token])) / total for token in tokens}
        surest = sorted(tables, key=lambda book: -max(tables[book].values()))
        if order == "fixed":
            shares = {len(path): 1.0}
        else:
            best = {book: max(tables[book].values()) for book in surest[:branch]}
            shares = {book: value / sum(best.values()) for book, value in best.items()}
        for book, share in shares.items():
            for token, chance in tables[book].items():
                left = [item for item in items if int(codes[item, book]) == token]
                walk((*path, (book, token)), left, probability * share * chance)

    walk((), list(range(1, len(codes))), 1.0)
    return out


@pytest.mark.parametrize("order", ["confidence", "fixed"])
@pytest.mark.parametrize("branch", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_wide_beam_equals_exhaustive_search(order: str, branch: int, seed: int) -> None:
    codes = unique_codes(seed)
    catalogue = Catalogue(codes, WORDS)
    users = [10, 11, 12]
    paths = beam_search(ToyModel(users), catalogue, width=ITEMS * 6, order=order, branch=branch)
    scores = path_scores(paths, ITEMS)
    for row, user in enumerate(users):
        expected = exhaustive(codes, user, order, branch)
        assert sum(expected.values()) == pytest.approx(1.0)
        got = {item: math.exp(float(scores[row, item])) for item in expected}
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-7)
        ranking = sorted(expected, key=lambda item: -expected[item])
        assert scores[row, 1:].argsort(descending=True).add(1).tolist() == ranking


@pytest.mark.parametrize("order", ["confidence", "fixed", "random"])
def test_probabilities_of_a_complete_search_sum_to_one(order: str) -> None:
    catalogue = Catalogue(unique_codes(3), WORDS)
    generator = torch.Generator().manual_seed(5)
    paths = beam_search(ToyModel([1, 2]), catalogue, width=ITEMS, order=order, generator=generator)
    assert paths.scores.exp().sum(1) == pytest.approx(torch.ones(2), abs=1e-5)


@pytest.mark.parametrize("branch", [1, 2])
def test_stopping_early_changes_no_score(branch: int) -> None:
    catalogue = Catalogue(unique_codes(4, items=9), WORDS)
    short = beam_search(ToyModel([1, 2]), catalogue, width=40, branch=branch)
    long = beam_search(ToyModel([1, 2]), catalogue, width=40, branch=branch, complete=True)
    assert long.tokens.shape[2] == BOOKS
    assert torch.allclose(path_scores(short, 9), path_scores(long, 9), atol=1e-5)


def test_paths_spell_their_items_and_close_codebooks() -> None:
    codes = unique_codes(6)
    paths = beam_search(ToyModel([7]), Catalogue(codes, WORDS), width=10, complete=True)
    for w in range(10):
        assert sorted(paths.books[0, w].tolist()) == list(range(BOOKS))
        item = int(paths.items[0, w].max())
        assert codes[item][paths.books[0, w]].tolist() == paths.tokens[0, w].tolist()
    assert (paths.scores[0, 1:] <= paths.scores[0, :-1]).all()


def test_a_wider_beam_never_loses_the_best_path_of_a_narrow_one() -> None:
    catalogue = Catalogue(unique_codes(8), WORDS)
    best = [float(beam_search(ToyModel([3]), catalogue, width=width).scores[0, 0]) for width in (1, 4, 24)]
    assert best == sorted(best)


@pytest.mark.parametrize("order", ["confidence", "random", "fixed"])
def test_single_rows_equal_the_batch(order: str) -> None:
    catalogue = Catalogue(unique_codes(9), WORDS)

    def scores(users: list[int]) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return item_scores(beam_search(ToyModel(users), catalogue, 5, order=order, generator=generator), catalogue)

    together = scores([1, 2, 3])
    for row, user in enumerate([1, 2, 3]):
        alone = scores([user])
        assert torch.allclose(together[row], alone[0], atol=1e-5)


def test_every_item_gets_a_finite_score_and_paths_come_first() -> None:
    catalogue = Catalogue(unique_codes(11), WORDS)
    paths = beam_search(ToyModel([1, 2]), catalogue, width=4)
    scores = item_scores(paths, catalogue)
    assert scores.isfinite().all()
    reached = ~path_scores(paths, ITEMS).isinf()
    cheap = parallel_scores(paths.first_log_probs, catalogue)
    for row in range(2):
        assert scores[row][reached[row]].min() > scores[row][~reached[row]].max()
        rest = [item for item in range(1, ITEMS + 1) if not reached[row, item]]
        by_score = sorted(rest, key=lambda item: -float(scores[row, item]))
        by_cheap = sorted(rest, key=lambda item: -float(cheap[row, item]))
        assert by_score == by_cheap
        assert int(scores[row].argmin()) == 0


def test_items_with_the_same_codes_share_their_path() -> None:
    codes = torch.tensor([[0, 0, 0], [1, 2, 3], [1, 2, 3], [0, 1, 1]])
    catalogue = Catalogue(codes, WORDS)
    scores = path_scores(beam_search(ToyModel([1]), catalogue, width=3), 3)
    assert float(scores[0, 1]) == float(scores[0, 2])
    assert math.exp(float(scores[0, 1])) + math.exp(float(scores[0, 3])) == pytest.approx(1.0)


@pytest.mark.parametrize("branch", [1, 2])
def test_users_with_fewer_paths_than_the_beam_is_wide_keep_their_scores(branch: int) -> None:
    """Places without a path stay empty from the first step, where fewer tokens than places are used, to the last."""
    codes = torch.tensor([[0, 0, 0], [1, 2, 3], [1, 2, 3], [0, 1, 1], [0, 2, 1]])
    paths = beam_search(ToyModel([1, 2]), Catalogue(codes, WORDS), width=30, branch=branch, complete=True)
    dead = paths.scores.isneginf()
    assert dead.any() and not paths.scores.isnan().any() and (paths.items[dead] == 0).all()
    scores = path_scores(paths, 4)
    for row, user in enumerate([1, 2]):
        expected = exhaustive(codes, user, "confidence", branch)
        assert [math.exp(float(score)) for score in scores[row, 1:]] == pytest.approx(list(expected.values()), rel=1e-4)
