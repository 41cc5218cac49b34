"""PARS: what a reasoning path earns (paper, read off its worked examples).

A path took token ``tokens[m]`` from codebook ``books[m]`` at step ``m`` and held the item to be of category
``steps[m]``. Every reward is a function of paths and targets alone; leading dimensions broadcast. Categories count from
1; 0 is none, and none never agrees with anything.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from recbole_reg4rec.errors import UserError


def step_hit(books: Tensor, tokens: Tensor, target: Tensor) -> Tensor:
    """Steps whose token is one of the target's (paper): ``sum_m 1[a_m in T]``.

    Args:
        books, tokens: int64 ``[..., M]``.
        target: int64 ``[..., M]``, the target's token in each codebook.

    Returns:
        float32 ``[...]``, 0 to M.
    """
    # A path takes a codebook once, so that its tokens can be laid out as the target's are.
    width = target.shape[-1]
    laid_out = tokens.new_full((*tokens.shape[:-1], width), -1).scatter(-1, books, tokens)
    return (laid_out == target).float().sum(-1)


def global_path(books: Tensor, tokens: Tensor, target: Tensor) -> Tensor:
    """1 where every step hits (paper): ``1[all a_m in T]``; arguments as of `step_hit`, float32 ``[...]``."""
    return (step_hit(books, tokens, target) == books.shape[-1]).float()


def category_hit(steps: Tensor, target: Tensor) -> Tensor:
    """Steps whose category is one of the target's (paper; several categories an item: choice).

    Args:
        steps: int64 ``[..., M]``.
        target: int64 ``[..., C]``, the target's categories, 0 fills up.

    Returns:
        float32 ``[...]``, 0 to M.
    """
    agrees = (steps.unsqueeze(-1) == target.unsqueeze(-2)).any(-1)
    return (agrees & (steps > 0)).sum(-1).float()


def step_consistency(steps: Tensor) -> Tensor:
    """Steps whose category is that of the step before (paper): ``sum_{m>=2} 1[k_m = k_{m-1}]``.

    Args:
        steps: int64 ``[..., M]``.

    Returns:
        float32 ``[...]``, 0 to M - 1.
    """
    return ((steps[..., 1:] == steps[..., :-1]) & (steps[..., 1:] > 0)).sum(-1).float()


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the four rewards, at least 0, not all 0; a weight of 0 switches its reward off (choice)."""

    step_hit: float
    global_path: float
    category_hit: float
    step_consistency: float

    def __post_init__(self) -> None:
        if not any(self.as_dict().values()):
            raise UserError(
                "settings reward_step_hit, reward_global_path, reward_category_hit and reward_step_consistency are all "
                "0, so no path is better than another; give one a weight above 0, or leave alignment out of stages"
            )

    def as_dict(self) -> dict[str, float]:
        """Weight by reward."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self)}

    @property
    def need_categories(self) -> bool:
        """Whether a reward with a weight looks at categories."""
        return self.category_hit > 0 or self.step_consistency > 0

    @property
    def only_whole_paths(self) -> bool:
        """Whether a path earns something for its end alone, all or nothing."""
        return not (self.step_hit > 0 or self.need_categories)


def path_rewards(
    books: Tensor, tokens: Tensor, steps: Tensor | None, targets: Tensor, categories: Tensor, shares: Tensor
) -> dict[str, Tensor]:
    """All four rewards of each path, over the targets of MSRA: ``R = sum_n w_n R(path, target_n)`` (paper).

    Args:
        books, tokens, steps: int64 ``[R, G, M]``, paths of ``R`` contexts; without ``steps`` categories earn nothing.
        targets: int64 ``[R, N, M]``, tokens of the future items.
        categories: int64 ``[R, N, C]``, their categories, 0 fills up.
        shares: float32 ``[R, N]``, weights of the future items, summing to 1; 0 where there is none.

    Returns:
        by reward, float32 ``[R, G]``.
    """
    shares = shares.unsqueeze(1)
    hits = step_hit(books.unsqueeze(2), tokens.unsqueeze(2), targets.unsqueeze(1))
    found = {
        "step_hit": (hits * shares).sum(-1),
        # As `global_path` has it, of hits that are counted already.
        "global_path": ((hits == books.shape[-1]).float() * shares).sum(-1),
    }
    if steps is None:
        nothing = torch.zeros_like(found["step_hit"])
        return {**found, "category_hit": nothing, "step_consistency": nothing}
    return {
        **found,
        "category_hit": (category_hit(steps.unsqueeze(2), categories.unsqueeze(1)) * shares).sum(-1),
        # The same for every target, and the shares sum to 1.
        "step_consistency": step_consistency(steps),
    }
