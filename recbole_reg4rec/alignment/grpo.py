"""GRPO: paths are judged against the other paths of their group (paper; ratio, KL and supervised term: choice)."""

from __future__ import annotations

import torch
from torch import Tensor

# Rewards of a group that differ by less are the same.
_EPSILON = 1e-6


def group_advantages(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards standardised within each group.

    Args:
        rewards: float32 ``[R, G]``.

    Returns:
        advantages, float32 ``[R, G]``, mean 0 and deviation 1 in each group, 0 throughout a group whose rewards are
        all the same; and whether a group's rewards differ, bool ``[R]``.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    signal = deviation > _EPSILON
    return torch.where(signal, centred / deviation.clamp(min=_EPSILON), 0.0), signal.squeeze(1)


def clipped_objective(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The objective of each token, to be maximised; all float32 of the same shape.

    ``min(r A, clamp(r, 1 - clip, 1 + clip) A)`` with ``r`` the ratio of the policy to the one that sampled; where both
    are the same its gradient is ``A`` times that of the log-probability.
    """
    ratio = (log_probs - old_log_probs).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the reference, nats: float32 ``[..., K]`` each, -inf where infeasible."""
    feasible = ~log_probs.isneginf()
    difference = (log_probs - reference).masked_fill(~feasible, 0.0)
    return (log_probs.exp() * difference).sum(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy, nats: float32 ``[..., K]``, -inf where infeasible, to ``[...]``."""
    return -(log_probs.exp() * log_probs.masked_fill(log_probs.isneginf(), 0.0)).sum(-1)
