"""From paths to a score for every item: the one scoring function behind every way to ask (docs/method.md, 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_reg4rec.decoding.beam import NEVER, Paths
from recbole_reg4rec.decoding.catalogue import Catalogue

# How far the best item without a path stays below the worst item with one, in nats.
_GAP = 1.0


def parallel_scores(log_probs: Tensor, catalogue: Catalogue) -> Tensor:
    """The cheap score ``sum_r log p_r(c_i^r | history)`` of every item.

    Args:
        log_probs: float32 ``[B, M, K]``, before any token is chosen.
        catalogue: codes of the items.

    Returns:
        float32 ``[B, items + 1]``; column 0 (padding) is as low as the lowest item.
    """
    books = torch.arange(catalogue.codebooks, device=log_probs.device)
    rows = catalogue.codes + books * catalogue.codewords
    # A row a token, so that what is added up for a batch lies together.
    total = F.embedding_bag(rows, log_probs.flatten(1).T.contiguous(), mode="sum").T.contiguous()
    total[:, 0] = NEVER
    floor = total.masked_fill(total.isinf(), float("inf")).amin(1, keepdim=True)
    return torch.maximum(total, floor)


def path_scores(paths: Paths, items: int) -> Tensor:
    """Logarithm of the probability of all paths to each item, float32 ``[B, items + 1]``; -inf where there is none."""
    owner = paths.items.flatten(1)
    scores = paths.scores.unsqueeze(-1).expand_as(paths.items).flatten(1).masked_fill(owner == 0, NEVER)
    none = scores.new_full((len(scores), items + 1), NEVER)
    best = none.scatter_reduce(1, owner, scores, "amax")
    # An item has several paths only where a path may branch into several codebooks.
    share = (scores - best.gather(1, owner)).exp().nan_to_num(0.0)
    return best + torch.zeros_like(none).scatter_add(1, owner, share).log().masked_fill(best.isinf(), 0.0)


def item_scores(paths: Paths, catalogue: Catalogue) -> Tensor:
    """A finite score for every item: first the items that a path leads to, then all others by the parallel score.

    Returns:
        float32 ``[B, items + 1]``; the padding item is last.
    """
    reached = path_scores(paths, catalogue.items)
    has_path = ~reached.isinf()
    worst = reached.masked_fill(~has_path, float("inf")).amin(1, keepdim=True)
    worst = worst.masked_fill(worst.isinf(), 0.0)
    rest = parallel_scores(paths.first_log_probs, catalogue)
    best_rest = rest.masked_fill(has_path, NEVER).amax(1, keepdim=True)
    best_rest = best_rest.masked_fill(best_rest.isinf(), 0.0)
    scores = torch.where(has_path, reached, rest - best_rest + worst - _GAP)
    scores[:, 0] = scores.amin(1) - _GAP
    return scores
