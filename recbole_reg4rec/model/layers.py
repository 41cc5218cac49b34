"""Transformer layers that the encoder and the decoder are made of (docs/method.md, 2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Keys and values that an attention reads: each [B, heads, S, d / heads].
KeyValue = tuple[Tensor, Tensor]
# Keys and values of the steps a path has taken: each [B, Q, steps, heads, d / heads].
StepCache = tuple[Tensor, Tensor]


class Dropout(nn.Module):
    """Dropout that draws eight decisions from one random number on a CPU, where drawing is what dropout costs.

    The probability is rounded to a multiple of 1/256 there; the scale makes up for exactly the rounded one.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; entries are zero with the probability, the others are scaled up."""
        level = min(255, round(256 * self.probability))  # of 256, something is always left
        if not self.training or level == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability, True)
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= level
        return x * keep.to(x.dtype).mul_(256 / (256 - level))


class Attention(nn.Module):
    """Multi-head attention with the projections exposed, so that keys and values can be computed once and kept."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, source: Tensor) -> KeyValue:
        """Projects ``[B, S, d]`` once for all who will read it."""
        keys, values = self.key_value(source).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, source: KeyValue, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """``[B, Q, d]`` attends to ``source``; ``mask``, like ``[B, heads, Q, S]``, is True where it may look."""
        dropout = self.dropout.probability if self.training else 0.0
        out = F.scaled_dot_product_attention(
            self._split(self.query(x)), *source, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )
        return self.out(out.transpose(1, 2).flatten(2))

    def over_steps(self, x: Tensor, past: StepCache | None) -> tuple[Tensor, StepCache]:
        """Each of ``[B, Q, d]`` attends to its own earlier steps and itself; returns the cache grown by one step."""
        shape = (*x.shape[:2], 1, self.heads, x.shape[-1] // self.heads)
        keys, values = (part.view(shape) for part in self.key_value(x).chunk(2, dim=-1))
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        if keys.shape[2] == 1:
            # One step attends to itself alone.
            return self.out(values.flatten(2)), (keys, values)
        query = self.query(x).view(shape)
        weights = ((query * keys).sum(-1) * shape[-1] ** -0.5).softmax(dim=2)
        weights = self.dropout(weights)
        return self.out((weights.unsqueeze(-1) * values).sum(2).flatten(2)), (keys, values)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def layer_shape(config: Any) -> dict[str, Any]:
    """Sizes that all layers of a model share, by the names of their arguments, from RecBole's settings."""
    return {
        "width": int(config["hidden_size"]),
        "heads": int(config["n_heads"]),
        "inner": int(config["inner_size"]),
        "dropout": float(config["hidden_dropout_prob"]),
        "attention_dropout": float(config["attn_dropout_prob"]),
    }


class FeedForward(nn.Sequential):
    """Two linear maps with GELU between, width to ``inner`` and back."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), Dropout(dropout))


class EncoderLayer(nn.Module):
    """Self-attention, add and norm, feed-forward, add and norm."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, attention_dropout)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool, wanted: Tensor | None = None) -> Tensor:
        """``[B, S, d]`` to the same, or to that of the places ``wanted`` ``[B, Q, d]``; mask: see `Attention`."""
        source, x = self.attention.keys_values(x), x if wanted is None else wanted
        x = self.norms[0](x + self.dropout(self.attention(x, source, mask, causal)))
        return self.norms[1](x + self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Causal self-attention over a path's steps, cross-attention to the history, feed-forward; add and norm each."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, attention_dropout)
        self.cross_attention = Attention(width, heads, attention_dropout)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, past: StepCache | None, history: KeyValue, mask: Tensor | None, causal: bool
    ) -> tuple[Tensor, StepCache]:
        """One step of ``Q`` paths: ``[B, Q, d]`` in and out, and the cache of steps grown by this one."""
        attended, cache = self.self_attention.over_steps(x, past)
        x = self.norms[0](x + self.dropout(attended))
        x = self.norms[1](x + self.dropout(self.cross_attention(x, history, mask, causal)))
        return self.norms[2](x + self.feed_forward(x)), cache
