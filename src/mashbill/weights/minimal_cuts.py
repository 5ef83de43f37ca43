"""Isotonic fit of one row to any partial order, by recursive minimal cuts. Plain numbers and bit sets, no tensors.

A block with mean ``m`` splits if some upper set of it has a mean above ``m``. The upper set ``U`` that maximises
``sum_U w_i (v_i - m)`` is then above and the rest below in the optimum, and each is fitted by itself. To find it is a
maximum closure problem, hence a minimal cut; as the order is transitive, the network is bipartite, from what lies above
the mean to what lies below it and is safer. A block of ``n`` teachers needs at most ``2 n - 1`` cuts.

Sets of elements are integers, bit ``i`` for element ``i``.

Source:
    Spouge, Wan & Wilbur, *Least squares isotonic regression in two dimensions*, J. Optim. Theory Appl. 117, 2003;
    Luss, Rosset & Shahar, *Decomposing isotonic regression for efficiently solving large problems*, NeurIPS 2010.
"""

import itertools
import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence

_ROUNDING = 8 * sys.float_info.epsilon


def blocks(values: Sequence[float], weights: Sequence[float], safer: Sequence[int]) -> list[int]:
    """Return the sets of elements that share one value in the least-squares fit, weighted means of their values.

    Args:
        values: What is fitted.
        weights: Positive weight of each element.
        safer: For each element the set of all that must not be below it (transitively closed).

    Returns:
        Disjoint sets whose union is everything.

    >>> [bin(one) for one in blocks([0.0, 1.0, 3.0], [1.0, 1.0, 1.0], safer=[0b000, 0b001, 0b000])]
    ['0b11', '0b100']
    """
    related = list(safer)
    for i, above in enumerate(safer):
        for j in _bits(above):
            related[j] |= 1 << i
    found, waiting = [], [(1 << len(values)) - 1]
    while waiting:
        block = waiting.pop()
        part = _connected(block, related)
        if part != block:
            waiting += [block ^ part, part]
            continue
        if part & (part - 1) == 0:
            found.append(part)
            continue
        if all(values[i] <= values[j] for i in _bits(part) for j in _bits(safer[i] & part)):
            found += [1 << i for i in _bits(part)]
            continue
        mean = block_mean(part, values, weights)
        upper = _best_upper_set(part, {i: weights[i] * (values[i] - mean) for i in _bits(part)}, safer)
        if upper in (0, part):
            found.append(part)
        else:
            waiting += [part ^ upper, upper]
    return found


def fit_row(values: Sequence[float], weights: Sequence[float], safer: Sequence[int]) -> tuple[list[float], list[int]]:
    """Return the least-squares fit, which respects the order to the last bit, and the number of each element's block.

    Arguments as :func:`blocks`.

    >>> fit_row([0.0, 1.0, 3.0], [1.0, 1.0, 1.0], safer=[0b000, 0b001, 0b000])
    ([0.5, 0.5, 3.0], [0, 0, 1])
    """
    fitted, number = [0.0] * len(values), [0] * len(values)
    for n, block in enumerate(blocks(values, weights, safer)):
        mean = block_mean(block, values, weights)
        for i in _bits(block):
            fitted[i], number[i] = mean, n
    # Means of neighbouring blocks may have met by rounding; nothing may be above what is safer.
    return [min([x, *(fitted[j] for j in _bits(safer[i]))]) for i, x in enumerate(fitted)], number


def block_mean(block: int, values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean of a set; that of equal numbers is that number."""
    members = list(_bits(block))
    first = values[members[0]]
    return first + math.fsum(weights[i] * (values[i] - first) for i in members) / math.fsum(weights[i] for i in members)


def _bits(elements: int) -> Iterator[int]:
    while elements:
        lowest = elements & -elements
        yield lowest.bit_length() - 1
        elements ^= lowest


def _connected(block: int, related: Sequence[int]) -> int:
    """Return the part of a block that is connected with its first element."""
    part = reached = block & -block
    while reached:
        following = 0
        for i in _bits(reached):
            following |= related[i]
        reached = following & block & ~part
        part |= reached
    return part


def _best_upper_set(block: int, gain: dict[int, float], safer: Sequence[int]) -> int:
    """Return the upper set of largest total gain, or the empty set if none has more than rounding."""
    supply = {i: g for i, g in gain.items() if g > 0}
    demand = {i: -g for i, g in gain.items() if g < 0}
    below_mean = sum(1 << i for i in demand)
    reach = {i: safer[i] & below_mean for i in supply}
    sent: dict[int, dict[int, float]] = {j: {} for j in demand}
    for i, reachable in reach.items():
        for j in _bits(reachable):
            _send(min(supply[i], demand[j]), [(i, j)], supply, demand, sent)
    negligible = _ROUNDING * math.fsum(map(abs, gain.values()))
    while True:
        came_from, path = _search([i for i, left in supply.items() if left > negligible], reach, demand, sent)
        if not path:
            break
        (source, _), *_ = path
        back = [sent[j][i] for (_, j), (i, _) in itertools.pairwise(path)]
        _send(min(supply[source], demand[path[-1][1]], *back), path, supply, demand, sent)
    if math.fsum(supply.values()) <= negligible:
        return 0
    upper = 0
    for i in came_from:
        upper |= (1 << i) | (safer[i] & block)
    return upper


def _search(
    sources: list[int], reach: dict[int, int], demand: dict[int, float], sent: dict[int, dict[int, float]]
) -> tuple[dict[int, int | None], list[tuple[int, int]]]:
    """Search breadth first for a way to send more.

    Returns:
        The suppliers reached, each with the receiver that it was reached from, and the way as (supplier, receiver)
        pairs; on the way, each receiver sends back what the next pair's supplier had sent it. Empty if there is none.
    """
    came_from: dict[int, int | None] = dict.fromkeys(sources)
    sender: dict[int, int] = {}
    seen, queue = 0, deque(sources)
    while queue:
        i = queue.popleft()
        for j in _bits(reach[i] & ~seen):
            seen |= 1 << j
            sender[j] = i
            if demand[j] > 0:
                path: list[tuple[int, int]] = []
                receiver: int | None = j
                while receiver is not None:
                    path.append((sender[receiver], receiver))
                    receiver = came_from[sender[receiver]]
                return came_from, path[::-1]
            for other, amount in sent[j].items():
                if amount > 0 and other not in came_from:
                    came_from[other] = j
                    queue.append(other)
    return came_from, []


def _send(
    amount: float,
    path: list[tuple[int, int]],
    supply: dict[int, float],
    demand: dict[int, float],
    sent: dict[int, dict[int, float]],
) -> None:
    if amount <= 0:
        return
    supply[path[0][0]] -= amount
    demand[path[-1][1]] -= amount
    for place, (i, j) in enumerate(path):
        sent[j][i] = sent[j].get(i, 0.0) + amount
        if place + 1 < len(path):
            sent[j][path[place + 1][0]] -= amount
