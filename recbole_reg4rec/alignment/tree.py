"""Groups of paths as a tree: what began alike is one node, which is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recbole_reg4rec.model.scorers import OpenTokens


@dataclass
class Level:
    """The ``N`` nodes of one step, each a distinct partial path of some context; all tensors int64.

    ``rows``, ``places``: ``[N]``, the row and the position that a node reasons from, rows ascending.
    ``parents``: ``[N]``, its parent among the nodes of the level before; ``entered``: ``[2, N]``, codebook and token
    taken on the way. Meaningless at the root.
    ``books``: ``[N]``, the codebook that a node takes; ``open``: which of its tokens can follow. None where a node
    answers instead, with one of its ``open.candidates``.
    ``paths``: ``[L]``, those of the ``R * G`` paths that still decide here; ``nodes``, ``columns``: ``[L]``, the node
    each is at and the column of the token it takes, or the place of its answer among the candidates.
    """

    rows: Tensor
    places: Tensor
    parents: Tensor
    entered: Tensor
    books: Tensor | None
    open: OpenTokens
    paths: Tensor
    nodes: Tensor
    columns: Tensor

    def only(self, nodes: Tensor, parents: Tensor, paths: Tensor) -> Level:
        """Some nodes bool ``[N]`` with their new parents int64 ``[N']``, and some of the entries bool ``[L]``."""
        number = nodes.cumsum(0) - 1
        return Level(
            self.rows[nodes],
            self.places[nodes],
            parents,
            self.entered[:, nodes],
            None if self.books is None else self.books[nodes],
            self.open[nodes],
            self.paths[paths],
            number[self.nodes[paths]],
            self.columns[paths],
        )


@dataclass
class Walk:
    """What a policy holds at the nodes of a tree, by level.

    ``log_probs``: float32 ``[N, columns]``, of tokens or of answers; ``hidden``: ``[N, h]``.
    """

    log_probs: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)


@dataclass
class Groups:
    """``R`` groups of ``G`` paths.

    ``levels``: the tree. ``walk``: the sampling policy along it, without a gradient.
    ``items``: int64 ``[R, G]``, the item of each path (one of them where several share a tuple), 0 where it has no end.
    ``books``, ``tokens``, ``categories``: int64 ``[R, G, M]``, forced steps included; 0 behind the last step taken.
    """

    levels: list[Level]
    walk: Walk
    items: Tensor
    books: Tensor
    tokens: Tensor
    categories: Tensor

    def path_log_probs(self, walk: Walk) -> Tensor:
        """Log-probability of every path, float32 ``[R, G]``."""
        total = walk.log_probs[0].new_zeros(self.items.numel())
        for level, log_probs in zip(self.levels, walk.log_probs, strict=True):
            total = total.index_add(0, level.paths, pick(log_probs, level.nodes, level.columns))
        return total.view(self.items.shape)


def subtree(levels: Sequence[Level], wanted: Tensor) -> tuple[list[Level], list[Tensor]]:
    """The part of a tree that some of its paths, bool ``[R * G]``, come through.

    Returns:
        its levels, and which nodes of the whole tree each has, int64 ``[N]``, ascending.
    """
    found: list[Level] = []
    kept: list[Tensor] = []
    numbers: Tensor | None = None
    for level in levels:
        paths = wanted[level.paths]
        nodes = torch.zeros(len(level.rows), dtype=torch.bool, device=paths.device)
        nodes[level.nodes[paths]] = True
        parents = level.parents[nodes]
        found.append(level.only(nodes, parents if numbers is None else numbers[parents], paths))
        kept.append(nodes.nonzero().squeeze(1))
        numbers = nodes.cumsum(0) - 1
    return found, kept


def pick(log_probs: Tensor, nodes: Tensor, columns: Tensor) -> Tensor:
    """Entries of float32 ``[N, columns]`` at int64 ``[L]`` each, to ``[L]``."""
    # The gradient of this is several times as fast as that of plain indexing.
    return log_probs.flatten().index_select(0, nodes * log_probs.shape[1] + columns)
