"""Scores of items against the plain way, which passes over all items at every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_reg4rec.decoding.beam import Paths
from recbole_reg4rec.decoding.catalogue import Catalogue
from recbole_reg4rec.decoding.scoring import item_scores, parallel_scores, path_scores

NEVER = float("-inf")


def plain_path_scores(paths: Paths, items: int) -> Tensor:
    out = torch.full((len(paths.scores), items + 1), NEVER)
    for row in range(len(out)):
        for score, owners in zip(paths.scores[row], paths.items[row].tolist(), strict=True):
            for item in owners:
                if item:
                    out[row, item] = torch.logaddexp(out[row, item], score)
    return out


def plain_parallel_scores(log_probs: Tensor, codes: Tensor) -> Tensor:
    total = log_probs[:, torch.arange(codes.shape[1]), codes].sum(-1)
    total[:, 0] = NEVER
    floor = total.masked_fill(total.isinf(), float("inf")).amin(1, keepdim=True)
    return torch.maximum(total, floor)


def plain_item_scores(paths: Paths, codes: Tensor) -> Tensor:
    reached = plain_path_scores(paths, len(codes) - 1)
    has_path = ~reached.isinf()
    rest = plain_parallel_scores(paths.first_log_probs, codes)
    out = torch.empty_like(reached)
    for row in range(len(out)):
        worst = reached[row][has_path[row]].min() if has_path[row].any() else 0.0
        out[row] = torch.where(has_path[row], reached[row], rest[row] - rest[row][~has_path[row]].max() + worst - 1.0)
    out[:, 0] = out.amin(1) - 1.0
    return out


def found(items: int, width: int, lists: int, every: bool = False) -> tuple[Paths, Tensor]:
    """Four users: of the first no path is left, of the second some are; items may recur where ``lists`` > 1."""
    generator = torch.Generator().manual_seed(items + width + lists)
    codes = torch.randint(0, 6, (items + 1, 3), generator=generator)
    scores = -5.0 * torch.rand(4, width, generator=generator).sort(-1).values
    if every:
        reached = torch.stack([torch.randperm(items, generator=generator) + 1 for _ in range(4)]).unsqueeze(-1)
    elif lists == 1:
        reached = torch.stack([torch.randperm(items, generator=generator)[:width] + 1 for _ in range(4)]).unsqueeze(-1)
    else:
        reached = torch.randint(0, items + 1, (4, width, lists), generator=generator)
    for row, alive in ((0, 0), (1, width // 2)):
        scores[row, alive:] = NEVER
        reached[row, alive:] = 0
    log_probs = torch.randn(4, 3, 6, generator=generator).mul(3).log_softmax(-1)
    nothing = torch.zeros(4, width, 0, dtype=torch.int64)
    return Paths(scores, nothing, nothing, reached, log_probs), codes


@pytest.mark.parametrize(("items", "width", "lists"), [(50, 8, 1), (50, 8, 3), (9, 8, 4), (2000, 20, 2)])
def test_scores_equal_the_plain_way(items: int, width: int, lists: int) -> None:
    paths, codes = found(items, width, lists)
    catalogue = Catalogue(codes, 6)
    scores = path_scores(paths, items)
    assert torch.equal(scores.isneginf(), plain_path_scores(paths, items).isneginf())
    assert torch.allclose(scores.exp(), plain_path_scores(paths, items).exp(), rtol=1e-5, atol=1e-6)
    got, expected = item_scores(paths, catalogue), plain_item_scores(paths, codes)
    assert got.isfinite().all()
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert (got.argmin(1) == 0).all()


def test_single_users_equal_the_batch() -> None:
    paths, codes = found(200, 10, 2)
    catalogue = Catalogue(codes, 6)
    together = item_scores(paths, catalogue)
    for row in range(4):
        one = slice(row, row + 1)
        alone = Paths(
            paths.scores[one], paths.books[one], paths.tokens[one], paths.items[one], paths.first_log_probs[one]
        )
        assert torch.allclose(item_scores(alone, catalogue), together[one], atol=1e-5)


def test_padding_is_last_even_when_every_item_has_a_path() -> None:
    paths, codes = found(12, 12, 1, every=True)
    got = item_scores(paths, Catalogue(codes, 6))
    assert got.isfinite().all()
    assert torch.equal(got[2:, 1:], path_scores(paths, 12)[2:, 1:])
    assert (got.argmin(1) == 0).all()


def test_items_whose_tokens_are_impossible_are_as_low_as_the_lowest() -> None:
    paths, codes = found(50, 8, 1)
    log_probs = paths.first_log_probs.clone()
    log_probs[1, 0, int(codes[7, 0])] = NEVER
    got = parallel_scores(log_probs, Catalogue(codes, 6))
    assert got.isfinite().all()
    assert torch.allclose(got, plain_parallel_scores(log_probs, codes), atol=1e-5)
    assert float(got[1, 7]) == float(got[1].min()) == float(got[1, 0])
