"""The decoder: one token a step, from whichever codebook the caller chooses (docs/method.md, 2, CRSS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_reg4rec.model.history import History, TokenTable
from recbole_reg4rec.model.layers import DecoderLayer, Dropout, KeyValue, StepCache


class Reasoner(nn.Module):
    """Decoder layers, one head over all codebooks, and a head over categories.

    Args:
        table: token embeddings, shared with the encoder and, as output weights, with the head.
        categories: number of categories, without the padding.
        start_from_history: add the state behind the last item to ``<BOS>`` (our choice; off: the bare ``<BOS>``).
    """

    def __init__(
        self,
        table: TokenTable,
        categories: int,
        layers: int,
        width: int,
        heads: int,
        inner: int,
        dropout: float,
        attention_dropout: float,
        start_from_history: bool,
    ) -> None:
        super().__init__()
        self.table, self.start_from_history = table, start_from_history
        self.begin = nn.Parameter(torch.randn(width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, inner, dropout, attention_dropout) for _ in range(layers)
        )
        self.project = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(len(table.weight)))
        self.category = nn.Linear(width, categories + 1)

    def session(self, history: History, queries: Tensor, mask: Tensor | None, causal: bool) -> ReasoningSession:
        """Starts paths at ``queries`` ``[B, Q, d]``, the states they reason from; see `Attention` for the mask."""
        sources = [
            layer.cross_attention.keys_values(history.states)
            for layer in self.layers
            if isinstance(layer, DecoderLayer)
        ]
        return ReasoningSession(self, sources, queries, mask, causal)

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Logits of every token of every codebook: ``[..., d]`` to ``[..., M, K]``."""
        logits = nn.functional.linear(self.project(hidden), self.table.weight, self.bias)
        return logits.unflatten(-1, (self.table.codebooks, self.table.codewords))

    def category_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the item's category: ``[..., d]`` to ``[..., categories + 1]``; the padding category never wins."""
        logits = self.category(hidden)
        return torch.cat([torch.full_like(logits[..., :1], -1e4), logits[..., 1:]], dim=-1)


class ReasoningSession:
    """Paths under way: the history's keys and values, computed once, and a cache of each path's own steps."""

    def __init__(
        self, reasoner: Reasoner, sources: list[KeyValue], queries: Tensor, mask: Tensor | None, causal: bool
    ) -> None:
        self._reasoner, self._sources, self._mask, self._causal = reasoner, sources, mask, causal
        self._queries = queries
        self._caches: list[StepCache | None] = [None] * len(sources)

    def begin(self) -> Tensor:
        """States at the first step, ``[B, Q, d]``."""
        start = self._reasoner.begin.expand_as(self._queries)
        return self._step(start + self._queries if self._reasoner.start_from_history else start)

    def take(self, embedded: Tensor) -> Tensor:
        """States after every path took a token, whose embeddings are ``[B, Q, d]``."""
        return self._step(embedded)

    def follow(self, parents: Tensor) -> None:
        """Continues with copies of the paths ``parents``, int64 ``[B, W]``."""
        index = parents[:, :, None, None, None]
        for number, cache in enumerate(self._caches):
            if cache is not None:
                keys, values = (part.gather(1, index.expand(-1, -1, *part.shape[2:])) for part in cache)
                self._caches[number] = (keys, values)

    def _step(self, x: Tensor) -> Tensor:
        x = self._reasoner.dropout(self._reasoner.norm(x))
        for number, layer in enumerate(self._reasoner.layers):
            x, self._caches[number] = layer(x, self._caches[number], self._sources[number], self._mask, self._causal)
        return x
