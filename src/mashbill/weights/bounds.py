"""Which weights a box allows, and which weights a product of boxed scales can reach. Plain numbers, no tensors."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

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
    return min(low, even), max(high, even)


def composed_bounds(ranges: Sequence[tuple[Number, Number]], *, n_teachers: int) -> tuple[float, float]:
    """Return the exact least and largest weight of ``prod_s w_s / sum_k prod_s w_s`` over boxed scales.

    The weight is linear-fractional in each scale, so its extremes are at vertices: at most one entry strictly between
    the bounds. The least weight has every scale at its low end there and the others sorted alike (rearrangement). The
    largest has every scale at its high end and the others arranged for the least sum of products. Up to two scales
    whose ``w_max`` binds are sorted against each other; more are solved by dynamic programming over positions, with
    ``O(prod_s n_s)`` states for ``n_s <= 1/w_max`` entries at the top.

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
    boxes = [effective_bounds(n_teachers, w_min=low, w_max=high) for low, high in ranges]
    if n_teachers == 1:
        return 1.0, 1.0
    lows, highs = math.prod(low for low, _ in boxes), math.prod(high for _, high in boxes)
    largest_rest = np.prod([_vertex(n_teachers - 1, 1 - low, low, high) for low, high in boxes], axis=0).sum()
    least_rest = _least_sum([_vertex(n_teachers - 1, 1 - high, low, high) for low, high in boxes])
    return lows / (lows + float(largest_rest)), highs / (highs + least_rest)


def _vertex(n: int, total: float, low: float, high: float) -> np.ndarray:
    """Return the vertex of ``{sum = total, low <= b <= high}`` in ``n`` dimensions, largest entry first."""
    entries, left = np.full(n, low), total - n * low
    for i in range(n):
        step = min(max(left, 0.0), high - low)
        entries[i] += step
        left -= step
    return entries


def _least_sum(scales: list[np.ndarray]) -> float:
    """Return the least ``sum_j prod_s b_sj`` over rearrangements of each scale's entries."""
    # A constant scale has nothing to arrange.
    factor = math.prod(float(b[0]) for b in scales if np.ptp(b) == 0)
    varied = [b for b in scales if np.ptp(b) > 0]
    if not varied:
        return factor * len(scales[0])
    if len(varied) == 1:
        return factor * float(varied[0].sum())
    if len(varied) == 2:
        return factor * float((varied[0] * varied[1][::-1]).sum())
    return factor * _least_sum_by_states(varied)


def _least_sum_by_states(scales: list[np.ndarray]) -> float:
    """Fill one position after another; the state counts how often each scale has used each value but its lowest."""
    values = [np.unique(b)[::-1] for b in scales]  # largest first, at most three
    counts = [[int((b == x).sum()) for x in v] for b, v in zip(scales, values, strict=True)]
    used_axes = [(s, i) for s, v in enumerate(values) for i in range(len(v) - 1)]
    axis_of = {key: axis for axis, key in enumerate(used_axes)}
    least = np.full([counts[s][i] + 1 for s, i in used_axes], np.inf)
    least[(0,) * least.ndim] = 0.0
    choices = list(itertools.product(*(range(len(v)) for v in values)))
    for _ in range(len(scales[0])):
        following = np.full_like(least, np.inf)
        for choice in choices:
            cost = math.prod(float(v[i]) for v, i in zip(values, choice, strict=True))
            source, target = [slice(None)] * least.ndim, [slice(None)] * least.ndim
            for s, i in enumerate(choice):
                if (s, i) in axis_of:
                    source[axis_of[s, i]], target[axis_of[s, i]] = slice(None, -1), slice(1, None)
            into = following[tuple(target)]
            np.minimum(into, least[tuple(source)] + cost, out=into)
        least = following
    return float(least[(-1,) * least.ndim])
