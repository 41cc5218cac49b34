"""From paths to a score for every item: the one scoring function behind every way to ask (docs/method.md, 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_reg4rec.decoding.beam import NEVER, Paths
from recbole_reg4rec.decoding.catalogue import Catalogue

# How far the best item without a path stays below the worst item with one, in nats.
_GAP = 1.0
# The same where both are probabilities of items.
_STEP = 1e-3


def parallel_scores(log_probs: Tensor, catalogue: Catalogue) -> Tensor:
    """The cheap score ``sum_r log p_r(c_i^r | history)`` of every item.

    Args:
        log_probs: float32 ``[B, M, K]``, before any token is chosen.
        catalogue: codes of the items.

    Returns:
        float32 ``[B, items + 1]``; column 0 (padding) is as low as the lowest item.
    """
    # A row a token, so that what is added up for a batch lies together.
    total = F.embedding_bag(catalogue.rows, log_probs.flatten(1).T.contiguous(), mode="sum").T.contiguous()
    total[:, 0] = float("inf")
    floor = total.amin(1, keepdim=True)
    if bool(floor.isinf().any()):
        floor = total.masked_fill(total.isinf(), float("inf")).amin(1, keepdim=True)
        total = torch.maximum(total, floor)
    total[:, :1] = floor
    return total


def path_scores(paths: Paths, items: int) -> Tensor:
    """Logarithm of the probability of all paths to each item, float32 ``[B, items + 1]``; -inf where there is none."""
    places, reached, _ = _reached(paths, items)
    scores = paths.scores.new_full((len(paths.scores), items + 1), NEVER)
    scores.view(-1)[places] = reached
    return scores


def _reached(paths: Paths, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Items that paths lead to, each once a user.

    Returns:
        ``places`` int64 ``[N]`` in float32 ``[B, items + 1]`` laid flat, the logarithm of the probability of all paths
        there, ``[N]``, and the smallest of these by user, ``[B, 1]``, 0 where there is none.
    """
    owner = paths.items.flatten(1)
    users = torch.arange(len(owner), device=owner.device).unsqueeze(1)
    scores = paths.scores.unsqueeze(-1).expand_as(paths.items)
    scores = (scores if paths.answers is None else scores + paths.answers).flatten(1)
    leads = (owner > 0) & ~scores.isinf()
    # An item has several paths only where a path may branch into several codebooks.
    places, which = torch.unique((users * (items + 1) + owner)[leads], return_inverse=True)
    scores = scores[leads]
    best = scores.new_full(places.shape, NEVER).scatter_reduce(0, which, scores, "amax")
    reached = best + torch.zeros_like(best).scatter_add(0, which, (scores - best[which]).exp()).log()
    worst = reached.new_full((len(owner),), float("inf")).scatter_reduce(0, places // (items + 1), reached, "amin")
    return places, reached, worst.masked_fill(worst.isinf(), 0.0).unsqueeze(1)


def item_scores(paths: Paths, catalogue: Catalogue) -> Tensor:
    """A finite score for every item: first the items that a path leads to, then all others by what was known before.

    That is the parallel score or, where the model has probabilities of items, these (`_after_prior`).

    Returns:
        float32 ``[B, items + 1]``; the padding item is last.
    """
    if paths.prior is not None:
        return _after_prior(paths, paths.prior)
    places, reached, worst = _reached(paths, catalogue.items)
    scores = parallel_scores(paths.first_log_probs, catalogue)
    lowest = scores[:, :1].clone()
    # In place throughout: passes over all items are what this costs.
    scores.view(-1)[places] = NEVER
    shift = worst - _GAP - scores.amax(1, keepdim=True)
    scores.add_(shift)
    scores.view(-1)[places] = reached
    scores[:, :1] = lowest + shift - _GAP
    return scores


def led_to(paths: Paths, items: int) -> Tensor:
    """Which items stand by the paths to them, bool ``[B, items + 1]``; the padding item never does.

    Where a path may end with a choice among many, these are as many items as there are paths, the most probable.
    """
    places, _, _ = _led(paths, items)
    led = torch.zeros(len(paths.scores), items + 1, dtype=torch.bool, device=places.device)
    led.view(-1)[places] = True
    return led


def _led(paths: Paths, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `_reached`, of the items that stand by the paths to them alone, see `led_to`."""
    places, reached, worst = _reached(paths, items)
    if paths.answers is None:
        return places, reached, worst
    users, width = places // (items + 1), paths.scores.shape[1]
    counts = torch.bincount(users, minlength=len(worst))
    rank = torch.arange(len(users), device=users.device) - (counts.cumsum(0) - counts).index_select(0, users)
    longest = max(width, int(counts.max()))
    side_by_side = reached.new_full((len(worst), longest), NEVER).index_put((users, rank), reached)
    least = side_by_side.topk(width, dim=1).values[:, -1]
    kept = (reached >= least.index_select(0, users)).nonzero().squeeze(1)
    places, reached, users = (part.index_select(0, kept) for part in (places, reached, users))
    worst = worst.new_full((len(worst),), float("inf")).scatter_reduce(0, users, reached, "amin")
    return places, reached, worst.masked_fill(worst.isinf(), 0.0).unsqueeze(1)


def _after_prior(paths: Paths, prior: Tensor) -> Tensor:
    """As `item_scores`: the items of `led_to` by their paths; all others by ``prior``.

    Both are log-probabilities, so that the others are lowered only as far as it takes to stay behind.
    """
    places, reached, worst = _led(paths, prior.shape[1] - 1)
    # In place throughout: passes over all items are what this costs.
    scores = prior.clone()
    scores[:, 0] = NEVER
    scores.view(-1)[places] = NEVER
    scores.add_((worst - _STEP - scores.amax(1, keepdim=True)).clamp(max=0.0))
    scores.view(-1)[places] = reached
    scores[:, :1] = scores[:, 1:].amin(1, keepdim=True) - _GAP
    return scores
