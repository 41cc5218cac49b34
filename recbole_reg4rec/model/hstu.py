"""HSTU (Zhai et al. 2024, arXiv 2402.17152): pointwise gated attention over the history, trained on whole sequences."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_reg4rec.data.sequences import TARGETS
from recbole_reg4rec.model.history import read_in_lots
from recbole_reg4rec.model.layers import Dropout
from recbole_reg4rec.model.softmax import catalogue_cross_entropy
from recbole_reg4rec.model.whole_sequence import READ_TOGETHER, WholeSequenceRecommender, last_states, padding_last

# The paper's buckets of time: floor(log(seconds) / 0.301), 128 of them.
_BUCKETS, _BUCKET_WIDTH = 128, 0.301


def time_buckets(times: Tensor) -> Tensor:
    """Bucket of the time between every two positions: float32 ``[B, T]`` (seconds) to int64 ``[B, T, T]``."""
    apart = (times.unsqueeze(2) - times.unsqueeze(1)).abs().clamp(min=1.0)
    return (apart.log() / _BUCKET_WIDTH).long().clamp(max=_BUCKETS - 1)


class HSTULayer(nn.Module):
    """Norm, one projection to U, V, Q, K under SiLU, attention ``SiLU(Q K^T + bias) / N``, norm, gate by U, projection.

    Args:
        longest: positions at most; also ``N``, so that a score does not depend on the batch (our choice).
        times: whether there is a bias by the time between two positions, beside that by their distance.
    """

    def __init__(self, longest: int, width: int, heads: int, dropout: float, times: bool) -> None:
        super().__init__()
        self.heads, self.longest = heads, longest
        self.norm, self.gated_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.distance_bias = nn.Parameter(0.02 * torch.randn(longest))
        self.time_bias = nn.Parameter(0.02 * torch.randn(_BUCKETS)) if times else None

    def forward(self, x: Tensor, buckets: Tensor | None) -> Tensor:
        """``[B, T, d]`` to the same, no position seeing what follows it; ``buckets``: int64 ``[B, T, T]``."""
        gate, values, query, keys = F.silu(self.project(self.norm(x))).chunk(4, dim=-1)
        query, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, keys, values))
        place = torch.arange(x.shape[1], device=x.device)
        distance = place.unsqueeze(1) - place
        bias = self.distance_bias[distance.clamp(min=0)]
        if self.time_bias is not None and buckets is not None:
            bias = (bias + F.embedding(buckets, self.time_bias.unsqueeze(1)).squeeze(-1)).unsqueeze(1)
        weights = F.silu(query @ keys.transpose(-1, -2) + bias) * (distance >= 0) / self.longest
        attended = (weights @ values).transpose(1, 2).flatten(2)
        return x + self.out(self.dropout(self.gated_norm(attended) * gate))


class HSTU(WholeSequenceRecommender):
    """Layers of pointwise attention; scores are cosines of state and item over a temperature.

    Args:
        config: RecBole configuration with the settings of ``properties/model/HSTU.yaml``.
        dataset: the training split.
    """

    reads_times = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        width, dropout = int(config["hidden_size"]), float(config["hidden_dropout_prob"])
        times = bool(config["time_bias"])
        self.temperature, self.negatives = float(config["temperature"]), int(config["negatives"])
        self.times = config["TIME_FIELD"] + config["LIST_SUFFIX"] if times else None
        self.items = nn.Embedding(self.n_items, width, padding_idx=0)
        self.position = nn.Embedding(self.max_seq_length, width)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            HSTULayer(self.max_seq_length, width, int(config["n_heads"]), dropout, times)
            for _ in range(int(config["n_layers"]))
        )
        with torch.no_grad():
            nn.init.normal_(self.items.weight, std=0.02)[0] = 0.0
            nn.init.normal_(self.position.weight, std=0.02)

    def encode(self, items: Tensor, times: Tensor | None) -> Tensor:
        """States behind every item, of length 1: int64 and float32 ``[B, T]`` to ``[B, T, d]``; 0 pads on the right."""
        x = self.items(items) * self.items.embedding_dim**0.5 + self.position.weight[: items.shape[1]]
        x = self.dropout(x)
        buckets = time_buckets(times) if times is not None else None
        for layer in self.layers:
            x = layer(x, buckets)
        return F.normalize(x.float(), dim=-1)

    def logits(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Cosines over the temperature, ``[R, d]`` to ``[R, items + 1]``, or of the given items ``[n]`` alone."""
        weight = self.items.weight if items is None else self.items(items)
        return states @ F.normalize(weight, dim=-1).T / self.temperature

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy a target, scalar, nats, over all items or over the target and ``negatives`` drawn ones."""
        targets = interaction[TARGETS]
        trained = targets > 0
        states = self.encode(interaction[self.ITEM_SEQ], interaction[self.times] if self.times else None)[trained]
        targets = targets[trained]
        if self.negatives == 0:
            return catalogue_cross_entropy(states / self.temperature, F.normalize(self.items.weight, dim=-1), targets)
        drawn = torch.randint(1, self.n_items, (self.negatives,), device=targets.device)
        others = self.logits(states, drawn).masked_fill(drawn == targets.unsqueeze(1), -torch.inf)
        own = (states * F.normalize(self.items(targets), dim=-1)).sum(1, keepdim=True) / self.temperature
        return (torch.cat([own, others], dim=1).logsumexp(1) - own.squeeze(1)).mean()

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]

        def read(rows: Tensor, longest: int) -> Tensor:
            times = interaction[self.times][rows, :longest] if self.times else None
            return last_states(self.encode(items[rows, :longest], times), lengths[rows])[:, 0]

        return padding_last(self.logits(read_in_lots(lengths, read, READ_TOGETHER)))
