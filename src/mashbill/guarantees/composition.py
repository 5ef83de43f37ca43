"""How sensitive composed weights are to what they read.

The range of composed weights is :func:`mashbill.weights.bounds.composed_bounds`.
"""

import math
from collections.abc import Sequence

from mashbill.weights.bounds import effective_bounds
from mashbill.weights.promises import Guard
from mashbill.weights.shares import Number
from mashbill.weights.simplex import squash_factor


def guard_lipschitz(guard: Guard, n_teachers: int, *, w_min: Number, w_max: Number) -> float:
    """Return a guard's constant in the sup norm, on weights: squash ``rho``, l2 projection ``2 (1 - 1/K)``.

    The KL projection acts on log-weights, where softmax and guard together have the constant 1/2 of softmax alone: it
    costs nothing, so its factor is 1.

    Args:
        guard: ``"kl"``, ``"l2"`` or ``"squash"``.
        n_teachers: ``K``.
        w_min: Least weight.
        w_max: Largest weight.

    Raises:
        ValueError: The guard does not exist, or the box is empty.

    >>> round(guard_lipschitz("l2", 3, w_min=0.1, w_max=0.8), 4)
    1.3333
    """
    effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    if guard == "squash":
        return squash_factor(n_teachers, w_min=w_min, w_max=w_max)
    if guard not in ("kl", "l2"):
        raise ValueError(f"guard={guard!r} must be 'kl', 'l2' or 'squash'")
    return 2 * (1 - 1 / n_teachers) if guard == "l2" else 1.0


def composed_lipschitz(
    constants: Sequence[Number], *, w_min: Sequence[Number], temperatures: Sequence[Number] | None = None
) -> float:
    """Return a sup-norm constant of ``prod_s w_s^(1/T_s) / Z``: ``1/2 sum_s L_s / (T_s w_min,s)``.

    ``log w_s`` has the constant ``L_s / w_min,s``, and softmax is 1/2-Lipschitz. The scales' inputs may all change at
    once, each by at most 1 in its own metric.

    Args:
        constants: ``L_s``, of each scale's weights.
        w_min: Least weight of each scale.
        temperatures: ``T_s``; the papers' product has all 1.

    Raises:
        ValueError: Lists differ in length, or a number is out of range.

    Source:
        Completes arXiv 2601.17910, Theorem IV.2, after which the unified weights inherit no constant from (A2).

    >>> composed_lipschitz([1, 1, 1], w_min=[0.1, 0.1, 0.1])
    15.0
    """
    exponents = [1.0] * len(constants) if temperatures is None else [1 / temperature for temperature in temperatures]
    if not len(constants) == len(w_min) == len(exponents):
        raise ValueError(
            f"constants={list(constants)!r}, w_min={list(w_min)!r} and temperatures need one number a scale"
        )
    for constant, low in zip(constants, w_min, strict=True):
        if not (0 <= constant < math.inf and 0 < low <= 1):
            raise ValueError(
                f"constants={constant!r} must not be negative, and w_min={low!r} must be above 0, at most 1"
            )
    return math.fsum(L * e / low for L, e, low in zip(constants, exponents, w_min, strict=True)) / 2
