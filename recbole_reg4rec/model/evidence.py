"""Evidence beside reasoning, and how it is combined (docs/method.md, 5; our extension of the paper's model)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_reg4rec.errors import UserError
from recbole_reg4rec.model.history import HistoryEncoder, ItemVectors, TokenTable, own_vectors
from recbole_reg4rec.model.sampled_softmax import ItemSample
from recbole_reg4rec.model.softmax import catalogue_cross_entropy, products

# Share of the memory that an item has which nothing points to; keeps its logarithm finite.
_MEMORY_FLOOR = 1e-4


class ItemPath(nn.Module):
    """Recognise: a softmax over the whole catalogue, an item being its tokens' embeddings and a vector of its own.

    Args:
        table: token embeddings.
        encoder: makes an encoder of that table and these vectors.
    """

    def __init__(self, table: TokenTable, encoder: Callable[..., HistoryEncoder]) -> None:
        super().__init__()
        self.identity = own_vectors(table)
        self.encoder = encoder(table=table, identity=self.identity)
        self.vectors = ItemVectors(table, self.identity)
        self.project = nn.Linear(table.weight.shape[1], table.weight.shape[1])

    def read(self, items: Tensor, lengths: Tensor) -> Tensor:
        """States behind the last items of histories: int64 ``[B, T]`` (0 pads on the right), ``[B]`` to ``[B, d]``."""
        return self.encoder.read_last(items, lengths)

    def logits(self, states: Tensor) -> Tensor:
        """Logits of all items: ``[R, d]`` to ``[R, items + 1]``; the padding item never wins."""
        logits = products(self.project(states), self.vectors())
        logits[:, 0] = -1e4
        return logits

    def loss(
        self,
        states: Tensor,
        targets: Tensor,
        extra: tuple[Tensor, Tensor, Tensor] | None = None,
        sample: ItemSample | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the targets, int64 ``[R]``, among all items or a sample of them; scalar, nats.

        For ``extra`` see `softmax`; targets and its items are in the sample.
        """
        queries = self.project(states)
        if sample is None:
            return catalogue_cross_entropy(queries, self.vectors(), targets, extra)
        vectors = torch.cat([self.vectors.of(sample.items), sample.log_weights.unsqueeze(1)], dim=1)
        queries = torch.cat([queries, queries.new_ones(len(queries), 1)], dim=1)
        if extra is not None:
            extra = extra[0], sample.places(extra[1]), extra[2]
        return catalogue_cross_entropy(queries, vectors, sample.places(targets), extra)

    def log_probs(self, states: Tensor) -> Tensor:
        """Log-probabilities of all items, float32 ``[R, items + 1]``."""
        return self.logits(states).float().log_softmax(-1)


def log_share(memory: Tensor) -> Tensor:
    """Logarithm of each item's share of what the memory holds, with a floor; float32 ``[B, items + 1]``.

    Written over ``memory``: finding room for another table of all items takes longer than filling it.
    """
    return memory.div_(memory.sum(1, keepdim=True).clamp(min=1e-12)).add_(_MEMORY_FLOOR).log_()


@dataclass(frozen=True)
class EvidenceWeights:
    """Weights of the log-linear combination, all at least 0."""

    reason: float
    recognise: float
    remember: float
    repeat: float
    control: float = 0.0

    @classmethod
    def from_settings(cls, config: Any) -> EvidenceWeights:
        """The settings ``*_weight``; the control has that of reason, whose place it takes."""
        kinds = ("reason", "recognise", "remember", "repeat")
        weights = {kind: float(config[f"{kind}_weight"]) for kind in kinds}
        return cls(**weights, control=weights["reason"])

    @classmethod
    def from_tensor(cls, weights: Tensor) -> EvidenceWeights:
        """Undoes `as_tensor`."""
        # Six digits are what single precision keeps.
        return cls(*(round(weight, 6) for weight in weights.tolist()))

    def as_tensor(self) -> Tensor:
        """The weights in the order of the fields, float32 ``[5]``."""
        return torch.tensor(astuple(self), dtype=torch.float32)

    def combine(self, evidence: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the kinds of evidence that are there, each float32 ``[B, items + 1]``.

        One kind alone of weight 1 is given back as it is, not a copy of it.

        Raises:
            UserError: nothing that is switched on has a weight above 0.
        """
        weights = {name: getattr(self, name) for name in evidence}
        parts = [(weights[name], scores) for name, scores in evidence.items() if weights[name] > 0]
        if not any(weight > 0 for name, weight in weights.items() if name != "repeat"):
            raise UserError(
                "settings reason, item_path and memory with reason_weight, recognise_weight and remember_weight leave "
                "no evidence to rank by; switch one on and give it a weight above 0"
            )
        if len(parts) == 1 and parts[0][0] == 1.0:
            return parts[0][1]
        # Added up in place: passes over all items are what this costs.
        total = parts[0][0] * parts[0][1]
        for weight, scores in parts[1:]:
            total.add_(scores, alpha=weight)
        return total
