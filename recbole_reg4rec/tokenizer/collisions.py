"""Makes the tuples of tokens unique, so that no two items are indistinguishable (docs/method.md, 1, our choice)."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Resolved:
    """``codes`` int64 ``[N, M]``; ``moved`` items got another tuple; ``unresolved`` found none free."""

    codes: np.ndarray
    moved: int
    unresolved: int


def count_collisions(codes: np.ndarray) -> int:
    """Items that share their whole tuple with another item; ``codes`` is int ``[N, M]``."""
    _, counts = np.unique(codes, axis=0, return_counts=True)
    return int(counts[counts > 1].sum())


def resolve_collisions(
    codes: np.ndarray, distances: Callable[[np.ndarray], np.ndarray], last: np.ndarray | None = None
) -> Resolved:
    """Moves the cheaper items of every collision to the free tuple that costs least.

    Of the items sharing a tuple the one that would be hardest to move stays. The others, cheapest first, take the
    free tuple with the smallest sum of distances, whichever and however many tokens that changes.

    Args:
        codes: int64 ``[N, M]``, assigned tokens.
        distances: for items ``[n]`` their squared distances to every codeword, float32 ``[n, M, K]``; asked only for
            items that collide.
        last: bool ``[N]``, items that may only take what all others leave.
    """
    codes = codes.copy()
    last = np.zeros(len(codes), dtype=bool) if last is None else last
    taken: set[int] = set()
    moved = unresolved = 0
    for members in (np.flatnonzero(~last), np.flatnonzero(last)):
        # Items that are alike to the last bit walk through the same tuples, so they share one walk.
        walks: dict[bytes, Iterator[int]] = {}
        for item, table in _losers(codes, members, distances, taken):
            walk = walks.setdefault(codes[item].tobytes() + table.tobytes(), _cheapest_first(table))
            free = next((number for number in walk if number not in taken), None)
            if free is None:
                unresolved += 1
                continue
            taken.add(free)
            codes[item] = [free // place % table.shape[1] for place in _places(*table.shape)]
            moved += 1
    return Resolved(codes=codes, moved=moved, unresolved=unresolved)


def _places(books: int, words: int) -> list[int]:
    """What one step in each codebook adds to the number of a tuple; Python's integers do not overflow."""
    return [words**book for book in range(books)]


def _losers(
    codes: np.ndarray, members: np.ndarray, distances: Callable[[np.ndarray], np.ndarray], taken: set[int]
) -> list[tuple[int, np.ndarray]]:
    """Items that must move, the cheapest to move first, with their distances; the other tuples become taken."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for item in members.tolist():
        groups[codes[item].tobytes()].append(item)
    if not groups:
        return []
    shape = distances(members[:1]).shape[1:]
    numbers = {code: _number(codes[group[0]], shape) for code, group in groups.items()}
    colliding = [i for code, group in groups.items() if len(group) > 1 or numbers[code] in taken for i in group]
    waiting: list[tuple[float, int]] = []
    tables: dict[int, np.ndarray] = {}
    if colliding:
        table = np.asarray(distances(np.array(colliding)), dtype=np.float64)
        tables = dict(zip(colliding, table, strict=True))
        cost = dict(zip(colliding, _cheapest_moves(codes[colliding], table).tolist(), strict=True))
        for code, group in groups.items():
            if group[0] in tables:
                ordered = sorted((cost[item], item) for item in group)
                waiting.extend(ordered if numbers[code] in taken else ordered[:-1])
    taken.update(numbers.values())
    return [(item, tables[item]) for _, item in sorted(waiting)]


def _number(code: np.ndarray, shape: tuple[int, ...]) -> int:
    return sum(int(word) * place for word, place in zip(code, _places(*shape), strict=True))


def _cheapest_moves(codes: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """What the cheapest change of one token costs each item, float64 ``[n]``; infinite where there is one codeword."""
    own = np.take_along_axis(distances, codes[:, :, None], axis=2)
    extra = distances - own
    np.put_along_axis(extra, codes[:, :, None], np.inf, axis=2)
    return extra.min(axis=(1, 2))


def _cheapest_first(distances: np.ndarray) -> Iterator[int]:
    """The numbers of all tuples by their sum of distances ``[M, K]``, each once.

    A walk over a heap: a tuple has at most three successors, none cheaper than itself (Lawler's scheme, with books
    ordered by the gap between their two nearest codewords, so that going on to the next book never gets cheaper).
    """
    books, words = distances.shape
    nearest = np.argsort(distances, axis=1, kind="stable")
    ranked = np.take_along_axis(distances, nearest, axis=1)
    order = np.argsort(ranked[:, 1] - ranked[:, 0], kind="stable").tolist() if words > 1 else range(books)
    extra = (ranked - ranked[:, :1])[order].tolist()
    places = _places(books, words)
    numbers = [[int(word) * places[book] for word in nearest[book]] for book in order]
    best = sum(row[0] for row in numbers)
    yield best
    if words == 1:
        return
    # A state: cost, number, the last ordered book that left its nearest word, and how far it went.
    heap = [(extra[0][1], best + numbers[0][1] - numbers[0][0], 0, 1)]
    while heap:
        cost, number, book, rank = heapq.heappop(heap)
        yield number
        costs, own = extra[book], numbers[book]
        if rank + 1 < words:
            state = (cost + costs[rank + 1] - costs[rank], number + own[rank + 1] - own[rank], book, rank + 1)
            heapq.heappush(heap, state)
        if book + 1 < books:
            on_cost, on_number = cost + extra[book + 1][1], number + numbers[book + 1][1] - numbers[book + 1][0]
            heapq.heappush(heap, (on_cost, on_number, book + 1, 1))
            if rank == 1:
                heapq.heappush(heap, (on_cost - costs[1], on_number + own[0] - own[1], book + 1, 1))
