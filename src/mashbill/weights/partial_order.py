"""Partial orders of teachers by safety: what follows from pairs, and what becomes of orders that contradict each other.

Plain numbers, no tensors; :mod:`mashbill.weights.order` enforces these orders.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from mashbill.weights.isotonic import Part, parts_of
from mashbill.weights.shares import Number

Pairs = Iterable[tuple[int, int]]


@dataclass(frozen=True)
class SafetyOrder:
    """A partial order of teachers by safety, of any shape.

    Attributes:
        n_teachers: ``K``.
        pairs: ``(safer, less safe)`` teacher indices; pairs that follow from others may be left out.
        ties: Groups of teachers that must count alike; groups that share a teacher are one. Without them, teachers
            that no pair compares impose nothing on each other.
        closure: Every pair that follows from ``pairs`` and ``ties``, sorted; the ties themselves are not in it.

    Raises:
        ValueError: An index is not a teacher's, or the pairs contain a cycle; :func:`merge` collapses cycles.

    >>> SafetyOrder(3, ((0, 1), (1, 2))).closure
    ((0, 1), (0, 2), (1, 2))
    >>> SafetyOrder(4, ((0, 1),), ties=((1, 3),)).closure
    ((0, 1), (0, 3))
    """

    n_teachers: int
    pairs: tuple[tuple[int, int], ...]
    ties: tuple[tuple[int, ...], ...] = ()
    closure: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    _groups: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    _parts: tuple[Part, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pairs = tuple((int(safer), int(less)) for safer, less in self.pairs)
        ties = tuple(tuple(int(index) for index in group) for group in self.ties)
        for name, given in (("pairs", pairs), ("ties", ties)):
            _require_teachers(given, self.n_teachers, argument=name)
        groups = _components(self.n_teachers, [(group[0], other) for group in ties for other in group[1:]], both=True)
        group_of = {k: n for n, group in enumerate(groups) for k in group}
        for safer, less in pairs:
            if safer != less and group_of[safer] == group_of[less]:
                raise ValueError(f"pairs contain ({safer}, {less}), but ties make them equal; remove one of the two")
        names = [group[0] for group in groups]
        closure = _transitive_closure(names, [(group_of[i], group_of[j]) for i, j in pairs])
        expanded = ((i, j) for high, low in closure for i in groups[high] for j in groups[low])
        object.__setattr__(self, "pairs", pairs)
        object.__setattr__(self, "ties", ties)
        object.__setattr__(self, "closure", tuple(sorted(expanded)))
        object.__setattr__(self, "_groups", groups)
        object.__setattr__(self, "_parts", parts_of(len(groups), closure))

    @classmethod
    def from_scores(cls, scores: Sequence[Number]) -> "SafetyOrder":
        """Order teachers by score, higher is safer; equal scores impose nothing.

        >>> SafetyOrder.from_scores([0.9, 0.5, 0.5]).pairs
        ((0, 1), (0, 2))
        """
        values = [float(score) for score in scores]
        if any(math.isnan(value) for value in values):
            raise ValueError(f"scores={values!r} must be numbers; leave a teacher without a score out of the order")
        pairs = [(i, j) for i, a in enumerate(values) for j, b in enumerate(values) if a > b]
        return cls(len(values), tuple(pairs))

    def copeland(self) -> tuple[int, ...]:
        """Return for each teacher how many are certainly less safe minus how many are certainly safer."""
        score = [0] * self.n_teachers
        for safer, less in self.closure:
            score[safer] += 1
            score[less] -= 1
        return tuple(score)


@lru_cache(maxsize=1024)
def order_of(n_teachers: int, pairs: tuple[tuple[int, int], ...]) -> SafetyOrder:
    """Return ``SafetyOrder(n_teachers, pairs)``, built once for each set of pairs."""
    return SafetyOrder(n_teachers, pairs)


@dataclass(frozen=True)
class Conflict:
    """A pair that other pairs contradict.

    Attributes:
        pair: ``(safer, less safe)``.
        stated_by: Which of the merged orders state it, by their position.
        cycle: The shortest contradiction, from the safer teacher through the pair back to it; ``(0, 1, 0)`` if
            somebody states the opposite.
    """

    pair: tuple[int, int]
    stated_by: tuple[int, ...]
    cycle: tuple[int, ...]


@dataclass(frozen=True)
class Merged:
    """What :func:`merge` returns.

    Attributes:
        order: All pairs that no cycle contradicts, with each component tied.
        components: Teachers that cycles make equal (strongly connected components of two or more), sorted.
        conflicts: The pairs inside components, sorted.
    """

    order: SafetyOrder
    components: tuple[tuple[int, ...], ...]
    conflicts: tuple[Conflict, ...]

    def report(self, teachers: Sequence[str] | None = None, *, sources: Sequence[str] | None = None) -> str:
        """Say in lines what contradicts what; empty if nothing does.

        Args:
            teachers: Names of the teachers; their numbers if None.
            sources: Names of the merged orders, such as ``("token", "context")``.
        """
        name = [str(k) for k in range(self.order.n_teachers)] if teachers is None else teachers
        lines = [f"must count alike: {', '.join(name[k] for k in group)}" for group in self.components]
        for conflict in self.conflicts:
            who = ", ".join(str(n) if sources is None else sources[n] for n in conflict.stated_by)
            cycle = " > ".join(name[k] for k in conflict.cycle)
            lines.append(f"{name[conflict.pair[0]]} > {name[conflict.pair[1]]} (stated by {who}) is part of {cycle}")
        return "\n".join(lines)


def merge(*orders: SafetyOrder | Pairs, n_teachers: int | None = None) -> Merged:
    """Unite several orders, such as those of tokens, of contexts and a certified one, and collapse what conflicts.

    All pairs hold together. On a cycle no weights but equal ones respect all of them, so the teachers of each strongly
    connected component are tied; pairs between components are kept. Orders without a conflict are united unchanged.

    Args:
        orders: Orders, or lists of pairs ``(safer, less safe)``.
        n_teachers: ``K``; needed if no :class:`SafetyOrder` says it.

    Raises:
        ValueError: ``K`` is unknown or not the same everywhere, or an index is not a teacher's.

    Source:
        arXiv 2601.17910, Axioms III.5 and III.22, which do not say what holds where they contradict each other.

    >>> merged = merge([(0, 1)], [(1, 0), (1, 2)], n_teachers=3)
    >>> merged.components, merged.order.closure
    (((0, 1),), ((0, 2), (1, 2)))
    >>> print(merged.report(["a", "b", "c"], sources=["token", "context"]))
    must count alike: a, b
    a > b (stated by token) is part of a > b > a
    b > a (stated by context) is part of b > a > b
    """
    known = {order.n_teachers for order in orders if isinstance(order, SafetyOrder)}
    known |= set() if n_teachers is None else {n_teachers}
    if len(known) != 1:
        raise ValueError(
            f"n_teachers={n_teachers!r} with orders of {sorted(known)} teachers: all must be of the same number; "
            "give n_teachers where orders are lists of pairs"
        )
    (count,) = known
    stated: dict[tuple[int, int], list[int]] = {}
    tied: list[tuple[int, int]] = []
    for n, order in enumerate(orders):
        if isinstance(order, SafetyOrder):
            tied += [edge for group in order.ties for i, j in itertools.pairwise(group) for edge in _ways(i, j)]
        pairs = order.pairs if isinstance(order, SafetyOrder) else tuple((int(i), int(j)) for i, j in order)
        _require_teachers(pairs, count, argument=f"orders[{n}]")
        for pair in dict.fromkeys(pairs):
            stated.setdefault(pair, []).append(n)
    edges = [*stated, *tied]
    components = _components(count, edges)
    place = {k: n for n, group in enumerate(components) for k in group}
    conflicts = [pair for pair in sorted(stated) if place[pair[0]] == place[pair[1]]]
    order = SafetyOrder(
        count,
        tuple(pair for pair in sorted(stated) if place[pair[0]] != place[pair[1]]),
        tuple(group for group in components if len(group) > 1),
    )
    return Merged(
        order,
        order.ties,
        tuple(Conflict((i, j), tuple(stated[i, j]), (i, *_shortest_way(j, i, edges))) for i, j in conflicts),
    )


def _ways(i: int, j: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (i, j), (j, i)


def _require_teachers(groups: Iterable[tuple[int, ...]], n_teachers: int, *, argument: str) -> None:
    for group in groups:
        if not all(0 <= index < n_teachers for index in group):
            raise ValueError(f"{argument} contain {group}, but teachers are numbered 0 to {n_teachers - 1}")


def _components(n: int, edges: Sequence[tuple[int, int]], *, both: bool = False) -> tuple[tuple[int, ...], ...]:
    """Return the strongly connected components, each sorted, in the order of their first member."""
    reach = [1 << k for k in range(n)]
    for i, j in edges:
        reach[i] |= 1 << j
        if both:
            reach[j] |= 1 << i
    for middle in range(n):
        for i in range(n):
            if reach[i] >> middle & 1:
                reach[i] |= reach[middle]
    alike = {tuple(j for j in range(n) if reach[i] >> j & 1 and reach[j] >> i & 1) for i in range(n)}
    return tuple(sorted(alike))


def _shortest_way(start: int, end: int, edges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return the teachers on a shortest way along edges, both ends included."""
    came_from: dict[int, int | None] = {start: None}
    queue = deque([start])
    while end not in came_from:
        here = queue.popleft()
        for i, j in edges:
            if i == here and j not in came_from:
                came_from[j] = here
                queue.append(j)
    way: list[int] = []
    step: int | None = end
    while step is not None:
        way.append(step)
        step = came_from[step]
    return tuple(way[::-1])


def _transitive_closure(names: Sequence[int], pairs: Pairs) -> tuple[tuple[int, int], ...]:
    """Return every pair that follows, sorted; ``names`` are those of the elements, for the message.

    Raises:
        ValueError: Names a cycle.
    """
    path: dict[tuple[int, int], tuple[int, ...]] = {(i, j): (i, j) for i, j in pairs}
    for middle in range(len(names)):
        heads = [(i, path[i, j]) for i, j in path if j == middle]
        tails = [(j, path[i, j]) for i, j in path if i == middle]
        for i, head in heads:
            for j, tail in tails:
                path.setdefault((i, j), head + tail[1:])
    for (i, j), way in path.items():
        if i == j:
            cycle = " > ".join(str(names[k]) for k in way)
            raise ValueError(f"pairs contain the cycle {cycle}; remove one of its pairs, or collapse it: order.merge")
    return tuple(sorted(path))
