"""Proof objects for weight rules, and their verifiers, which compute everything again from the numbers alone.

What cannot be proved from outside is taken as a *premise* and said: that a rule's scores stay in the range that it
declares, or that an operator is put together the way its ``structure`` says. Everything that follows from the premise
is computed here, by formulas of this file's own, and held against what the operator claims.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mashbill.audit.metrics import unattacked
from mashbill.audit.range_certificates import CLOSE, room_of, shrinking, structure_of, valid
from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.weights.evidence import Declared, WeightOperator, needs_of

OF_THE_STUDENT = frozenset({"divergence:student", "gram", "student_logprobs"})


# Slopes


def certify_slope(operator: WeightOperator, promise: Declared, n_teachers: int) -> Certificate | None:
    """Return the proof of the declared Lipschitz constant, if there is one."""
    if promise.lipschitz is None:
        return None
    claim = f"no weight moves faster than {promise.lipschitz:.6g} against {promise.metric}"
    structure = structure_of(operator, n_teachers)
    if structure is not None:
        parts = _only(structure, "score_lipschitz", "temperature")
        guard = structure["guard"] if structure["bounds"] is not None else "none"
        numbers = {"parts": parts, "guard": guard, "lipschitz": promise.lipschitz}
        # Only these two guards cost according to the number of teachers, and only one needs its bounds.
        numbers |= {"n_teachers": n_teachers} if guard in ("squash", "l2") else {}
        if guard == "squash" and structure["bounds"] is not None:
            numbers |= {"bounds": structure["bounds"], "room": room_of(n_teachers, structure["bounds"])}
        premise = "each scale's log-weights keep the slope that it declares; softmax 1/2, order 1, guard as known"
        premise += _not_attacked(promise)
        return valid(Certificate("Lipschitz composition", claim, premise, numbers))
    if promise.score_lipschitz is None:
        return None
    numbers = {"score": promise.score_lipschitz, "lipschitz": promise.lipschitz}
    premise = f"the scores keep the slope {promise.score_lipschitz:.6g} that is declared ({promise.source})"
    premise += _not_attacked(promise)
    return valid(Certificate("softmax of a Lipschitz score", claim, premise, numbers))


def _not_attacked(promise: Declared) -> str:
    parts = unattacked(promise.metric)
    return f"; no search attacked it in the metric {' and '.join(parts)}" if parts else ""


@rechecks("softmax of a Lipschitz score")
def _recheck_score(numbers: Numbers) -> bool:
    return abs(numbers["lipschitz"] - numbers["score"] / 2) <= CLOSE * max(1.0, numbers["score"])


@rechecks("Lipschitz composition")
def _recheck_slope(numbers: Numbers) -> bool:
    parts = numbers["parts"]
    slope = sum(part["score_lipschitz"] / part["temperature"] for part in parts) / 2
    if numbers["guard"] == "squash":
        slope *= shrinking(numbers["n_teachers"], numbers["bounds"], numbers["room"])
    if numbers["guard"] == "l2":
        slope *= 2 * (1 - 1 / numbers["n_teachers"])
    return abs(numbers["lipschitz"] - slope) <= CLOSE * max(1.0, slope)


# What the last step does, and what is never read


def certify_last_step(
    operator: WeightOperator, outputs: Sequence[Sequence[float]], n_teachers: int
) -> Certificate | None:
    """Return the proof that a composition normalises: its last step does, and stored answers show it."""
    if not (structure_of(operator, n_teachers) or {}).get("normalised"):
        return None
    claim = "weights sum to 1"
    premise = "the last step is a normalisation or a projection onto the simplex, as the structure says"
    return valid(Certificate("normalised last step", claim, premise, {"outputs": [list(w) for w in outputs]}))


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
    shown = [{**one, "gaps": _gaps(one["weights"], one["pairs"])} for one in instances]
    numbers = {"ordered": structure["ordered"], "instances": shown}
    return valid(Certificate("ordered projection", claim, premise, numbers))


@rechecks("ordered projection")
def _recheck_order(numbers: Numbers) -> bool:
    instances = numbers["instances"]
    return len(instances) > 0 and all(_keeps_order(one, numbers["ordered"]) for one in instances)


def _keeps_order(one: Numbers, stated: object) -> bool:
    """Hold weights against their pairs: someone is safer, nobody than themselves, and gaps are those of the weights."""
    weights, pairs, gaps = one["weights"], one["pairs"], one["gaps"]
    is_order = len(pairs) > 0 and all(a != b and min(a, b) >= 0 and max(a, b) < len(weights) for a, b in pairs)
    is_same = max(abs(a - b) for a, b in zip(gaps, _gaps(weights, pairs), strict=True)) < CLOSE
    is_stated = stated == "scorecard" or [list(pair) for pair in pairs] == stated
    return is_order and is_same and is_stated and min(gaps) >= -1e-6 and abs(math.fsum(weights) - 1) < 1e-6


def _gaps(weights: Sequence[float], pairs: Sequence[Sequence[int]]) -> list[float]:
    """Return by how much each safer teacher counts more."""
    return [weights[safer] - weights[less] for safer, less in pairs]


def certify_student_free(operator: WeightOperator) -> Certificate | None:
    """Return the proof that a rule reads nothing of the student: it asks for none of the fields that know it.

    None if it holds a network, which may be the student itself.
    """
    if _holds_network(operator):
        return None
    needs = sorted(needs_of(operator))
    claim = "the weights cannot follow the student"
    premise = "it sees its evidence and nothing else, and gets no other fields of that than it needs; they were enough"
    return Certificate(
        "nothing of the student is read", claim, premise, {"needs": needs, "forbidden": sorted(OF_THE_STUDENT)}
    )


@rechecks("nothing of the student is read")
def _recheck_student(numbers: Numbers) -> bool:
    return set(numbers["forbidden"]) == OF_THE_STUDENT and not OF_THE_STUDENT & set(numbers["needs"])


def _holds_network(value: object, depth: int = 4) -> bool:
    """Whether an operator is a network, or reaches one through its attributes, containers, options or closure."""
    if isinstance(value, torch.nn.Module) or (isinstance(value, torch.Tensor) and value.requires_grad):
        return True
    if depth == 0 or isinstance(value, str | bytes | int | float):
        return False
    inner = list(value.values()) if isinstance(value, Mapping) else list(getattr(value, "__dict__", {}).values())
    inner += list(value) if isinstance(value, list | tuple | set | frozenset) else []
    inner += [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if cell != type(cell)()]
    inner += [getattr(value, name, None) for name in ("__self__", "func", "args", "keywords")]
    return any(_holds_network(one, depth - 1) for one in inner if one is not None)


def certify_feasible(bounds: tuple[float, float], sizes: Sequence[int]) -> Certificate | None:
    """Return the proof that some weights satisfy the bounds."""
    claim = f"weights within [{bounds[0]:g}, {bounds[1]:g}] exist for {', '.join(map(str, sizes))} teachers"
    room = [[1 - n * bounds[0], n * bounds[1] - 1] for n in sizes]
    numbers = {"w_min": bounds[0], "w_max": bounds[1], "sizes": list(sizes), "room": room}
    return valid(Certificate("feasible box", claim, "none", numbers))


@rechecks("feasible box")
def _recheck_feasible(numbers: Numbers) -> bool:
    low, high = numbers["w_min"], numbers["w_max"]
    return 0 <= low <= high and all(
        min(below, above) >= -CLOSE and abs(1 - n * low - below) < CLOSE and abs(n * high - 1 - above) < CLOSE
        for n, (below, above) in zip(numbers["sizes"], numbers["room"], strict=True)
    )


def _only(structure: Numbers, *keys: str) -> list[dict[str, float]]:
    """Return the parts of a structure with the numbers that a proof needs, so that each of them counts."""
    return [{key: part[key] for key in keys} for part in structure["parts"]]
