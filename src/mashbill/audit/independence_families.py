"""Families of weights over one real number, each made to break one property and keep the others.

Three teachers, the box [.05, .8], the safety order 1 >= 2 >= 3. A family is either a walk along a segment,
``w(x) = a + s(x) (b - a)`` with ``0 <= s <= 1``, or ``softmax(c x^2)``. For both there is an exact argument: the sum,
the box and the order are convex, so they hold on a segment if they hold at its ends, which are fractions; and ratios of
a softmax are known in closed form. An argument proves, a search refutes, and neither is printed as the other.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch

from mashbill.audit.verdicts import Certificate, Numbers, rechecks
from mashbill.shapes import Float, Tensor

BOX = (Fraction(1, 20), Fraction(4, 5))
"""``(w_min, w_max)`` of every family."""

Weighting = Callable[[Tensor], Tensor]
Ends = tuple[tuple[Fraction, ...], tuple[Fraction, ...]]


@dataclass(frozen=True)
class Family:
    """Weights of three teachers as a function of one real number.

    Attributes:
        name: What it breaks.
        formula: The function, in words.
        weights: From ``x`` to weights, ``[n] -> [n 3]``, float64.
        prove: From a property to its proof, None where the argument proves nothing.
    """

    name: str
    formula: str
    weights: Weighting
    prove: Callable[[str], Certificate | None]


def families() -> tuple[Family, ...]:
    """Return the families, the conforming one first."""
    low, high = _fractions("1/2", "3/10", "1/5"), _fractions("2/5", "7/20", "1/4")
    return (
        _segment("conforming", (low, high)),
        _segment("not N", (tuple(w * Fraction(6, 5) for w in low), tuple(w * Fraction(6, 5) for w in high))),
        _softmax("not B", (1, 0, -1)),
        _segment("not R", (low, high), is_step=True),
        _segment("not S", (low[::-1], high[::-1])),
        _segment("not P", (low, _fractions("4/5", "1/5", "0"))),
    )


def family(name: str) -> Family:
    """Return a family by name, for replays.

    Raises:
        ValueError: There is none.
    """
    found = {one.name: one for one in families()}
    if name not in found:
        raise ValueError(f"name={name!r} must be one of {', '.join(found)}")
    return found[name]


# A walk along a segment


def _segment(name: str, ends: Ends, *, is_step: bool = False) -> Family:
    start, end = (torch.tensor([float(w) for w in one], dtype=torch.float64) for one in ends)

    def share(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return (3 * x > 1).to(x.dtype) if is_step else x.abs().clamp(max=1)

    def weights(x: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        # Not torch.lerp: both ends are met to the last bit.
        s = share(x).unsqueeze(-1)
        return (1 - s) * start + s * end

    walk = "1 if x > 1/3 else 0" if is_step else "min(1, |x|)"
    return Family(
        name,
        f"(1-s) {_shown(ends[0])} + s {_shown(ends[1])}, s = {walk}",
        weights,
        lambda property: _prove_segment(property, ends, is_step=is_step),
    )


def _prove_segment(property: str, ends: Ends, *, is_step: bool) -> Certificate | None:
    scale = math.lcm(*(w.denominator for one in (*ends, BOX) for w in one))
    whole = [[int(w * scale) for w in one] for one in ends]
    numbers = {
        "property": property,
        "denominator": scale,
        "ends": whole,
        "sums": [sum(one) for one in whole],
        "least": min(min(one) for one in whole),
        "largest": max(max(one) for one in whole),
        "gaps": [[one[0] - one[1], one[1] - one[2]] for one in whole],
        "box": [int(w * scale) for w in BOX],
        "decimal_box": [float(w) for w in BOX],
    }
    if property == "R":
        if is_step:
            return None
        numbers |= {"span": max(abs(a - b) for a, b in zip(*whole, strict=True)), "slope_of_s": 1}
    if not _recheck_segment(numbers):
        return None
    reasons = {
        "N": "both ends sum to 1, and so does every point between",
        "P": f"no weight is below {Fraction(numbers['least'], scale)}, that of the ends",
        "B": f"all weights are in [{Fraction(numbers['least'], scale)}, {Fraction(numbers['largest'], scale)}]",
        "R": f"Lipschitz with constant {numbers.get('span', 0)}/{scale}: that of s is 1",
        "S": "both ends are in order, and so is every point between",
    }
    return Certificate("ends of a segment", reasons[property], "w(x) lies on the segment between the ends", numbers)


@rechecks("ends of a segment")
def _recheck_segment(numbers: Numbers) -> bool:
    """Verify a convex property at both ends, in whole numbers; every number is checked against the others."""
    ends, scale, property = numbers["ends"], numbers["denominator"], numbers["property"]
    low, high = numbers["box"]
    flat = [w for one in ends for w in one]
    is_consistent = (
        [sum(one) for one in ends] == numbers["sums"]
        and [[one[0] - one[1], one[1] - one[2]] for one in ends] == numbers["gaps"]
        and (min(flat), max(flat)) == (numbers["least"], numbers["largest"])
        and [Fraction(w, scale) for w in (low, high)] == [Fraction(str(w)) for w in numbers["decimal_box"]]
    )
    if property == "R":
        span = max(abs(a - b) for a, b in zip(*ends, strict=True))
        return is_consistent and (numbers["span"], numbers["slope_of_s"]) == (span, 1)
    holds = {
        "N": all(total == scale for total in numbers["sums"]),
        "P": numbers["least"] > 0,
        "B": low <= numbers["least"] and numbers["largest"] <= high and low > 0,
        "S": all(gap >= 0 for gaps in numbers["gaps"] for gap in gaps),
    }
    return is_consistent and holds[property]


# softmax(c x^2)


def _softmax(name: str, coefficients: tuple[int, ...]) -> Family:
    scores = torch.tensor(coefficients, dtype=torch.float64)

    def weights(x: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        return torch.softmax(x.square().unsqueeze(-1) * scores, dim=-1)

    shown = ", ".join(
        "0" if c == 0 else f"{'-' if c < 0 else ''}{abs(c) if abs(c) > 1 else ''}x^2" for c in coefficients
    )
    return Family(name, f"softmax({shown})", weights, lambda property: _prove_softmax(property, coefficients))


def softmax_slope(coefficients: tuple[int, ...]) -> float:
    """Return a Lipschitz constant of ``softmax(c x^2)`` in the sup norm: ``max_k sum_j sqrt(2 |c_k - c_j| / e)``.

    ``dw_k/dx = 2 x sum_j w_k w_j (c_k - c_j)``, ``w_k w_j <= exp(-|c_k - c_j| x^2)``, and ``2 x d exp(-d x^2)`` is at
    most ``sqrt(2 d / e)``.
    """
    return max(sum(math.sqrt(2 * abs(c - other) / math.e) for other in coefficients) for c in coefficients)


def _prove_softmax(property: str, coefficients: tuple[int, ...]) -> Certificate | None:
    numbers = {
        "property": property,
        "coefficients": list(coefficients),
        "gaps": [a - b for a, b in itertools.pairwise(coefficients)],
        "slope": softmax_slope(coefficients),
    }
    if not _recheck_softmax(numbers):
        return None
    reasons = {
        "N": "a softmax is divided by its sum",
        "P": "exp is above 0 at every real number",
        "R": f"Lipschitz with constant {numbers['slope']:.6g}: max_k sum_j sqrt(2 |c_k - c_j| / e)",
        "S": "x^2 >= 0, so scores are in the order of their coefficients, and softmax keeps it",
    }
    return Certificate("softmax of a scaled square", reasons[property], "w(x) = softmax(c x^2)", numbers)


@rechecks("softmax of a scaled square")
def _recheck_softmax(numbers: Numbers) -> bool:
    """Verify the closed-form arguments; a softmax with different coefficients keeps no box, so B is never proved."""
    coefficients = tuple(numbers["coefficients"])
    if [a - b for a, b in itertools.pairwise(coefficients)] != numbers["gaps"]:
        return False
    if not math.isclose(numbers["slope"], softmax_slope(coefficients), rel_tol=1e-12):
        return False
    return {"N": True, "P": True, "R": True, "B": False, "S": min(numbers["gaps"]) >= 0}[numbers["property"]]


def _fractions(*texts: str) -> tuple[Fraction, ...]:
    return tuple(Fraction(text) for text in texts)


def _shown(weights: tuple[Fraction, ...]) -> str:
    return "(" + ", ".join(f"{float(w):g}" for w in weights) + ")"
