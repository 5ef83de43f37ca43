"""Students that teach their successors: what an anchor keeps, and what is lost without one.

Generation ``n + 1`` learns ``q_(n+1) = a base + (1 - a) s_n``, with ``s_n`` the student that learned ``q_n``: exactly,
or from samples, or with a systematic error.
"""

import math
from collections.abc import Iterable

from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


def anchored(
    base: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"], *, anchor: Number
) -> Float[Tensor, "*batch V"]:
    """Return the next target, ``a base + (1 - a) s``; probabilities."""
    _require_anchor(anchor)
    return anchor * base + (1 - anchor) * student


def tv_after(n_generations: int, *, anchor: Number, start: Number) -> float:
    """Total variation from the base after some generations of exact students: ``(1-a)^n TV_0``, an equality.

    Source:
        Linearity: ``q_(n+1) - base = (1-a)(q_n - base)``. Concerns the contraction of arXiv 2601.13100.
    """
    _require_anchor(anchor)
    return (1 - anchor) ** n_generations * start


def kl_after(n_generations: int, *, anchor: Number, start: Number) -> float:
    """Bound of ``KL(base || q_n)`` in nats: ``(1-a)^(n-1) min((1-a) KL_0, -log a)`` for ``n >= 1``.

    Convexity gives the factor ``1-a``, for ``KL(q_n || base)`` too; ``q_1 >= a base`` gives ``-log a`` from any start,
    also one that has lost entries. Not tight near the base, where the factor tends to ``(1-a)^2``. A geometric anchor
    contracts this divergence alike, but not ``KL(q_n || base)``.

    Args:
        n_generations: ``n``.
        anchor: ``a``, above 0.
        start: ``KL(base || q_0)``; may be infinite.
    """
    _require_anchor(anchor)
    if n_generations == 0:
        return float(start)
    # 0 times an infinite start is 0 here: with an anchor of 1 the first target is the base.
    contracted = (1 - anchor) * start if anchor < 1 else 0.0
    return (1 - anchor) ** (n_generations - 1) * min(contracted, -math.log(anchor))


def gini_after(n_generations: int, *, n_samples: int, start: Number) -> float:
    """Mean Gini variance without an anchor, each student being ``n`` samples of its teacher: ``(1 - 1/n)^t G_0``.

    It dies out: in the end every lineage says one thing.

    Args:
        n_generations: ``t``.
        n_samples: ``n``, what each student sees.
        start: ``G_0 = 1 - sum_v q_0(v)^2``.

    >>> round(gini_after(60, n_samples=50, start=0.555), 5)
    0.16514
    """
    if n_samples < 1:
        raise ValueError(f"n_samples={n_samples!r} must be at least 1")
    return (1 - 1 / n_samples) ** n_generations * start


def stationary_spread(*, anchor: Number, n_samples: int, gini: Number) -> float:
    """Mean squared l2 distance from the base in the long run, with sampled students and an anchor.

    ``(1-a)^2 (G/n) / (1 - (1-a)^2 (1 - 1/n))``, the fixed point of ``v <- (1-a)^2 (v + (G - v)/n)``, exact.

    Args:
        anchor: ``a``, above 0.
        n_samples: ``n``.
        gini: ``G`` of the base.
    """
    _require_anchor(anchor)
    left = (1 - anchor) ** 2
    return left * (gini / n_samples) / (1 - left * (1 - 1 / n_samples))


def capacity_limit(error: Number, *, anchor: Number) -> float:
    """Total variation in the long run if every student is off by ``error`` in the same direction: ``error / a``.

    The bound of ``d <- (1-a) d + error``, attained, as long as the result is a distribution.

    Args:
        error: Total variation that one generation adds to its target.
        anchor: ``a``, above 0.
    """
    _require_anchor(anchor)
    return error / anchor


def memory(anchors: Iterable[Number]) -> float:
    """Share of the first distribution that is left after a sequence of anchors: ``prod (1 - a_n)``.

    Above 0 for ever if the anchors sum to a finite number: then the first distribution is never forgotten.
    """
    left = 1.0
    for anchor in anchors:
        if not 0 <= anchor <= 1:
            raise ValueError(f"anchors={anchor!r} must be between 0 and 1")
        left *= 1 - anchor
    return left


def _require_anchor(anchor: Number) -> None:
    if not 0 < anchor <= 1:
        raise ValueError(f"anchor={anchor!r} must be above 0, at most 1; without an anchor nothing is kept")
