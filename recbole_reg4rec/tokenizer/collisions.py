"""Makes the tuples of tokens unique, so that no two items are indistinguishable (docs/method.md, 1, our choice)."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# Of a tuple's number, those of one token.
_BITS = 32
_WORD = (1 << _BITS) - 1
# Items whose distances to all codewords are held at a time, and codewords near each that are kept.
_AT_ONCE, _NEAR = 64, 4


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
    codes: np.ndarray,
    distances: Callable[[np.ndarray], np.ndarray],
    last: np.ndarray | None = None,
    alike: Callable[[np.ndarray], np.ndarray] | None = None,
    around: Callable[[np.ndarray], Nearest] | None = None,
) -> Resolved:
    """Moves the cheaper items of every collision to the free tuple that costs least.

    Of the items sharing a tuple the one that would be hardest to move stays. The others, cheapest first, take the
    free tuple with the smallest sum of distances, whichever and however many tokens that changes.

    Args:
        codes: int64 ``[N, M]``, assigned tokens.
        distances: for items ``[n]`` their squared distances to every codeword, float32 ``[n, M, K]``; asked only for
            items that collide, few at a time, and once for those that are alike.
        last: bool ``[N]``, items that may only take what all others leave.
        alike: for items ``[n]`` a number each, int64 ``[n]``, equal where their distances are; all differ without.
        around: for tuples ``[n, M]`` the words near them, each book's own word first; in place of ``distances``, which
            are then asked for only where these do not do. Items that share a tuple are all alike.
    """
    codes = codes.copy()
    last = np.zeros(len(codes), dtype=bool) if last is None else last
    taken: set[int] = set()
    moved = unresolved = 0
    for members in (np.flatnonzero(~last), np.flatnonzero(last)):
        walked = -1
        walk: Iterator[int] = iter(())
        for item, model, near in _losers(codes, members, distances, alike, taken, around):
            # Items that are alike walk through the same tuples, so they share one walk; they come one after the other.
            if model != walked:
                walked, walk = model, _walk(model, near, distances)
            free = next((number for number in walk if number not in taken), None)
            if free is None:
                unresolved += 1
                continue
            taken.add(free)
            codes[item] = [free >> place & _WORD for place in _places(codes.shape[1])]
            moved += 1
    return Resolved(codes=codes, moved=moved, unresolved=unresolved)


def _places(books: int) -> list[int]:
    """By how many bits the number of a tuple is shifted in each codebook; Python's integers do not overflow."""
    return [_BITS * book for book in range(books)]


def _numbers(codes: np.ndarray) -> list[int]:
    """A number for each tuple, ``[n, M]``, see `_places`."""
    content, width = codes.astype("<u4").tobytes(), codes.shape[1] * _BITS // 8
    return [int.from_bytes(content[at : at + width], "little") for at in range(0, len(content), width)]


def _losers(
    codes: np.ndarray,
    members: np.ndarray,
    distances: Callable[[np.ndarray], np.ndarray],
    alike: Callable[[np.ndarray], np.ndarray] | None,
    taken: set[int],
    around: Callable[[np.ndarray], Nearest] | None,
) -> Iterator[tuple[int, int, Nearest]]:
    """Items that must move, the cheapest to move first; all others become taken.

    With each comes the first that is alike and what is near it.
    """
    numbers = _numbers(codes[members])
    groups: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(numbers):
        groups[number].append(place)
    crowded = {number: group for number, group in groups.items() if len(group) > 1 or number in taken}
    waiting: list[tuple[float, int, int, int]] = []
    near = Nearest(np.zeros((0, 0, 0), np.int64), np.zeros((0, 0, 0)), whole=True)
    if crowded:
        items = members[np.array([place for group in crowded.values() for place in group])]
        if around is not None:
            numbered = np.zeros(len(items), dtype=np.int64)
        else:
            numbered = items if alike is None else alike(items)
        models = _models(codes[items], numbered)
        distinct, kinds = np.unique(models, return_inverse=True)
        if around is not None:
            near = around(codes[items[distinct]])
            cost = (near.distances[..., 1] - near.distances[..., 0]).min(axis=1).astype(np.float64)
        else:
            cost, near = _look_around(codes, items[distinct], distances)
        entries = iter(zip(cost[kinds].tolist(), items[models].tolist(), items.tolist(), kinds.tolist(), strict=True))
        for number, group in crowded.items():
            # Whoever would be hardest to move stays, unless others have the place already.
            ordered = sorted((next(entries) for _ in group), key=lambda entry: (entry[0], entry[2]))
            waiting.extend(ordered if number in taken else ordered[:-1])
    taken.update(numbers)
    return ((item, model, near[kind]) for _, model, item, kind in sorted(waiting))


def _look_around(
    codes: np.ndarray, items: np.ndarray, distances: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, Nearest]:
    """What the cheapest change of one token costs items ``[n]``, float64 ``[n]``, and the words near each."""
    parts = []
    for part in np.split(items, range(_AT_ONCE, len(items), _AT_ONCE)):
        table = np.array(distances(part))
        parts.append((nearest(table, _NEAR), _cheapest_moves(codes[part], table)))
    near = Nearest(
        np.concatenate([found.words for found, _ in parts]),
        np.concatenate([found.distances for found, _ in parts]),
        parts[0][0].whole,
    )
    return np.concatenate([cost for _, cost in parts]), near


def _models(codes: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """For each of ``n`` items the place of the first with the same tuple and the same number, int64 ``[n]``."""
    _, first, inverse = np.unique(
        np.concatenate([alike[:, None], codes], axis=1), axis=0, return_index=True, return_inverse=True
    )
    return first[inverse.reshape(-1)]


def _cheapest_moves(codes: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """What the cheapest change of one token costs each item, float64 ``[n]``; infinite where there is one codeword.

    ``distances`` float32 ``[n, M, K]`` are lost.
    """
    own = np.take_along_axis(distances, codes[:, :, None], axis=2)[..., 0].astype(np.float64)
    np.put_along_axis(distances, codes[:, :, None], np.inf, axis=2)
    cost: np.ndarray = (distances.min(axis=2) - own).min(axis=1)
    return cost


@dataclass(frozen=True)
class Nearest:
    """Codewords by their distance, ``R`` of them: int64 and float32 ``[..., M, R]``; ``whole``: that is all."""

    words: np.ndarray
    distances: np.ndarray
    whole: bool

    def __getitem__(self, item: int) -> Nearest:
        return Nearest(self.words[item], self.distances[item], self.whole)


def nearest(distances: np.ndarray, count: int) -> Nearest:
    """The ``count`` codewords next to each item, the next one first; float32 ``[..., M, K]``."""
    words = distances.shape[-1]
    if count < words:
        # Ascending, so that of equal ones the first stays first.
        few = np.sort(np.argpartition(distances, count - 1, axis=-1)[..., :count], axis=-1)
        found = np.take_along_axis(distances, few, axis=-1)
        order = np.argsort(found, axis=-1, kind="stable")
        return Nearest(np.take_along_axis(few, order, axis=-1), np.take_along_axis(found, order, axis=-1), whole=False)
    order = np.argsort(distances, axis=-1, kind="stable")
    return Nearest(order, np.take_along_axis(distances, order, axis=-1), whole=True)


def _walk(model: int, near: Nearest, distances: Callable[[np.ndarray], np.ndarray]) -> Iterator[int]:
    """The numbers of all tuples by their sum of distances; those of words near by first, which mostly do."""
    yield from _cheapest_first(near)
    if not near.whole:
        # Once more from the beginning: what came before is taken.
        table = np.asarray(distances(np.array([model]))[0])
        yield from _cheapest_first(nearest(table, table.shape[1]))


def _cheapest_first(near: Nearest) -> Iterator[int]:
    """The numbers of all tuples by their sum of distances, each once; ends where words that are not near are needed.

    A walk over a heap: a tuple has at most three successors, none cheaper than itself (Lawler's scheme, with books
    ordered by the gap between their two nearest codewords, so that going on to the next book never gets cheaper).
    """
    ranked = near.distances.astype(np.float64)
    books, words = ranked.shape
    order = np.argsort(ranked[:, 1] - ranked[:, 0], kind="stable").tolist() if words > 1 else range(books)
    extra = (ranked - ranked[:, :1])[order].tolist()
    places = _places(books)
    numbers = [[int(word) << places[book] for word in near.words[book]] for book in order]
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
        elif not near.whole:
            return
        if book + 1 < books:
            on_cost, on_number = cost + extra[book + 1][1], number + numbers[book + 1][1] - numbers[book + 1][0]
            heapq.heappush(heap, (on_cost, on_number, book + 1, 1))
            if rank == 1:
                heapq.heappush(heap, (on_cost - costs[1], on_number + own[0] - own[1], book + 1, 1))
