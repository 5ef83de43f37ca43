"""Proof objects for weight rules, and their verifiers, which compute everything again from the numbers alone.

What cannot be proved from outside is taken as a *premise* and said: that a rule's scores stay in the range that it
declares, or that an operator is put together the way its ``structure`` says. Everything that follows from the premise
is computed here, by formulas of this file's own, and held against what the operator claims.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.weights.evidence import Declared, WeightOperator, needs_of

OF_THE_STUDENT = frozenset({"divergence:student", "gram", "student_logprobs"})
_CLOSE = 1e-9


def structure_of(operator: WeightOperator, n_teachers: int) -> Numbers | None:
    """Return how a composition says that it is put together, or None if it says nothing.

    ``{"parts": [{"lowest", "highest", "score_lipschitz", "temperature"}], "bounds", "guard", "ordered"}``.
    """
    tell: Callable[[int], Numbers] | None = getattr(operator, "structure", None)
    return None if tell is None else tell(n_teachers)


# Ranges


def certify_range(operator: WeightOperator, promise: Declared, sizes: Sequence[int]) -> Certificate | None:
    """Return the proof that weights keep a lower bound above 0 and the declared range, if there is one."""
    if structure_of(operator, sizes[0]) is not None:
        return _certify_composed(operator, sizes)
    cases = [_softmax_case(operator, n) for n in sizes]
    if any(case is None for case in cases):
        return None
    claim = f"weights within [{promise.lowest:.6g}, {promise.highest:.6g}] for {sizes[-1]} teachers"
    premise = f"the scores differ by no more than the range that is declared ({promise.source})"
    return _valid(Certificate("closed-form range", claim, premise, {"cases": cases}))


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
        abs(case["lowest"] - 1 / (1 + (case["n_teachers"] - 1) * math.exp(case["spread"]))) < _CLOSE
        and abs(case["highest"] - 1 / (1 + (case["n_teachers"] - 1) * math.exp(-case["spread"]))) < _CLOSE
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
        claimed = {"product": list(reached), "lowest": promise.lowest, "highest": promise.highest}
        cases.append({"n_teachers": n_teachers, "parts": parts, **finish, **claimed})
    last = cases[-1]
    claim = f"weights within [{last['lowest']:.6g}, {last['highest']:.6g}] for {last['n_teachers']} teachers"
    premise = "scales are multiplied, ordered and guarded as the structure says; each keeps its own declared range"
    found = Certificate("composed range", claim, premise, {"cases": cases})
    return _valid(found) if all(case["lowest"] > 0 for case in cases) else None


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
    if max(abs(product_low - case["product"][0]), abs(product_high - case["product"][1])) > _CLOSE:
        return False
    if case["ordered"]:
        product_high = 1 - (n - 1) * product_low
    if case["bounds"] is None:
        expected = (product_low, product_high)
    else:
        w_min, w_max = case["bounds"]
        if n * w_min > 1 + _CLOSE or n * w_max < 1 - _CLOSE:
            return False
        expected = _effective(n, w_min, w_max)
        if case["guard"] == "squash":
            rho = min(1 - n * w_min, (n * w_max - 1) / (n - 1)) if n > 1 else 0.0
            expected = ((1 - rho) / n + rho * product_low, (1 - rho) / n + rho * product_high)
        else:
            expected = _effective(n, max(expected[0], product_low), min(expected[1], product_high))
    return abs(low - expected[0]) < _CLOSE and abs(high - expected[1]) < _CLOSE


def _effective(n: int, low: float, high: float) -> tuple[float, float]:
    return min(max(low, 1 - (n - 1) * high), 1 / n), max(min(high, 1 - (n - 1) * low), 1 / n)


def _is_effective(n: int, box: Sequence[float]) -> bool:
    """Whether both ends of a box can be reached by weights that sum to 1, so that each of them counts."""
    return max(abs(a - b) for a, b in zip(box, _effective(n, box[0], box[1]), strict=True)) < _CLOSE


def _product_range(parts: Sequence[Mapping[str, float]], n: int) -> tuple[float, float]:
    """Return the range of the normalised product by looking at every arrangement of the boxes' vertices.

    Not the library's formula: all vertices of every box, one teacher at the extreme, the others in any order. For more
    than six teachers, and with temperatures, the bound is the ratio's.
    """
    if not parts or n == 1:
        return 1 / n, 1 / n
    boxes = [_effective(n, part["lowest"], part["highest"]) for part in parts]
    if any(part["temperature"] != 1 for part in parts):
        return _tempered_range(parts, n)
    if n > 6:
        raise ValueError("arrangements of more than six teachers are too many to look at")
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
    arrangements = itertools.product(*(set(itertools.permutations(rest)) for rest in others))
    return pick(sum(math.prod(column) for column in zip(first, *arranged, strict=True)) for arranged in arrangements)


# Slopes


def certify_slope(operator: WeightOperator, promise: Declared, n_teachers: int) -> Certificate | None:
    """Return the proof of the declared Lipschitz constant, if there is one."""
    if promise.lipschitz is None:
        return None
    claim = f"no weight moves faster than {promise.lipschitz:.6g} against {promise.metric}"
    structure = structure_of(operator, n_teachers)
    if structure is not None:
        parts = _only(structure, "score_lipschitz", "temperature")
        # Only the guard that shrinks weights needs its bounds; the others cost the same for every box.
        bounds = structure["bounds"] if structure["guard"] == "squash" else None
        guard = structure["guard"] if structure["bounds"] is not None else "none"
        numbers = {"n_teachers": n_teachers, "parts": parts, "bounds": bounds, "guard": guard}
        numbers["lipschitz"] = promise.lipschitz
        premise = "each scale's log-weights keep the slope that it declares; softmax 1/2, order 1, guard as known"
        return _valid(Certificate("Lipschitz composition", claim, premise, numbers))
    if promise.score_lipschitz is None:
        return None
    numbers = {"score": promise.score_lipschitz, "lipschitz": promise.lipschitz}
    premise = f"the scores keep the slope {promise.score_lipschitz:.6g} that is declared ({promise.source})"
    return _valid(Certificate("softmax of a Lipschitz score", claim, premise, numbers))


@rechecks("softmax of a Lipschitz score")
def _recheck_score(numbers: Numbers) -> bool:
    return abs(numbers["lipschitz"] - numbers["score"] / 2) <= _CLOSE * max(1.0, numbers["score"])


@rechecks("Lipschitz composition")
def _recheck_slope(numbers: Numbers) -> bool:
    parts, n = numbers["parts"], numbers["n_teachers"]
    slope = sum(part["score_lipschitz"] / part["temperature"] for part in parts) / 2
    if numbers["guard"] == "squash":
        w_min, w_max = numbers["bounds"]
        slope *= min(1 - n * w_min, (n * w_max - 1) / (n - 1)) if n > 1 else 0.0
    if numbers["guard"] == "l2":
        slope *= 2 * (1 - 1 / n)
    return abs(numbers["lipschitz"] - slope) <= _CLOSE * max(1.0, slope)


# What the last step does, and what is never read


def certify_last_step(
    operator: WeightOperator, outputs: Sequence[Sequence[float]], n_teachers: int
) -> Certificate | None:
    """Return the proof that a composition normalises: its last step does, and stored answers show it."""
    if structure_of(operator, n_teachers) is None:
        return None
    claim = "weights sum to 1"
    premise = "the last step of the structure is a normalisation or a projection onto the simplex"
    return _valid(Certificate("normalised last step", claim, premise, {"outputs": [list(w) for w in outputs]}))


@rechecks("normalised last step")
def _recheck_sums(numbers: Numbers) -> bool:
    outputs = numbers["outputs"]
    return len(outputs) > 0 and all(abs(math.fsum(w) - 1) < 1e-6 and min(w) >= 0 for w in outputs)


def certify_order(
    operator: WeightOperator, instances: Sequence[Mapping[str, Any]], n_teachers: int
) -> Certificate | None:
    """Return the proof that a composition keeps its order: it is fitted before a guard common to all."""
    structure = structure_of(operator, n_teachers)
    if structure is None or not structure["ordered"]:
        return None
    by = "certified" if structure["ordered"] == "scorecard" else "stated"
    claim = f"a teacher that is {by} safer never counts less"
    premise = "log-weights are fitted to the order (isotonic), then guarded with bounds common to all teachers"
    numbers = {"ordered": structure["ordered"], "instances": list(instances)}
    return _valid(Certificate("ordered projection", claim, premise, numbers))


@rechecks("ordered projection")
def _recheck_order(numbers: Numbers) -> bool:
    stated = numbers["ordered"]
    return len(numbers["instances"]) > 0 and all(
        abs(math.fsum(one["weights"]) - 1) < 1e-6
        and stated in ("scorecard", one["pairs"])
        and all(one["weights"][safer] >= one["weights"][less] - 1e-6 for safer, less in one["pairs"])
        for one in numbers["instances"]
    )


def certify_student_free(operator: WeightOperator) -> Certificate:
    """Return the proof that a rule reads nothing of the student: it asks for none of the fields that know it."""
    needs = sorted(needs_of(operator))
    claim = "the weights cannot follow the student"
    premise = "a rule gets no other fields than those that it needs; the audit's evidence without them was enough"
    return Certificate(
        "nothing of the student is read", claim, premise, {"needs": needs, "forbidden": sorted(OF_THE_STUDENT)}
    )


@rechecks("nothing of the student is read")
def _recheck_student(numbers: Numbers) -> bool:
    return set(numbers["forbidden"]) == OF_THE_STUDENT and not OF_THE_STUDENT & set(numbers["needs"])


def certify_feasible(bounds: tuple[float, float], sizes: Sequence[int]) -> Certificate | None:
    """Return the proof that some weights satisfy the bounds."""
    claim = f"weights within [{bounds[0]:g}, {bounds[1]:g}] exist for {', '.join(map(str, sizes))} teachers"
    room = [[1 - n * bounds[0], n * bounds[1] - 1] for n in sizes]
    numbers = {"w_min": bounds[0], "w_max": bounds[1], "sizes": list(sizes), "room": room}
    return _valid(Certificate("feasible box", claim, "none", numbers))


@rechecks("feasible box")
def _recheck_feasible(numbers: Numbers) -> bool:
    low, high = numbers["w_min"], numbers["w_max"]
    return 0 <= low <= high and all(
        min(below, above) >= -_CLOSE and abs(1 - n * low - below) < _CLOSE and abs(n * high - 1 - above) < _CLOSE
        for n, (below, above) in zip(numbers["sizes"], numbers["room"], strict=True)
    )


def _only(structure: Numbers, *keys: str) -> list[dict[str, float]]:
    """Return the parts of a structure with the numbers that a proof needs, so that each of them counts."""
    return [{key: part[key] for key in keys} for part in structure["parts"]]


def _valid(certificate: Certificate) -> Certificate | None:
    """Return a certificate only if it passes its own check: an operator's claim may be wrong."""
    return certificate if certificate.recheck() else None
