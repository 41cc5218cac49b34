"""Evidence beside reasoning, and how it is combined (docs/method.md, 5; our extension of the paper's model)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.history import TokenTable

# Share of the memory that an item has which nothing points to; keeps its logarithm finite.
_MEMORY_FLOOR = 1e-4


class ItemPath(nn.Module):
    """Recognise: a softmax over the whole catalogue, an item being its tokens' embeddings and a vector of its own."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__()
        self.table = table
        self.identity = nn.Embedding(len(table.rows), table.weight.shape[1], padding_idx=0)
        # A residual: items begin as their tokens say, and nothing depends on how many items there are.
        nn.init.zeros_(self.identity.weight)
        self.project = nn.Linear(table.weight.shape[1], table.weight.shape[1])

    def logits(self, states: Tensor) -> Tensor:
        """Logits of all items: ``[R, d]`` to ``[R, items + 1]``; the padding item never wins."""
        every = torch.arange(len(self.table.rows), device=states.device)
        items = self.table.items(every).sum(1) + self.identity.weight
        logits = self.project(states) @ items.T
        return logits.index_fill(1, every[:1], -1e4)

    def loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the targets, int64 ``[R]``; scalar, nats."""
        return F.cross_entropy(self.logits(states).float(), targets)

    def log_probs(self, states: Tensor) -> Tensor:
        """Log-probabilities of all items, float32 ``[R, items + 1]``."""
        return self.logits(states).float().log_softmax(-1)


def log_share(memory: Tensor) -> Tensor:
    """Logarithm of each item's share of what the memory holds, with a floor; float32 ``[B, items + 1]``."""
    return (memory / memory.sum(1, keepdim=True).clamp(min=1e-12) + _MEMORY_FLOOR).log()


@dataclass(frozen=True)
class EvidenceWeights:
    """Weights of the log-linear combination, all at least 0."""

    reason: float
    recognise: float
    remember: float

    def combine(self, evidence: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the kinds of evidence that are there, each float32 ``[B, items + 1]``.

        Raises:
            UserError: nothing that is switched on has a weight above 0.
        """
        parts = [getattr(self, name) * scores for name, scores in evidence.items() if getattr(self, name) > 0]
        if not parts:
            raise UserError(
                "settings reason_weight, recognise_weight and remember_weight leave no evidence to rank by; "
                "give one that is switched on a weight above 0"
            )
        return torch.stack(parts).sum(0)
