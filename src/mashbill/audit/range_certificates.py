"""Proofs of ranges: that of a softmax of scores in a range, and that of scales multiplied, ordered and guarded.

The formulas are this file's own, so that they can disagree with the library's.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.weights.evidence import Declared, WeightOperator

CLOSE = 1e-9
_MOST_ARRANGEMENTS = 50_000


def structure_of(operator: WeightOperator, n_teachers: int) -> Numbers | None:
    """Return how a composition says that it is put together, or None if it says nothing.

    ``parts`` with ``lowest``, ``highest``, ``score_lipschitz`` and ``temperature`` each; ``bounds``, ``guard``,
    ``ordered`` and ``normalised``.
    """
    tell: Callable[[int], Numbers] | None = getattr(operator, "structure", None)
    return None if tell is None else tell(n_teachers)


def valid(certificate: Certificate) -> Certificate | None:
    """Return a certificate only if it passes its own check: an operator's claim may be wrong."""
    return certificate if certificate.recheck() else None


def certify_range(operator: WeightOperator, promise: Declared, sizes: Sequence[int]) -> Certificate | None:
    """Return the proof that weights keep a lower bound above 0 and the declared range, if there is one."""
    if structure_of(operator, sizes[0]) is not None:
        return _certify_composed(operator, sizes)
    cases = [_softmax_case(operator, n) for n in sizes]
    if any(case is None for case in cases):
        return None
    spread = cases[-1]["spread"]  # pyright: ignore[reportOptionalSubscript]
    claim = f"weights within [{promise.lowest:.6g}, {promise.highest:.6g}] for {sizes[-1]} teachers"
    premise = f"a softmax of scores that differ by at most R = {spread:.6g}, as is declared ({promise.source})"
    return valid(Certificate("closed-form range", claim, premise, {"cases": cases}))


def _softmax_case(operator: WeightOperator, n_teachers: int) -> Numbers | None:
    promise = operator.declared(n_teachers)  # pyright: ignore[reportAttributeAccessIssue]
    if not 0 < promise.lowest < 1:
        return None
    spread = math.log((1 - promise.lowest) / (promise.lowest * (n_teachers - 1)))
    return {"n_teachers": n_teachers, "spread": spread, "lowest": promise.lowest, "highest": promise.highest}


@rechecks("closed-form range")
def _recheck_softmax(numbers: Numbers) -> bool:
    """``1/(1 + (K-1) e^R)`` and ``1/(1 + (K-1) e^-R)`` with one ``R`` for all ``K``."""
    cases = numbers["cases"]
    spreads = [case["spread"] for case in cases]
    return max(spreads) - min(spreads) < 1e-6 and all(
        abs(case["lowest"] - 1 / (1 + (case["n_teachers"] - 1) * math.exp(case["spread"]))) < CLOSE
        and abs(case["highest"] - 1 / (1 + (case["n_teachers"] - 1) * math.exp(-case["spread"]))) < CLOSE
        for case in cases
    )


def _certify_composed(operator: WeightOperator, sizes: Sequence[int]) -> Certificate | None:
    cases = []
    for n_teachers in sizes:
        promise, structure = operator.declared(n_teachers), structure_of(operator, n_teachers)  # pyright: ignore[reportAttributeAccessIssue]
        assert structure is not None, "the caller looked"
        parts = [
            dict(zip(("lowest", "highest"), _effective(n_teachers, part["lowest"], part["highest"]), strict=True))
            | {"temperature": part["temperature"]}
            for part in structure["parts"]
        ]
        reached = _product_range(parts, n_teachers)
        box = None if structure["bounds"] is None else list(_effective(n_teachers, *structure["bounds"]))
        finish = {"bounds": box, "guard": structure["guard"], "ordered": structure["ordered"]}
        finish["room"] = room_of(n_teachers, box) if box else None
        claimed = {"product": list(reached), "lowest": promise.lowest, "highest": promise.highest}
        cases.append({"n_teachers": n_teachers, "parts": parts, **finish, **claimed})
    last = cases[-1]
    claim = f"weights within [{last['lowest']:.6g}, {last['highest']:.6g}] for {last['n_teachers']} teachers"
    premise = "scales are multiplied, ordered and guarded as the structure says; each keeps its own declared range"
    found = Certificate("composed range", claim, premise, {"cases": cases})
    return valid(found) if all(case["lowest"] > 0 for case in cases) else None


@rechecks("composed range")
def _recheck_composed(numbers: Numbers) -> bool:
    return all(_range_holds(case) for case in numbers["cases"])


def _range_holds(case: Numbers) -> bool:
    """Hold a claimed range against the one that follows; a claim may be wider only by rounding."""
    n, low, high = case["n_teachers"], case["lowest"], case["highest"]
    boxes = [(part["lowest"], part["highest"]) for part in case["parts"]]
    if any(not _is_effective(n, box) for box in [*boxes, *([case["bounds"]] if case["bounds"] else [])]):
        return False
    product_low, product_high = _product_range(case["parts"], n)
    if max(abs(product_low - case["product"][0]), abs(product_high - case["product"][1])) > CLOSE:
        return False
    if case["ordered"] and case["guard"] == "kl":
        # Block means of logs; those of weights, which the other guards take, stay in the range.
        product_high = 1 - (n - 1) * product_low
    if case["bounds"] is None:
        expected = (product_low, product_high)
    else:
        w_min, w_max = case["bounds"]
        rho = shrinking(n, case["bounds"], case["room"])
        if n * w_min > 1 + CLOSE or n * w_max < 1 - CLOSE:
            return False
        expected = _effective(n, w_min, w_max)
        if case["guard"] == "squash":
            expected = ((1 - rho) / n + rho * product_low, (1 - rho) / n + rho * product_high)
        else:
            expected = _effective(n, max(expected[0], product_low), min(expected[1], product_high))
    return abs(low - expected[0]) < CLOSE and abs(high - expected[1]) < CLOSE


def room_of(n: int, box: Sequence[float]) -> list[float]:
    """Return how much of the way from uniform each bound allows; the lesser is what weights are shrunk by."""
    return [1 - n * box[0], (n * box[1] - 1) / (n - 1) if n > 1 else 0.0]


def shrinking(n: int, box: Sequence[float], room: Sequence[float]) -> float:
    """Return the factor of the guard that shrinks, if the box is one and the stored room is its."""
    if not 0 <= box[0] <= 1 / n + CLOSE or not 1 / n - CLOSE <= box[1] <= 1:
        raise ValueError("no weights are within the bounds")
    if max(abs(a - b) for a, b in zip(room, room_of(n, box), strict=True)) > CLOSE:
        raise ValueError("the room is not that of the bounds")
    return min(room)


def _effective(n: int, low: float, high: float) -> tuple[float, float]:
    return min(max(low, 1 - (n - 1) * high), 1 / n), max(min(high, 1 - (n - 1) * low), 1 / n)


def _is_effective(n: int, box: Sequence[float]) -> bool:
    """Whether both ends of a box can be reached by weights that sum to 1, so that each of them counts."""
    return max(abs(a - b) for a, b in zip(box, _effective(n, box[0], box[1]), strict=True)) < CLOSE


def _product_range(parts: Sequence[Mapping[str, float]], n: int) -> tuple[float, float]:
    """Return the range of the normalised product by looking at every arrangement of the boxes' vertices.

    Not the library's formula: all vertices of every box, one teacher at the extreme, the others in any order. With
    temperatures, the bound is the ratio's.

    Raises:
        ValueError: There are too many arrangements to look at.
    """
    if not parts or n == 1:
        return 1 / n, 1 / n
    boxes = [_effective(n, part["lowest"], part["highest"]) for part in parts]
    if any(part["temperature"] != 1 for part in parts):
        return _tempered_range(parts, n)
    lows, highs = math.prod(low for low, _ in boxes), math.prod(high for _, high in boxes)
    rests_low = [_vertex(n - 1, 1 - low, (low, high)) for low, high in boxes]
    rests_high = [_vertex(n - 1, 1 - high, (low, high)) for low, high in boxes]
    return lows / (lows + _extreme_sum(rests_low, max)), highs / (highs + _extreme_sum(rests_high, min))


def _tempered_range(parts: Sequence[Mapping[str, float]], n: int) -> tuple[float, float]:
    ratio = math.prod((part["lowest"] / part["highest"]) ** (1 / part["temperature"]) for part in parts)
    low, high = ratio / (ratio + (n - 1)), 1 / (1 + (n - 1) * ratio)
    total = sum(1 / part["temperature"] for part in parts)
    if total <= 1:
        low = max(low, math.prod(part["lowest"] ** (1 / part["temperature"]) for part in parts) * n ** (total - 1))
    return low, min(high, 1 - (n - 1) * low)


def _vertex(n: int, total: float, box: tuple[float, float]) -> list[float]:
    left, entries = total - n * box[0], []
    for _ in range(n):
        step = min(max(left, 0.0), box[1] - box[0])
        entries.append(box[0] + step)
        left -= step
    return entries


def _extreme_sum(rests: Sequence[Sequence[float]], pick: Callable[[Any], float]) -> float:
    first, *others = rests
    if math.prod(_n_arrangements(rest) for rest in others) > _MOST_ARRANGEMENTS:
        raise ValueError("too many arrangements of so many teachers to look at")
    arrangements = itertools.product(*(_arranged(rest) for rest in others))
    return pick(sum(math.prod(column) for column in zip(first, *arranged, strict=True)) for arranged in arrangements)


def _n_arrangements(rest: Sequence[float]) -> int:
    """Return how many orders a vertex has: some entries at the top, at most one between, the others below."""
    counts = [sum(1 for x in rest if x == value) for value in dict.fromkeys(rest)]
    return math.factorial(len(rest)) // math.prod(math.factorial(count) for count in counts)


def _arranged(rest: Sequence[float]) -> Iterator[tuple[float, ...]]:
    """Yield each order once."""
    if not rest:
        yield ()
    for value in dict.fromkeys(rest):
        at = rest.index(value)
        for others in _arranged([*rest[:at], *rest[at + 1 :]]):
            yield (value, *others)
