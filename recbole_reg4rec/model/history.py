"""The encoder: a user's history of items as vectors, each seeing only what came before (docs/method.md, 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_reg4rec.model.layers import Dropout, EncoderLayer

FORMS = ("fused", "flat")
# Histories of about the same length that are read together where padding is to cost little.
_TOGETHER = 16
# Share of what would be read that is no padding, from which on all are read together.
_ALIKE = 0.75


class TokenTable(nn.Module):
    """An embedding for every token of every codebook, ``[M * K, d]`` with the codebooks one after the other.

    Args:
        codes: int64 ``[items + 1, M]``.
        codewords: K.
        width: d.
        length: what an embedding is long at first.
    """

    def __init__(self, codes: Tensor, codewords: int, width: int, length: float = 1.0) -> None:
        super().__init__()
        self.codebooks, self.codewords = codes.shape[1], codewords
        self.weight = nn.Parameter(torch.randn(self.codebooks * codewords, width) * (length * width**-0.5))
        offsets = torch.arange(self.codebooks) * codewords
        self.register_buffer("rows", codes + offsets, persistent=False)

    rows: Tensor

    def tokens(self, books: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings of single tokens: int64 ``[...]`` each to ``[..., d]``."""
        return F.embedding(books * self.codewords + tokens, self.weight)

    def items(self, items: Tensor) -> Tensor:
        """Embeddings of all tokens of items: int64 ``[...]`` to ``[..., M, d]``; the padding item gives zeros."""
        # Not by indexing, whose gradient is added up in any order of threads, and slowly.
        return F.embedding(self.rows[items], self.weight) * (items > 0)[..., None, None]

    def sums(self, items: Tensor) -> Tensor:
        """Sum of the embeddings of an item's tokens: int64 ``[...]`` to ``[..., d]``; the padding item gives zeros."""
        bags = self.rows[items].flatten(0, -2)
        return F.embedding_bag(bags, self.weight, mode="sum").view(*items.shape, -1) * (items > 0).unsqueeze(-1)


def own_vectors(table: TokenTable) -> nn.Embedding:
    """A vector of its own for each item, ``[items + 1, d]``, to stand beside its tokens; 0 at first (our choice)."""
    identity = nn.Embedding(len(table.rows), table.weight.shape[1], padding_idx=0)
    # A residual: items begin as their tokens say, and nothing depends on how many items there are.
    nn.init.zeros_(identity.weight)
    return identity


class ItemVectors(nn.Module):
    """What items are compared by: the sum of their tokens' embeddings and, where given, a vector of their own.

    With ``bias``, one a token, there is one more column: the sum of these.
    """

    def __init__(
        self, table: TokenTable, identity: nn.Embedding | None = None, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.table, self.identity, self.bias = table, identity, bias
        self._kept: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self) -> Tensor:
        """``[items + 1, d]``, or ``[items + 1, d + 1]``; kept while no gradient is wanted and no weight changes."""
        if torch.is_grad_enabled():
            return self._build()
        weights = (self.table.weight, self.bias, None if self.identity is None else self.identity.weight)
        state = tuple(
            mark for weight in weights if weight is not None for mark in (id(weight), weight._version, weight.device)
        )
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._build()
        return self._kept[1]

    def of(self, items: Tensor) -> Tensor:
        """Those of some items alone, int64 ``[L]``: ``[L, d]`` or ``[L, d + 1]``; the padding item's means nothing."""
        vectors = F.embedding_bag(self.table.rows.index_select(0, items), self._weight(), mode="sum")
        return vectors if self.identity is None else self._with_identity(vectors, self.identity(items))

    def _build(self) -> Tensor:
        vectors = F.pad(F.embedding_bag(self.table.rows[1:], self._weight(), mode="sum"), (0, 0, 1, 0))
        return vectors if self.identity is None else self._with_identity(vectors, self.identity.weight)

    def _weight(self) -> Tensor:
        weight: Tensor = self.table.weight
        return weight if self.bias is None else torch.cat([weight, self.bias.unsqueeze(1)], dim=1)

    @staticmethod
    def _with_identity(vectors: Tensor, identity: Tensor) -> Tensor:
        return vectors + F.pad(identity, (0, vectors.shape[1] - identity.shape[1]))


@dataclass
class History:
    """What the decoder reads. ``states``: ``[B, S, d]``; ``last``: ``[B, T, d]``, the state behind each item.

    ``owner``: int64 ``[S]``, the item position that a state belongs to; a position may read states up to its own.
    ``causal``: the states are one an item, so that a plain causal mask says the same.
    """

    states: Tensor
    last: Tensor
    owner: Tensor
    causal: bool

    def only(self, rows: Tensor) -> History:
        """Some of the rows, int64 ``[R]``."""
        return History(self.states.index_select(0, rows), self.last.index_select(0, rows), self.owner, self.causal)

    def mask(self) -> Tensor | None:
        """What the paths from every position may read: bool ``[T, S]``; None where a causal mask says the same."""
        if self.causal:
            return None
        return torch.arange(self.last.shape[1], device=self.owner.device).unsqueeze(1) >= self.owner

    def mask_behind(self, lengths: Tensor) -> Tensor:
        """What paths from the last of ``lengths`` int64 ``[B]`` items may read: bool ``[B, 1, 1, S]``."""
        return (self.owner < lengths.unsqueeze(1))[:, None, None]


class HistoryEncoder(nn.Module):
    """Reads item histories in the fused form (a vector an item) or in the paper's flat form (a vector a token).

    ``identity``, where given, is added to an item's vector, in the flat form to its separator.
    """

    def __init__(
        self,
        table: TokenTable,
        form: str,
        longest: int,
        layers: int,
        width: int,
        heads: int,
        inner: int,
        dropout: float,
        attention_dropout: float,
        identity: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.table, self.form, self.identity = table, form, identity
        self.position = nn.Embedding(longest, width)
        self.separator = nn.Parameter(torch.randn(width) * width**-0.5) if form == "flat" else None
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, inner, dropout, attention_dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, items: Tensor) -> History:
        """Encodes int64 ``[B, T]`` (0 pads on the right, where states are meaningless and nobody looks)."""
        if self.separator is None:
            owner = torch.arange(items.shape[1], device=items.device)
            states = self._run(self._begin(items), None, causal=True)
            return History(states, states, owner, causal=True)
        positions = self.position.weight[: items.shape[1]]
        tokens = self.table.items(items)
        batch, length, books, width = tokens.shape
        separators = self.separator.expand(batch, length, 1, width)
        if self.identity is not None:
            separators = separators + self.identity(items).unsqueeze(2)
        x = torch.cat([separators, tokens], dim=2) + positions[:, None]
        owner = torch.arange(length, device=items.device).repeat_interleave(books + 1)
        # Tokens of one item are unordered: they see each other and everything before.
        mask = owner.unsqueeze(1) >= owner.unsqueeze(0)
        states = self._run(self.dropout(self.norm(x.flatten(1, 2))), mask, causal=False)
        return History(states, states.view(batch, length, books + 1, width).mean(2), owner, causal=False)

    def read(self, items: Tensor, lengths: Tensor) -> History:
        """As `forward` for histories of ``lengths`` int64 ``[B]``, in ``[1, T]``, up to the longest; no gradient.

        Most histories are short and few long, so that on a CPU they are read in lots of like length.
        """
        items = items[:, : int(lengths.max())]
        if self.separator is not None:
            return self(items)
        states: Tensor | None = None
        for rows in _lots(lengths, _TOGETHER):
            here = items[rows, : int(lengths[rows].max())]
            found = self(here).states
            states = found.new_zeros(*items.shape, found.shape[-1]) if states is None else states
            states[rows, : here.shape[1]] = found
        assert states is not None
        return History(states, states, torch.arange(items.shape[1], device=items.device), causal=True)

    def read_last(self, items: Tensor, lengths: Tensor) -> Tensor:
        """States behind the last items alone, ``[B, d]``: as `read`, whose last layer few of the places need."""
        if self.separator is not None:
            found = self.read(items, lengths).last
            return found[torch.arange(len(found), device=found.device), lengths - 1]

        def read(rows: Tensor, longest: int) -> Tensor:
            x, length = self._begin(items[rows, :longest]), lengths[rows]
            for layer in self.layers[:-1]:
                x = layer(x, None, True)
            wanted = x[torch.arange(len(rows), device=rows.device), length - 1].unsqueeze(1)
            mask = (torch.arange(longest, device=rows.device) < length.unsqueeze(1))[:, None, None]
            return self.layers[-1](x, mask, False, wanted).squeeze(1)

        return read_in_lots(lengths, read)

    def _begin(self, items: Tensor) -> Tensor:
        """What the first layer reads of items in the fused form, ``[B, T, d]``."""
        x = self.table.sums(items) + self.position.weight[: items.shape[1]]
        if self.identity is not None:
            x = x + self.identity(items)
        return self.dropout(self.norm(x))

    def _run(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, causal)
        return x


def read_in_lots(lengths: Tensor, read: Callable[[Tensor, int], Tensor], together: int = _TOGETHER) -> Tensor:
    """A vector a history, ``[B, d]``, short ones not padded to the longest.

    Args:
        lengths: int64 ``[B]``, at least one.
        read: is given the rows int64 ``[R]`` of histories of about the same length and the longest of these lengths,
            and gives ``[R, d]``.
        together: so many at a time; on a GPU all.
    """
    found: Tensor | None = None
    for rows in _lots(lengths, together):
        part = read(rows, int(lengths[rows].max()))
        found = part.new_empty(len(lengths), part.shape[1]) if found is None else found
        found[rows] = part
    assert found is not None
    return found


def _lots(lengths: Tensor, together: int) -> Iterable[Tensor]:
    """Rows of histories of about the same length, int64 ``[R]`` each; all where they are anyway, and on a GPU."""
    alike = lengths.device.type != "cpu" or len(lengths) <= together
    if alike or int(lengths.sum()) >= _ALIKE * int(lengths.max()) * len(lengths):
        return (torch.arange(len(lengths), device=lengths.device),)
    return lengths.argsort().split(together)
