"""Which weights a box allows, and which weights a product of boxed scales can reach. Plain numbers, no tensors."""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from mashbill.weights.arrangement import Entries, least_sum
from mashbill.weights.shares import Number

_SLACK = 1e-9  # K * (1/K) need not be 1 in floating point


def check_box(w_min: Number, w_max: Number) -> None:
    """Raise ``ValueError`` if no number of teachers could satisfy ``0 <= w_min <= w_max <= 1``."""
    if not 0 <= w_min <= 1:  # also catches NaN
        raise ValueError(f"w_min={w_min!r} must be a probability, between 0 and 1")
    if not 0 < w_max <= 1:
        raise ValueError(f"w_max={w_max!r} must be a probability above 0, at most 1")
    if w_min > w_max:
        raise ValueError(f"w_min={w_min!r} must not exceed w_max={w_max!r}; swap them")


def effective_bounds(n_teachers: int, *, w_min: Number, w_max: Number) -> tuple[float, float]:
    """Return the range that a single weight can really take in the box once the weights sum to 1.

    ``[max(w_min, 1 - (K-1) w_max), min(w_max, 1 - (K-1) w_min)]``.

    Raises:
        ValueError: The box is empty: ``K w_min > 1`` or ``K w_max < 1``.

    Source:
        arXiv 2601.17910, assumption A1; the paper does not state the condition ``K w_min <= 1 <= K w_max``.

    >>> effective_bounds(3, w_min=0.1, w_max=0.9)
    (0.1, 0.8)
    """
    check_box(w_min, w_max)
    if n_teachers < 1:
        raise ValueError(f"n_teachers={n_teachers!r} must be at least 1")
    if n_teachers * w_min > 1 + _SLACK:
        raise ValueError(
            f"w_min={w_min!r} is too large for {n_teachers} teachers: the least weights alone sum to "
            f"{n_teachers * w_min:.6g} > 1; lower it to at most 1/{n_teachers} = {1 / n_teachers:.6g}"
        )
    if n_teachers * w_max < 1 - _SLACK:
        raise ValueError(
            f"w_max={w_max!r} is too small for {n_teachers} teachers: the largest weights together sum to "
            f"{n_teachers * w_max:.6g} < 1; raise it to at least 1/{n_teachers} = {1 / n_teachers:.6g}"
        )
    others, even = n_teachers - 1, 1 / n_teachers
    low, high = max(w_min, 1 - others * w_max), min(w_max, 1 - others * w_min)
    return float(min(low, even)), float(max(high, even))


def composed_bounds(ranges: Sequence[tuple[Number, Number]], *, n_teachers: int) -> tuple[float, float]:
    """Return the exact least and largest weight of ``prod_s w_s / sum_k prod_s w_s`` over boxed scales.

    The weight is linear-fractional in each scale, so its extremes are at vertices: at most one entry strictly between
    the bounds. The least weight has every scale at its low end there and the others sorted alike (rearrangement). The
    largest has every scale at its high end and the others arranged for the least sum of products, exactly
    (:mod:`mashbill.weights.arrangement`).

    Cost, whatever ``K``: polynomial if the scales whose ``w_max`` binds are alike; else about ``S!`` for ``S`` such
    scales that differ (4: .01 s, 5: .3 s; the problem is NP-hard in ``S``).

    Args:
        ranges: ``(w_min, w_max)`` of each scale.
        n_teachers: ``K``.

    Raises:
        ValueError: A scale's box is empty for ``K``; see :func:`effective_bounds`.

    Source:
        Corrects arXiv 2601.17910, Theorem IV.2 (2), which claims that the product keeps ``[w_min, w_max]``.

    >>> low, high = composed_bounds([(0.2, 0.8)] * 3, n_teachers=2)
    >>> round(low, 7), round(high, 7)
    (0.0153846, 0.9846154)
    """
    if not ranges:
        return 1 / n_teachers, 1 / n_teachers
    boxes = tuple(effective_bounds(n_teachers, w_min=low, w_max=high) for low, high in ranges)
    return (1.0, 1.0) if n_teachers == 1 else _composed(boxes, n_teachers - 1)


@functools.lru_cache(maxsize=256)  # A promise is asked for far more often than it changes.
def _composed(boxes: tuple[tuple[float, float], ...], others: int) -> tuple[float, float]:
    """The least and largest weight among ``others`` more teachers, of boxes that are not empty."""
    # Everything in units of the weight in question, so that products of many scales stay in range.
    least = [Entries.of_vertex(others, (1 - high) / high, low / high, 1.0) for low, high in boxes]
    highest = 1 / (1 + least_sum(least, others))
    if any(low <= 0 for low, _ in boxes):
        return 0.0, highest
    largest = [Entries.of_vertex(others, (1 - low) / low, 1.0, high / low).descending(others) for low, high in boxes]
    return 1 / (1 + float(np.prod(largest, axis=0).sum())), highest


def scale_bounds(w_min: Number, w_max: Number | None = None, *, n_teachers: int, n_scales: int) -> tuple[float, float]:
    """Return the bounds to give every scale so that the product of ``n_scales`` keeps ``[w_min, w_max]``.

    The inverse of :func:`composed_bounds`: the widest box, of those that shrink the target box towards uniform
    (``1/K + t (w - 1/K)`` with one ``t`` for both bounds), whose product stays inside the target.

    If ``w_max`` does not bind, ``low = 1/(K - 1 + r^(1/S))`` with ``r = (1 - (K-1) w_min)/w_min``, and the product
    reaches both bounds. If it does, boxes are nested in ``t`` and so are the ranges of their products; bisection on
    ``t`` therefore ends at two neighbouring floating-point numbers, of which the inner is returned. The product then
    reaches at least one of the bounds.

    Args:
        w_min: Least weight of the product.
        w_max: Largest weight of the product; 1 if None.
        n_teachers: ``K``.
        n_scales: ``S``, how many scales are multiplied.

    Raises:
        ValueError: The target is empty for ``K``, or ``n_scales`` is not positive.

    Source:
        Inverts the correction of arXiv 2601.17910, Theorem IV.2 (2). For ``K = 2``: ``1/(1 + ((1-w)/w)^(1/S))``.

    >>> low, high = scale_bounds(0.2, n_teachers=2, n_scales=3)
    >>> round(low, 8), round(high, 8)
    (0.38648821, 0.61351179)
    """
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=1.0 if w_max is None else w_max)
    if n_scales < 1:
        raise ValueError(f"n_scales={n_scales!r} must be at least 1")
    if n_scales == 1 or n_teachers == 1 or low == high:
        return low, high
    even, others = 1 / n_teachers, n_teachers - 1
    if high >= 1 - others * low:
        narrow = 0.0 if low <= 0 else 1 / (others + ((1 - others * low) / low) ** (1 / n_scales))
        return narrow, 1 - others * narrow

    def shrunk(t: float) -> tuple[float, float]:
        return even + t * (low - even), even + t * (high - even)

    inside, outside = 0.0, 1.0
    while inside < (t := (inside + outside) / 2) < outside:
        least, largest = composed_bounds([shrunk(t)] * n_scales, n_teachers=n_teachers)
        inside, outside = (t, outside) if low <= least and largest <= high else (inside, t)
    return shrunk(inside)


def exponent_sum(temperatures: Iterable[Number]) -> float:
    """Return ``sum_s 1/T_s``; at most 1 certifies that ``prod_s w_s^(1/T_s)`` keeps a common lower bound.

    See :func:`tempered_floor` for the bound.

    >>> exponent_sum([3, 3, 3])
    1.0
    """
    given = list(temperatures)
    for temperature in given:
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperatures={given!r} must all be finite and positive")
    return math.fsum(1 / temperature for temperature in given)


def tempered_floor(w_min: Sequence[Number], *, temperatures: Sequence[Number], n_teachers: int) -> float:
    """Return a certain lower bound of ``prod_s w_s^(1/T_s) / Z`` if ``A = sum_s 1/T_s <= 1``.

    ``K^(A-1) prod_s w_min,s^(1/T_s)``, because ``Z <= K^(1-A)`` (Hölder). It is at least the least ``w_min,s``; for
    equal ones and ``A = 1`` it is that number, and the product then also keeps ``1 - (K-1) w_min``. A ``w_max`` below
    that is not kept without a guard.

    Args:
        w_min: Least weight of each scale.
        temperatures: ``T_s`` of each scale.
        n_teachers: ``K``.

    Raises:
        ValueError: ``A > 1``, so nothing is certified; a scale's ``w_min`` is infeasible for ``K``.

    Source:
        Repairs arXiv 2601.17910, Theorem IV.2 (2), whose product has all ``T_s = 1``.

    >>> round(tempered_floor([0.1, 0.1, 0.1], temperatures=[3, 3, 3], n_teachers=4), 12)
    0.1
    """
    if len(w_min) != len(temperatures):
        raise ValueError(f"temperatures has {len(temperatures)} numbers for {len(w_min)} scales; give one each")
    total = exponent_sum(temperatures)
    if total > 1 + _SLACK:
        raise ValueError(
            f"temperatures={list(temperatures)!r} sum to 1/T = {total:.6g} > 1, which certifies no bound; raise them, "
            "narrow the scales (scale_bounds) or guard the product"
        )
    lows = [effective_bounds(n_teachers, w_min=low, w_max=1.0)[0] for low in w_min]
    powers = math.prod(low ** (1 / temperature) for low, temperature in zip(lows, temperatures, strict=True))
    return powers * n_teachers ** (total - 1)
