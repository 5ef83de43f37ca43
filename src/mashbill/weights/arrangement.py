"""The least sum of products over rearrangements: ``min sum_j prod_s b_sj``, each ``b_s`` in any order. Plain numbers.

The entries of each scale are a vertex of a box simplex: some at the top, at most one in the middle, the rest low. In
the logarithm this is a balancing of loads, ``min sum_j exp(load_j)``, and an exchange decides who may stand together:

    Two places are stable if no swap of scales between them has a smaller sum. In an optimum all pairs are.

For scales that are all alike, the places without a middle entry then have tops that differ by at most one, and dynamic
programming over the few others is exact for any number of scales. Otherwise the types of places (sets of scales at the
top) that are pairwise stable form about ``S!`` maximal families of about ``S + 1`` types, whose numbers follow from
``K`` and from how many tops each scale has. ``S`` must be small: even with two places, this is number partitioning.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

_ALMOST_ZERO = 1e-40  # stands for 0 in ratios; its products vanish beside any other
_TIED = 1e-12


@dataclass(frozen=True)
class Entries:
    """One scale's entries: ``n_top`` times ``top``, ``middle`` once unless it is None, and ``low`` for the rest."""

    top: float
    n_top: int
    middle: float | None
    low: float

    @classmethod
    def of_vertex(cls, n: int, total: float, low: float, high: float) -> "Entries":
        """Return the vertex of ``{sum = total, low <= b <= high}`` in ``n`` dimensions."""
        room = high - low
        left = max(total - n * low, 0.0)
        n_top = min(n, int(left / room + _TIED)) if room > 0 else n
        rest = left - n_top * room
        return cls(high, n_top, low + rest if rest > _TIED * room and n_top < n else None, low)

    def descending(self, n: int) -> np.ndarray:
        """Return all ``n`` entries, largest first."""
        middle = [] if self.middle is None else [self.middle]
        return np.array([self.top] * self.n_top + middle + [self.low] * (n - self.n_top - len(middle)))


def least_sum(scales: Sequence[Entries], n: int) -> float:
    """Return the least ``sum_j prod_s b_sj`` over rearrangements of each scale's ``n`` entries, exactly."""
    varied = [b for b in scales if np.ptp(b.descending(n)) > 0]
    # A constant scale has nothing to arrange.
    factor = math.prod(float(b.descending(n)[0]) for b in scales if b not in varied)
    if not varied:
        return factor * n
    if len(varied) == 1:
        return factor * float(varied[0].descending(n).sum())
    positive = [Entries(b.top, b.n_top, b.middle, max(b.low, _ALMOST_ZERO * b.top)) for b in varied]
    if all(b == positive[0] for b in positive):
        return factor * _least_sum_alike(positive[0], len(positive), n)
    return factor * _Mixed(positive, n).least_sum()


def _least_sum_alike(one: Entries, n_scales: int, n: int) -> float:
    """Arrange ``n_scales`` equal scales.

    Any numbers of tops and middles at the places can be realised if none has more than ``n_scales`` entries: colour
    the edges of the bipartite graph of places and entries with the scales (König).
    """

    def cost(n_top: int, n_middle: int = 0) -> float:
        middle = 1.0 if one.middle is None else one.middle
        return one.top**n_top * middle**n_middle * one.low ** (n_scales - n_top - n_middle)

    # For each number of middles placed: (places used, tops used) -> least cost of the places with a middle entry.
    layers: list[dict[tuple[int, int], float]] = [{} for _ in range(n_scales + 1)]
    layers[0 if one.middle is not None else n_scales][0, 0] = 0.0
    for placed in range(n_scales):
        for n_middle in range(1, n_scales - placed + 1):
            into = layers[placed + n_middle]
            for n_top in range(n_scales - n_middle + 1):
                added = cost(n_top, n_middle)
                for (used, tops), so_far in layers[placed].items():
                    state = (used + 1, tops + n_top)
                    into[state] = min(into.get(state, math.inf), so_far + added)
    least = math.inf
    for (used, tops), so_far in layers[n_scales].items():
        places, left = n - used, n_scales * one.n_top - tops
        if 0 <= left <= n_scales * places:
            each, more = divmod(left, places) if places else (0, 0)
            least = min(least, so_far + (more * cost(each + 1) if more else 0.0) + (places - more) * cost(each))
    return least


@dataclass(frozen=True)
class _Mixed:
    """Scales that are not all alike; places are typed by the set of scales at the top, as bits."""

    scales: Sequence[Entries]
    n: int

    @cached_property
    def costs(self) -> list[float]:
        """Product at a place of each type."""
        return [
            math.prod(b.top if chosen >> s & 1 else b.low for s, b in enumerate(self.scales))
            for chosen in range(2 ** len(self.scales))
        ]

    def least_sum(self) -> float:
        """Combine every way to place the middle entries with every stable family for the rest."""
        with_middle = self._middles()
        # [1 + S, ways]: places and tops that are left for the places without a middle entry.
        tops = np.array([b.n_top for b in self.scales])
        left = np.array([(self.n - used, *(tops - spent)) for used, spent in with_middle]).T
        before = np.array(list(with_middle.values()))
        least = math.inf
        for types, fixed in dict.fromkeys(solution for family in self._families() for solution in self._solve(family)):
            needed = left - _columns(fixed, len(tops)).sum(axis=1, keepdims=True)
            columns = _columns(types, len(tops))
            counts = np.rint(np.linalg.pinv(columns) @ needed)
            fits = (counts >= 0).all(axis=0) & (columns @ counts == needed).all(axis=0)
            cost = before + np.array([self.costs[t] for t in types]) @ counts + sum(self.costs[t] for t in fixed)
            least = min(least, float(cost[fits].min(initial=math.inf)))
        return least

    def _middles(self) -> dict[tuple[int, tuple[int, ...]], float]:
        """Return the least cost of the places with a middle entry, for each (places, tops used by each scale)."""
        n_scales = len(self.scales)
        everyone = 2**n_scales - 1
        placed = sum(1 << s for s, b in enumerate(self.scales) if b.middle is None)
        layers: list[dict[tuple[int, tuple[int, ...]], float]] = [{} for _ in range(everyone + 1)]
        layers[placed][0, (0,) * n_scales] = 0.0
        for done in range(placed, everyone):
            lowest = ~done & (done + 1)
            for middles in (m for m in range(1, everyone + 1) if m & done == 0 and m & lowest):
                for chosen in (t for t in range(everyone + 1) if t & middles == 0):
                    cost = math.prod(self._entry(s, middles, chosen) for s in range(n_scales))
                    tops = [chosen >> s & 1 for s in range(n_scales)]
                    into = layers[done | middles]
                    for (used, spent), so_far in layers[done].items():
                        state = (used + 1, tuple(map(sum, zip(spent, tops, strict=True))))
                        if so_far + cost < into.get(state, math.inf):
                            into[state] = so_far + cost
        return layers[everyone]

    def _entry(self, scale: int, middles: int, chosen: int) -> float:
        b = self.scales[scale]
        if b.middle is not None and middles >> scale & 1:
            return b.middle
        return b.top if chosen >> scale & 1 else b.low

    def _families(self) -> Iterator[tuple[int, ...]]:
        """Yield the maximal families of pairwise stable types."""
        size = [math.log(b.top / b.low) for b in self.scales]
        # Infinitesimal and generic: makes one of equally good partitions the best, without changing the least sum.
        nudge = [math.sqrt(prime) for prime in itertools.islice(_primes(), len(size))]

        def imbalance(chosen: int, other: int) -> tuple[float, float]:
            signs = [(chosen >> s & 1) - (other >> s & 1) for s in range(len(size))]
            main = sum(sign * a for sign, a in zip(signs, size, strict=True))
            minor = sum(sign * e for sign, e in zip(signs, nudge, strict=True))
            if abs(main) <= _TIED * sum(size):
                return 0.0, abs(minor)
            return abs(main), math.copysign(minor, minor * main)

        def is_better(one: tuple[float, float], two: tuple[float, float]) -> bool:
            if abs(one[0] - two[0]) > _TIED * sum(size):
                return one[0] < two[0]
            return one[1] < two[1] - _TIED * sum(nudge)

        types = range(len(self.costs))
        best: list[tuple[float, float]] = []
        for union in types:
            each = [imbalance(part, union ^ part) for part in types if part & ~union == 0]
            found = each[0]
            for one in each:
                found = one if is_better(one, found) else found
            best.append(found)
        stable = [{d for d in types if d != c and not is_better(best[c ^ d], imbalance(c & ~d, d & ~c))} for c in types]
        yield from _cliques(stable, (), set(types), set())

    def _solve(self, family: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield sub-families whose numbers are determined, with the places of other types that go before.

        Along an affine dependency the sum changes linearly. Going down it until a number would be negative shows that
        some type on the way down stands at fewer places than its coefficient.
        """
        dependency = _dependency(_columns(family, len(self.scales)))
        if dependency is None:
            yield family, ()
            return
        slope = sum(d * self.costs[t] for d, t in zip(dependency, family, strict=True))
        falling = [-d if slope <= 0 else d for d in dependency]
        for place, amount in enumerate(falling):
            rest = family[:place] + family[place + 1 :]
            for number in range(amount):
                for types, fixed in self._solve(rest):
                    yield types, (family[place],) * number + fixed


def _columns(types: Sequence[int], n_scales: int) -> np.ndarray:
    """Return ``[1 + S, types]``: a place, and the tops that it takes of each scale."""
    return np.array([[1] * len(types), *([t >> s & 1 for t in types] for s in range(n_scales))], dtype=float)


def _dependency(columns: np.ndarray) -> list[int] | None:
    """Return integers, not all 0, with ``columns @ integers = 0``; None if the columns are independent."""
    n = columns.shape[1]
    # Rows of [columns' | identity], reduced over the rationals: a row that becomes 0 on the left is a dependency.
    reduced: list[tuple[int, list[Fraction]]] = []
    for i in range(n):
        row = [Fraction(int(x)) for x in columns[:, i]] + [Fraction(int(i == j)) for j in range(n)]
        for pivot, other in reduced:
            factor = row[pivot] / other[pivot]
            row = [x - factor * y for x, y in zip(row, other, strict=True)]
        pivot = next((p for p in range(len(columns)) if row[p] != 0), None)
        if pivot is None:
            weights = row[len(columns) :]
            common = math.lcm(*(x.denominator for x in weights))
            return [int(x * common) for x in weights]
        reduced.append((pivot, row))
    return None


def _cliques(
    near: Sequence[set[int]], chosen: tuple[int, ...], candidates: set[int], excluded: set[int]
) -> Iterator[tuple[int, ...]]:
    """Yield the maximal cliques of a graph (Bron & Kerbosch with a pivot)."""
    if not candidates and not excluded:
        yield tuple(sorted(chosen))
        return
    pivot = max(candidates | excluded, key=lambda c: len(near[c] & candidates))
    for one in sorted(candidates - near[pivot]):
        yield from _cliques(near, (*chosen, one), candidates & near[one], excluded & near[one])
        candidates, excluded = candidates - {one}, excluded | {one}


def _primes() -> Iterator[int]:
    return (n for n in itertools.count(2) if all(n % k for k in range(2, math.isqrt(n) + 1)))
