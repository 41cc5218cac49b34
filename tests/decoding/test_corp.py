"""CORP against its definition by hand, and inside a search against a walk over all paths."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_beam import BOOKS, ITEMS, WORDS, ToyModel, unique_codes
from torch import Tensor

from recbole_reg4rec.decoding.beam import Paths, beam_search
from recbole_reg4rec.decoding.catalogue import Candidates, Catalogue
from recbole_reg4rec.decoding.corp import CorpRule, PruningStatistics, agreement, corp_rule, prune
from recbole_reg4rec.decoding.scoring import item_scores, parallel_scores, path_scores
from recbole_reg4rec.errors import UserError

CLASSES = 4


class CategoryToy(ToyModel):
    """A toy whose states have categories too, again a random function of user and path."""

    asked = 0

    def belief(self, user: int, path: tuple[tuple[int, int], ...]) -> Tensor:
        seed = hash((user, path, 1)) % (2**31)
        return (2.0 * torch.randn(CLASSES, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)

    def categories(self) -> Tensor:
        self.asked += 1
        rows = zip(self.users, self.paths, strict=True)
        return torch.stack([torch.stack([self.belief(user, path) for path in paths]) for user, paths in rows])


def rule(threshold: float = 0.5, steps: tuple[int, ...] = (2, 3), min_beams: int = 1) -> CorpRule:
    return CorpRule(threshold, steps, min_beams)


def test_agreement_is_what_two_distributions_share() -> None:
    first = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    second = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.3, 0.2], [0.0, 0.5, 0.5]])
    assert agreement(first, second) == pytest.approx(torch.tensor([1.0, 0.5, 0.7, 0.0]))
    assert torch.equal(agreement(first, second), agreement(second, first))
    random = torch.randn(2, 500, 7, generator=torch.Generator().manual_seed(1)).mul(5).softmax(-1)
    shared = agreement(random[0], random[1])
    assert shared.min() >= 0.0 and shared.max() <= 1.0
    assert agreement(random[0], random[0]) == pytest.approx(torch.ones(500))


@pytest.mark.parametrize(
    ("min_beams", "expected"),
    [(1, [True, False, True, True, False]), (2, [True, False, False, True, False]), (4, [False] * 5)],
)
def test_the_worst_go_first_and_the_last_ones_stay(min_beams: int, expected: list[bool]) -> None:
    agreed = torch.tensor([[0.1, 0.6, 0.3, 0.2, 0.0]])
    alive = torch.tensor([[True, True, True, True, False]])
    assert prune(agreed, alive, rule(0.5, min_beams=min_beams)).tolist() == [expected]


def test_of_paths_that_agree_alike_the_more_probable_stays() -> None:
    agreed, alive = torch.zeros(2, 6), torch.ones(2, 6, dtype=torch.bool)
    dropped = prune(agreed, alive, rule(0.5, min_beams=2))
    assert dropped.tolist() == [[False, False, True, True, True, True]] * 2


def walk(codes: Tensor, user: int, rule: CorpRule, branch: int) -> dict[int, float]:
    """Probability of every item with paths dropped below the threshold; an independent statement of the rule."""
    model = CategoryToy([user])
    out = dict.fromkeys(range(1, len(codes)), 0.0)

    def visit(path: tuple[tuple[int, int], ...], items: list[int], probability: float) -> None:
        if len(path) == BOOKS:
            for item in items:
                out[item] += probability
            return
        if len(path) + 1 in rule.steps:
            now = model.belief(user, path).exp()
            before = torch.stack([model.belief(user, path[:n]).exp() for n in range(len(path))]).mean(0)
            if float(torch.minimum(now, before).sum()) < rule.threshold:
                return
        closed = {book for book, _ in path}
        logits = model.logits(user, path)
        tables: dict[int, dict[int, float]] = {}
        for book in set(range(BOOKS)) - closed:
            tokens = {int(codes[item, book]) for item in items}
            total = sum(math.exp(float(logits[book, token])) for token in tokens)
            tables[book] = {token: math.exp(float(logits[book, token])) / total for token in tokens}
        best = {book: max(table.values()) for book, table in tables.items()}
        kept = sorted(best, key=lambda book: -best[book])[:branch]
        for book in kept:
            for token, chance in tables[book].items():
                left = [item for item in items if int(codes[item, book]) == token]
                share = best[book] / sum(best[other] for other in kept)
                visit((*path, (book, token)), left, probability * share * chance)

    visit((), list(range(1, len(codes))), 1.0)
    return out


@pytest.mark.parametrize("branch", [1, 2])
@pytest.mark.parametrize("steps", [(2, 3), (2,), (3,)])
@pytest.mark.parametrize("threshold", [0.35, 0.45])
def test_a_wide_beam_equals_exhaustive_search(branch: int, steps: tuple[int, ...], threshold: float) -> None:
    codes, users = unique_codes(0), [10, 11, 12]
    used = rule(threshold, steps)
    paths = beam_search(CategoryToy(users), Catalogue(codes, WORDS), width=ITEMS * 6, branch=branch, corp=used)
    scores = path_scores(paths, ITEMS)
    lost = 0.0
    for row, user in enumerate(users):
        expected = walk(codes, user, used, branch)
        assert any(expected.values())  # min_beams has no part in this
        got = {item: math.exp(float(scores[row, item])) for item in expected}
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-7)
        lost += 1.0 - sum(expected.values())
    assert lost > 0.05


def test_a_path_that_turns_to_another_category_is_dropped_and_its_items_fall_back() -> None:
    """Two codebooks, four items; after token 1 of the first codebook the model speaks of another category."""
    codes = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1]])
    same, other = [0.0, 0.9, 0.1], [0.0, 0.2, 0.8]

    class Turning:
        def first(self) -> Tensor:
            self.now = torch.tensor([[same]])
            return torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]]])

        def advance(self, parents: Tensor, books: Tensor, tokens: Tensor, candidates: Candidates) -> Tensor:
            assert books.eq(0).all()
            self.now = torch.where(tokens[..., None] == 1, torch.tensor(other), torch.tensor(same))
            return torch.tensor([0.0, 1.0]).repeat(1, tokens.shape[1], 2, 1)

        def categories(self) -> Tensor:
            return self.now.log()

    catalogue = Catalogue(codes, 2)

    def search(used: CorpRule | None) -> Paths:
        return beam_search(Turning(), catalogue, width=4, order="fixed", corp=used)

    free, pruned = search(None), search(rule(0.5, (2,)))
    assert path_scores(free, 4)[0, 1:].isfinite().all()
    reached = path_scores(pruned, 4)[0]
    assert torch.equal(reached[1:3], path_scores(free, 4)[0, 1:3])
    assert reached[3:].isneginf().all()
    scores = item_scores(pruned, catalogue)[0]
    assert scores.isfinite().all() and scores[1:3].min() > scores[3:].max()
    cheap = parallel_scores(pruned.first_log_probs, catalogue)[0]
    assert float(scores[3] - scores[4]) == pytest.approx(float(cheap[3] - cheap[4]))
    (check,) = pruned.checks
    order = check.tokens[0, :2, 0].tolist()
    assert order == [1, 0]  # the dropped path was the more probable one
    assert check.agreement[0, :2].tolist() == pytest.approx([0.3, 1.0])
    assert check.pruned[0, :2].tolist() == [True, False]
    assert search(rule(0.29, (2,))).checks[0].pruned.sum() == 0
    counts = PruningStatistics()
    counts.add(pruned.checks, torch.tensor([3]))
    counts.add(pruned.checks, torch.tensor([1]))
    step = {"pruned": 0.5, "target_in_reach": 1.0, "target_lost": 0.5}
    assert counts.as_dict() == {"users": 2, "target_lost": 0.5, "steps": {"2": step}}
    in_parts = PruningStatistics()
    in_parts.add_batch((pruned.checks, pruned.checks), torch.tensor([3, 1]))
    assert in_parts.as_dict() == counts.as_dict()
    other_way_round = PruningStatistics()
    other_way_round.add_batch((pruned.checks,), torch.tensor([1]))
    assert other_way_round.as_dict()["target_lost"] == 0.0


def test_nothing_below_the_threshold_changes_no_score() -> None:
    catalogue = Catalogue(unique_codes(4), WORDS)
    free = beam_search(CategoryToy([1, 2]), catalogue, width=8)
    checked = beam_search(CategoryToy([1, 2]), catalogue, width=8, corp=rule(1e-9))
    assert len(checked.checks) == 2 and not any(bool(check.pruned.any()) for check in checked.checks)
    assert torch.allclose(item_scores(free, catalogue), item_scores(checked, catalogue), atol=1e-5)


@pytest.mark.parametrize("order", ["confidence", "random", "fixed"])
def test_every_row_keeps_its_last_paths(order: str) -> None:
    generator = torch.Generator().manual_seed(3)
    paths = beam_search(
        CategoryToy([1, 2, 3]),
        Catalogue(unique_codes(5), WORDS),
        width=6,
        order=order,
        generator=generator,
        corp=rule(1.0, min_beams=3),
    )
    for check in paths.checks:
        assert check.pruned.any()
        assert (check.alive & ~check.pruned).sum(1).tolist() == [3, 3, 3]
    assert paths.scores.isfinite().any(1).all()
    codes = unique_codes(5)
    for row in range(3):
        for w in torch.nonzero(paths.scores[row].isfinite()).flatten().tolist():
            item = int(paths.items[row, w].max())
            assert codes[item][paths.books[row, w]].tolist() == paths.tokens[row, w].tolist()


def test_checks_know_the_items_within_reach_of_each_path() -> None:
    codes = unique_codes(5)
    paths = beam_search(CategoryToy([1, 2, 3]), Catalogue(codes, WORDS), width=9, corp=rule(0.6, min_beams=3))
    targets = torch.tensor([4, 11, 23])
    for check in paths.checks:
        candidates, spells = check.candidates, check.spells(targets)
        for row in range(3):
            for w in range(check.alive.shape[1]):
                matches = codes[1:][:, check.books[row, w]].eq(check.tokens[row, w]).all(1) & check.alive[row, w]
                items = (torch.nonzero(matches).flatten() + 1).tolist()
                assert [item for item in candidates[row, w].tolist() if item] == items
                assert bool(spells[row, w]) == (int(targets[row]) in items)


@pytest.mark.parametrize("complete", [False, True])
def test_single_rows_equal_the_batch_however_far_the_search_goes(complete: bool) -> None:
    catalogue = Catalogue(unique_codes(9, items=7), WORDS)
    used = rule(0.4)
    together = item_scores(beam_search(CategoryToy([1, 2, 3]), catalogue, width=5, corp=used), catalogue)
    for row, user in enumerate([1, 2, 3]):
        alone = beam_search(CategoryToy([user]), catalogue, width=5, corp=used, complete=complete)
        assert torch.allclose(together[row], item_scores(alone, catalogue)[0], atol=1e-5)


def test_categories_are_asked_for_only_up_to_the_last_check() -> None:
    catalogue = Catalogue(unique_codes(2), WORDS)
    for used, asked in ((None, 0), (rule(steps=(2,)), 2), (rule(steps=(3,)), 3)):
        model = CategoryToy([1])
        beam_search(model, catalogue, width=4, corp=used, complete=True)
        assert model.asked == asked


def settings(**given: Any) -> dict[str, Any]:
    base = {"corp": True, "corp_threshold": 0.2, "corp_steps": "all", "corp_min_beams": 5, "beam_width": 20}
    return {**base, "codebooks": 4, "reasoning_steps": 4, "category_weight": 0.1, **given}


def test_settings_become_a_rule() -> None:
    assert corp_rule(settings()) == CorpRule(0.2, (2, 3, 4), 5)
    assert corp_rule(settings(corp_steps=[4, 2, 2])) == CorpRule(0.2, (2, 4), 5)
    assert corp_rule(settings(corp=False, corp_min_beams=99)) is None
    assert corp_rule(settings(corp_threshold=0.0)) is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"corp_steps": [5]}, "corp_steps"),
        ({"corp_steps": []}, "corp_steps"),
        ({"corp_min_beams": 20}, "corp_min_beams"),
        ({"codebooks": 1}, "codebooks"),
        ({"category_weight": 0.0}, "category_weight"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        corp_rule(settings(**given))
