"""Groups of reasoning paths, sampled from the current policy by CRSS from every position of whole sequences at once.

At every step a path takes the codebook it is surest of, as in decoding, and draws one of its feasible tokens (paper:
any order, CRSS; temperature: choice). Paths that began alike are one node of a tree and are computed once; the
history's keys and values are computed once for all of them. A path that has come down to one item is at its end: the
steps left are forced, cost nothing and carry no gradient. Where whole paths alone are rewarded, a group goes no
further once none of its paths can come to a rewarded item: all of them earn nothing, whatever they would draw (our
choice). Sampling carries none at all: what is learned from, and whatever another policy has to say, comes from
walking a part of the same tree again (`replay`). Where paths end by an answer, as in decoding, the last step draws
one of the items that are left.

The category of a step is what the category head holds likeliest behind the step's token; once one item is left, it is
that of the item's own categories which the head held likeliest at the last step decided (choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_reg4rec.alignment.tree import Groups, Level, Walk
from recbole_reg4rec.decoding.beam import surest
from recbole_reg4rec.decoding.catalogue import NEVER, Candidates, Catalogue
from recbole_reg4rec.model.catalogue_scorer import CatalogueScorer
from recbole_reg4rec.model.history import History
from recbole_reg4rec.model.reasoner import Reasoner
from recbole_reg4rec.model.scorers import OpenTokens, TokenScorer

# Nodes of one row that may stand side by side: fewer leave fewer places idle, more copy the row's history less often,
# which takes about as long as so many places.
_PIECES, _COPY = (4, 8, 16, 32), 4


class _Walker:
    """One policy on its way through a tree; nodes stand side by side in pieces of rows, so that few places are idle.

    Args:
        reasoner: the policy.
        history: ``B`` encoded rows of ``T`` items.
    """

    def __init__(self, reasoner: Reasoner, history: History) -> None:
        self._reasoner, self._history = reasoner, history
        self._slots = torch.zeros(0, dtype=torch.int64)
        self._width = _PIECES[0]

    def root(self, rows: Tensor, places: Tensor) -> Tensor:
        """States of single positions, int64 ``[N]`` each, rows ascending, before the first step: ``[N, h]``."""
        last = self._history.last
        owners, mask = self._arrange(rows, places)
        queries = last.flatten(0, 1).index_select(0, self._spread(rows * last.shape[1] + places).flatten())
        self._session = self._reasoner.session(
            self._history, queries.unflatten(0, (-1, self._width)), mask=None, causal=False
        )
        self._session.branch(owners, mask)
        return self._pick(self._session.begin())

    def step(self, rows: Tensor, places: Tensor, parents: Tensor, entered: Tensor) -> Tensor:
        """States ``[N, h]`` of the nodes of the next level, see `Level`."""
        before = self._slots[parents]
        owners, mask = self._arrange(rows, places)
        self._session.branch(owners, mask, self._spread(before))
        table = self._reasoner.table
        taken = self._spread(entered[0] * table.codewords + entered[1])
        embedded = torch.nn.functional.embedding(taken, table.weight)
        return self._pick(self._session.take(embedded.to(self._history.last.dtype)))

    def _arrange(self, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Gives every node its slot; returns the row of each piece, int64 ``[C]``, and the mask ``[C, 1, W, S]``."""
        counts = torch.bincount(rows, minlength=len(self._history.states))
        self._width = min(_PIECES, key=lambda width: int((-(-counts // width)).sum()) * (width + _COPY))
        pieces = -(-counts // self._width)
        rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        self._slots = (pieces.cumsum(0) - pieces)[rows] * self._width + rank
        owners = torch.arange(len(counts), device=rows.device).repeat_interleave(pieces)
        self._pieces = len(owners)
        mask = self._history.owner <= self._spread(places).unsqueeze(-1)
        return owners, mask.unsqueeze(1)

    def _spread(self, values: Tensor) -> Tensor:
        """Values of the nodes ``[N]`` in their slots, int64 ``[C, W]``."""
        return values.new_zeros(self._pieces * self._width).scatter(0, self._slots, values).view(-1, self._width)

    def _pick(self, hidden: Tensor) -> Tensor:
        return hidden.flatten(0, 1).index_select(0, self._slots)


class Hopes:
    """Which groups can still earn something where only whole paths to some items do.

    Args:
        catalogue: whose items these are.
        items: int64 ``[R, N]``, the rewarded items of each context, 0 for none.
        kept: bool ``[R, G]``, paths drawn that are walked to their end in any case.
    """

    def __init__(self, catalogue: Catalogue, items: Tensor, kept: Tensor) -> None:
        self._codes, self._kept = catalogue.codes.index_select(0, items.flatten()).view(*items.shape, -1), kept
        # Which of them each path has come towards so far; what has ended stays as it is.
        self._near = (items > 0).unsqueeze(1).repeat(1, kept.shape[1], 1)

    def after(self, paths: Tensor, books: Tensor, tokens: Tensor, size: int) -> Tensor:
        """Which of some paths go on after a token: int64 ``[L]`` each, paths counted ``size`` a group; bool ``[L]``.

        Those behind the drawn ones do.
        """
        groups, number = paths // size, paths % size
        drawn = number < self._kept.shape[1]
        group, place = groups[drawn], number[drawn]
        self._near[group, place] &= self._codes[group, :, books[drawn]] == tokens[drawn].unsqueeze(1)
        going = torch.ones_like(drawn)
        going[drawn] = self._near.flatten(1).any(1)[group] | self._kept[group, place]
        return going


@dataclass(frozen=True)
class Sampler:
    """Walks a tree of paths.

    Args:
        catalogue: what is feasible.
        members: int64 ``[items + 1, C]``, categories of items, 0 fills up.
        order: how codebooks are chosen, one of `decoding.beam.ORDERS`.
        temperature: above 0; divides the logits of the chosen codebook, not those that choose it.
        categories: whether steps get categories; without, they are all 0.
        steps: the step, at least 2, that answers with an item instead of a token; None: all tokens are spelled.
    """

    catalogue: Catalogue
    members: Tensor
    order: str = "confidence"
    temperature: float = 1.0
    categories: bool = True
    steps: int | None = None

    @torch.no_grad()
    def sample(
        self,
        reasoner: Reasoner,
        scorer: TokenScorer,
        history: History,
        trained: Tensor,
        group: int,
        given: Tensor | None = None,
        hopes: Hopes | None = None,
    ) -> Groups:
        """Samples ``group`` paths from each trained position.

        Args:
            reasoner: the policy.
            scorer: turns its states into probabilities; its contexts are all ``B * T`` positions, in order.
            history: ``B`` encoded rows of ``T`` items.
            trained: bool ``[B, T]``, ``R`` of which are True.
            group: paths to draw for each context.
            given: int64 ``[R, X]``, items whose paths are walked as well, behind the ``group`` drawn ones; for 0 there
                is no path, and its item stays 0.
            hopes: what alone is rewarded; without it, all paths are drawn to their ends.

        Returns:
            ``R`` groups of ``group + X`` paths; the item of a path that went no further is 0.
        """
        rows, places = trained.nonzero(as_tuple=True)
        contexts, books = len(rows), self.catalogue.codebooks
        given = given if given is not None else rows.new_zeros(contexts, 0)
        size = group + given.shape[1]
        wanted = torch.cat([rows.new_zeros(contexts, group), given], dim=1).flatten()
        walk = Walk()
        groups = Groups(
            levels=[],
            walk=walk,
            items=rows.new_zeros(contexts * size),
            books=rows.new_zeros(contexts * size, books),
            tokens=rows.new_zeros(contexts * size, books),
            categories=rows.new_zeros(contexts * size, books),
        )
        walker, anywhere = _Walker(reasoner, history), scorer
        states = walker.root(rows, places)
        parent = token = rows.new_zeros(contexts)
        entered = torch.stack([parent, token])
        closed = torch.zeros(contexts, books, dtype=torch.bool, device=rows.device)
        candidates: Candidates | None = None
        paths = torch.arange(contexts * size, device=rows.device)
        paths = paths[(paths % size < group) | (wanted > 0)]
        nodes = paths // size
        for step in range(books):
            scorer = anywhere.at(rows * trained.shape[1] + places)
            if step + 1 == self.steps:
                assert candidates is not None, "the first step takes a token"
                level = Level(
                    rows, places, parent, entered, None, OpenTokens(candidates=candidates), paths, nodes, nodes
                )
                walk.log_probs.append(_log_probs(scorer, states, level, self.temperature))
                groups.levels.append(level)
                self._answer(groups, reasoner, level, walk.log_probs[-1], states, closed, wanted[paths], step)
                break
            if candidates is None and self.order == "confidence" and books > 1:
                book, log_probs = scorer.first(states, self.temperature)
                allowed = scorer.open(book, candidates)
            else:
                book = self._choose(scorer, states, candidates, closed, step)
                allowed = scorer.open(book, candidates)
                log_probs = scorer.book_log_probs(states, book, allowed, self.temperature)
            columns = self._draw(log_probs, nodes)
            given = wanted[paths].nonzero().squeeze(1)
            own = self.catalogue.codes[wanted[paths[given]], book[nodes[given]]]
            columns[given] = allowed.column(nodes[given], own)
            tokens = allowed.token(nodes, columns)
            groups.levels.append(Level(rows, places, parent, entered, book, allowed, paths, nodes, columns))
            walk.log_probs.append(log_probs)
            groups.books[paths, step], groups.tokens[paths, step] = book[nodes], tokens
            if hopes is not None:
                going = hopes.after(paths, book[nodes], tokens, size)
                paths, nodes, tokens = paths[going], nodes[going], tokens[going]
                if not len(paths):
                    break
            # From here on the nodes of the next step.
            words = self.catalogue.codewords
            keys, belongs = torch.unique(nodes * words + tokens, return_inverse=True)
            parent, token = keys // words, keys % words
            taken = book[parent]
            if candidates is None:
                candidates = self.catalogue.open(taken, token)
            else:
                candidates = self.catalogue.narrow(candidates[parent], taken, token)
            closed = closed[parent].scatter(1, taken.unsqueeze(1), True)
            ended = (candidates.counts == 1) | (step + 1 == books)
            if bool(ended.any()):
                done, number = ended[belongs], ended.cumsum(0) - 1
                item = candidates[ended].last()[number[belongs[done]]]
                ready, node = paths[done], belongs[done]
                self._finish(groups, reasoner, states, ready, nodes[done], item, closed[node], step, step + 1)
            if bool(ended.all()):
                break
            alive = ~ended
            number = alive.cumsum(0) - 1
            parent, closed, candidates = parent[alive], closed[alive], candidates[alive]
            rows, places, entered = rows[parent], places[parent], torch.stack([taken[alive], token[alive]])
            live = alive[belongs]
            paths, nodes = paths[live], number[belongs[live]]
            states = walker.step(rows, places, parent, entered)
            if self.categories:
                # What the head holds behind the token that the last step took.
                likeliest = reasoner.category_logits(states).argmax(-1)
                groups.categories[paths, step] = likeliest[nodes]
        shape = (contexts, size)
        groups.items = groups.items.view(shape)
        groups.books, groups.tokens = groups.books.view(*shape, books), groups.tokens.view(*shape, books)
        groups.categories = groups.categories.view(*shape, books)
        return groups

    def _choose(
        self, scorer: TokenScorer, states: Tensor, candidates: Candidates | None, closed: Tensor, step: int
    ) -> Tensor:
        """The codebook of each node, int64 ``[N]``."""
        if self.order == "fixed":
            return torch.full((len(closed),), step, dtype=torch.int64, device=closed.device)
        if step + 1 == closed.shape[1]:
            return (~closed).int().argmax(1)
        if self.order == "random":
            return torch.rand(closed.shape, device=closed.device).masked_fill(closed, -1.0).argmax(-1)
        return surest(scorer.confidence(states, candidates, closed)).squeeze(-1)

    @staticmethod
    def _draw(log_probs: Tensor, nodes: Tensor) -> Tensor:
        """A token for each path at its node, int64 ``[L]``, by inverting the distribution function."""
        cumulated = log_probs.exp().cumsum(-1)
        # Below the total, so that rounding never reaches behind the last feasible token.
        draw = torch.rand(len(nodes), device=nodes.device) * (cumulated[:, -1].index_select(0, nodes) * (1.0 - 1e-6))
        # The draws of a node side by side, so that no distribution is copied for every path.
        order, counts = nodes.argsort(stable=True), torch.bincount(nodes, minlength=len(cumulated))
        owners = nodes.index_select(0, order)
        places = torch.arange(len(nodes), device=nodes.device) - (counts.cumsum(0) - counts).index_select(0, owners)
        beside = draw.new_zeros(len(cumulated), int(counts.max()) if len(nodes) else 0)
        beside[owners, places] = draw.index_select(0, order)
        found = torch.searchsorted(cumulated, beside, right=True)[owners, places]
        return torch.empty_like(nodes).index_copy_(0, order, found)

    def _answer(
        self,
        groups: Groups,
        reasoner: Reasoner,
        level: Level,
        log_probs: Tensor,
        states: Tensor,
        closed: Tensor,
        forced: Tensor,
        step: int,
    ) -> None:
        """Draws the answers of a level whose ``columns`` are still to come, and writes down what follows from them."""
        assert level.open.candidates is not None
        items = level.open.candidates.padded()
        level.columns = self._draw(log_probs, level.nodes)
        given = forced.nonzero().squeeze(1)
        same = items[level.nodes[given]] == forced[given].unsqueeze(1)
        level.columns[given] = same.int().argmax(1)
        item = items[level.nodes, level.columns]
        self._finish(groups, reasoner, states, level.paths, level.nodes, item, closed[level.nodes], step, step)

    def _finish(
        self,
        groups: Groups,
        reasoner: Reasoner,
        states: Tensor,
        ready: Tensor,
        nodes: Tensor,
        items: Tensor,
        closed: Tensor,
        step: int,
        forced: int,
    ) -> None:
        """Writes down the items of paths that have come to their end, and the steps that follow from them.

        Args:
            states: ``[N, h]``, those of the last step decided, ``step``.
            ready, nodes, items: int64 ``[E]``, the paths, the nodes they decided at, and where they lead.
            closed: bool ``[E, M]``, the codebooks they have taken.
            forced: the first step that was not taken by a token.
        """
        groups.items[ready] = items
        # Codebooks still open come last, in their own order.
        order = closed.long().argsort(dim=1, stable=True)[:, : self.catalogue.codebooks - forced]
        groups.books[ready, forced:] = order
        groups.tokens[ready, forced:] = self.catalogue.codes[items].gather(1, order)
        if not self.categories:
            return
        at, nodes = torch.unique(nodes, return_inverse=True)
        logits = reasoner.category_logits(states[at])
        members = self.members[items]
        own = logits.flatten()[nodes.unsqueeze(1) * logits.shape[1] + members].masked_fill(members == 0, NEVER)
        category = members.gather(1, own.argmax(-1, keepdim=True)).squeeze(1)
        category = torch.where((members > 0).any(1), category, logits.argmax(-1)[nodes])
        groups.categories[ready, step:] = category.unsqueeze(1)


def _log_probs(scorer: TokenScorer, states: Tensor, level: Level, temperature: float) -> Tensor:
    """What a policy holds at the nodes of a level, see `Walk`."""
    if level.books is not None:
        return scorer.book_log_probs(states, level.books, level.open, temperature)
    assert isinstance(scorer, CatalogueScorer) and level.open.candidates is not None, "the others spell all tokens"
    answers = scorer.answer(states, level.open.candidates)
    return answers if temperature == 1.0 else (answers / temperature).log_softmax(-1)


def replay(
    reasoner: Reasoner, scorer: TokenScorer, history: History, levels: Sequence[Level], temperature: float
) -> Walk:
    """What a policy holds at the nodes of a tree; codebooks and tokens stay as they were chosen.

    Args:
        reasoner, scorer, history: the policy and what it reads, of the rows that the tree was sampled from; as there,
            the scorer's contexts are all positions.
        levels: the tree.
        temperature: as in sampling.
    """
    walker, walk = _Walker(reasoner, history), Walk()
    for level in levels:
        if walk.hidden:
            states = walker.step(level.rows, level.places, level.parents, level.entered)
        else:
            states = walker.root(level.rows, level.places)
        here = scorer.at(level.rows * history.last.shape[1] + level.places)
        walk.log_probs.append(_log_probs(here, states, level, temperature))
        walk.hidden.append(states)
    return walk
