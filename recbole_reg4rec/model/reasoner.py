"""The decoder: one token a step, from whichever codebook the caller chooses (docs/method.md, 2, CRSS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_reg4rec.decoding.catalogue import pick_paths
from recbole_reg4rec.model.history import History, ItemVectors, TokenTable
from recbole_reg4rec.model.layers import DecoderLayer, Dropout, KeyValue, StepCache


class Reasoner(nn.Module):
    """Decoder layers, one head over all codebooks, and a head over categories.

    Args:
        table: token embeddings, shared with the encoder and, as output weights, with the head.
        categories: number of categories, without the padding; 0 for a model that predicts none.
        start_from_history: add the state behind the last item to ``<BOS>`` (our choice; off: the bare ``<BOS>``).
        grounded: the tokens' states are that behind the last item plus what the decoder corrects, at first nothing (our
            choice). Categories are told from what the decoder itself came to, which knows the path.
        identity: a vector of its own for each item, beside its tokens (our choice; none: the tokens alone).

    ``hidden``, here and in whatever asks, is all that stands behind a step: float ``[..., h]``, of which `query` and
    `category_logits` take what is theirs.

    Attributes:
        vectors: what a projected state and a 1 behind it are compared with, ``[items + 1, d + 1]``: an item's logit is
            the sum of its tokens' logits.
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
        grounded: bool = False,
        identity: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.table, self.start_from_history, self.width = table, start_from_history, width
        self.begin = nn.Parameter(torch.randn(width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, inner, dropout, attention_dropout) for _ in range(layers)
        )
        self.correct = nn.Linear(width, width) if grounded else None
        if self.correct is not None:
            nn.init.zeros_(self.correct.weight)
            nn.init.zeros_(self.correct.bias)
        self.project = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(len(table.weight)))
        self.vectors = ItemVectors(table, identity, self.bias)
        self.category = nn.Linear(width, categories + 1) if categories else None

    def session(self, history: History, queries: Tensor, mask: Tensor | None, causal: bool) -> ReasoningSession:
        """Starts paths at ``queries`` ``[B, Q, d]``, the states they reason from; see `Attention` for the mask."""
        sources = [
            layer.cross_attention.keys_values(history.states)
            for layer in self.layers
            if isinstance(layer, DecoderLayer)
        ]
        return ReasoningSession(self, sources, queries, mask, causal)

    def query(self, hidden: Tensor) -> Tensor:
        """What tokens and items are compared with: ``[..., h]`` to ``[..., d]``."""
        projected: Tensor = self.project(hidden[..., : self.width])
        return projected

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Logits of every token of every codebook: ``[..., h]`` to ``[..., M, K]``."""
        logits = nn.functional.linear(self.query(hidden), self.table.weight, self.bias)
        return logits.unflatten(-1, (self.table.codebooks, self.table.codewords))

    def book_logits(self, hidden: Tensor, book: int) -> Tensor:
        """Logits of one codebook's tokens alone: ``[..., h]`` to ``[..., K]``."""
        rows = slice(book * self.table.codewords, (book + 1) * self.table.codewords)
        return nn.functional.linear(self.query(hidden), self.table.weight[rows], self.bias[rows])

    def chosen_logits(self, projected: Tensor, books: Tensor) -> Tensor:
        """Logits of the tokens of one codebook each, after `query`: ``[N, d]``, int64 ``[N]`` to ``[N, K]``."""
        weight = self.table.weight.view(self.table.codebooks, self.table.codewords, -1)
        bias = self.bias.view(self.table.codebooks, -1)
        order = books.argsort()
        counts = torch.bincount(books, minlength=self.table.codebooks).tolist()
        parts = projected.index_select(0, order).split(counts)
        logits = [nn.functional.linear(part, weight[book], bias[book]) for book, part in enumerate(parts)]
        return torch.cat(logits).index_select(0, order.argsort())

    def category_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the item's category: ``[..., h]`` to ``[..., categories + 1]``; the padding category never wins."""
        assert self.category is not None, "a model without categories asks for none"
        logits = self.category(hidden[..., -self.width :])
        logits[..., 0] = -1e4
        return logits


class ReasoningSession:
    """Paths under way: the history's keys and values, computed once, and a cache of each path's own steps."""

    def __init__(
        self, reasoner: Reasoner, sources: list[KeyValue], queries: Tensor, mask: Tensor | None, causal: bool
    ) -> None:
        self._reasoner, self._sources, self._mask, self._causal = reasoner, sources, mask, causal
        # The states that the present paths started from, in as many places or in one for all.
        self._queries = queries
        # What the present paths read, line by line.
        self._open_sources = sources
        self._caches: list[StepCache | None] = [None] * len(sources)

    def begin(self) -> Tensor:
        """What stands behind nothing yet, ``[B, Q, h]``."""
        start = self._reasoner.begin.expand_as(self._queries)
        # Without dropout: what the history comes to stands here once, not once an item.
        return self._step(self._reasoner.norm(start + self._queries if self._reasoner.start_from_history else start))

    def take(self, embedded: Tensor) -> Tensor:
        """The same after every path took a token, whose embeddings are ``[B, Q, d]``."""
        return self._step(self._reasoner.dropout(self._reasoner.norm(embedded)))

    def branch(self, rows: Tensor, mask: Tensor, parents: Tensor | None = None) -> None:
        """Continues with paths of any rows, set side by side anew.

        Args:
            rows: int64 ``[C]``, which of the histories each line reads.
            mask: bool ``[C, 1, W, S]``, where each path may look from here on.
            parents: int64 ``[C, W]``, places among all paths there are now, of which the new ones are copies; None
                before the first step.
        """
        self._open_sources = [
            (keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self._sources
        ]
        self._mask, self._causal = mask, False
        if parents is not None:
            self._queries = self._queries.flatten(0, 1).index_select(0, parents.flatten()).unflatten(0, parents.shape)
        for number, cache in enumerate(self._caches):
            if cache is not None and parents is not None:
                picked = (part.flatten(0, 1).index_select(0, parents.flatten()) for part in cache)
                keys, values = (part.unflatten(0, parents.shape) for part in picked)
                self._caches[number] = (keys, values)

    def follow(self, parents: Tensor) -> None:
        """Continues with copies of the paths ``parents``, int64 ``[B, W]``."""
        if self._queries.shape[1] > 1:
            self._queries = pick_paths(self._queries, parents)
        for number, cache in enumerate(self._caches):
            if cache is not None:
                self._caches[number] = (pick_paths(cache[0], parents), pick_paths(cache[1], parents))

    def _step(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self._reasoner.layers):
            x, self._caches[number] = layer(
                x, self._caches[number], self._open_sources[number], self._mask, self._causal
            )
        correct = self._reasoner.correct
        return x if correct is None else torch.cat([self._queries + correct(x), x], dim=-1)
