"""Forcing weights into ``{sum_k w_k = 1, w_min <= w_k <= w_max}``, exactly and differentiably.

Three guards over the last axis. ``squash`` mixes with uniform: smooth, strictly monotone. ``project_l2`` moves the
least distance. ``project_kl`` keeps the ratios of the teachers that touch no bound. All keep any order of the weights,
because the bounds are the same for every teacher.

A projection is ``clip(v_k - tau)`` or ``clip(c v_k)`` for one number ``tau`` or ``c``. Teacher ``j`` is at a bound if
and only if the clipped sum at *its own* breakpoint lies on one side of 1. Those at the upper bound are the largest and
those at the lower bound the smallest, so bisection over the *ranks* finds the active set in ``log2 K`` sums: exact,
``O(K log K)`` time and ``O(K)`` memory a row. Given the active set the solution is a formula, and autograd
differentiates the formula.

Teachers that agree in ``v`` agree in the result, and a teacher with more never gets less, to the last bit for
``squash`` and ``project_l2`` and within one rounding of ``exp`` for the KL projections.
"""

import math
from collections.abc import Callable

import torch

from mashbill import numerics
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.weights.bounds import check_box, composed_bounds, effective_bounds
from mashbill.weights.shares import Number

__all__ = [
    "check_box",
    "composed_bounds",
    "effective_bounds",
    "log_normalise",
    "project_kl",
    "project_kl_log",
    "project_l2",
    "squash",
    "squash_factor",
]


def log_normalise(log_weights: Float[Tensor, "*shape"], *, dim: int) -> Float[Tensor, "*shape"]:
    """Subtract the log-sum-exp over ``dim``; float32 at least, not below ``LOG_ZERO``.

    Args:
        log_weights: Logs up to a common constant; above ``-inf``.
        dim: The teachers' axis.
    """
    wide = log_weights.to(numerics.reduction_dtype(log_weights.dtype))
    return torch.log_softmax(wide, dim=dim).clamp_min(numerics.LOG_ZERO)


def squash_factor(n_teachers: int, *, w_min: Number, w_max: Number) -> float:
    """Return ``rho = min(1 - K w_min, (K w_max - 1)/(K - 1))``, the Lipschitz constant of :func:`squash`."""
    effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    if n_teachers == 1:
        return 0.0
    return max(0.0, min(1 - n_teachers * w_min, (n_teachers * w_max - 1) / (n_teachers - 1)))


def squash(w: Float[Tensor, "*batch K"], *, w_min: Number, w_max: Number) -> Float[Tensor, "*batch K"]:
    """Mix with uniform: ``(1 - rho)/K + rho w``.

    Args:
        w: Probabilities over the last axis.
        w_min: Least weight.
        w_max: Largest weight.

    Returns:
        Probabilities in the box; the lower bound is reached only where a weight is 0, the upper where it is 1.

    Raises:
        ValueError: The box is empty for ``K``.

    >>> squash(torch.tensor([0.9, 0.07, 0.03], dtype=torch.float64), w_min=0.1, w_max=0.6).round(decimals=3).tolist()
    [0.56, 0.228, 0.212]
    """
    n_teachers = w.shape[-1]
    rho = squash_factor(n_teachers, w_min=w_min, w_max=w_max)
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    wide = w.to(numerics.reduction_dtype(w.dtype))
    return ((1 - rho) / n_teachers + rho * wide).clamp(low, high)


def project_l2(v: Float[Tensor, "*batch K"], *, w_min: Number, w_max: Number) -> Float[Tensor, "*batch K"]:
    """Return the nearest weights in the box, in the Euclidean norm: ``clip(v - tau, w_min, w_max)``.

    Its Jacobian is ``diag(s) - s s'/|s|`` with ``s`` the 0/1 vector of teachers at no bound: a teacher at a bound
    has no gradient. 1-Lipschitz in l2, ``2 (1 - 1/K)``-Lipschitz in the sup norm.

    Args:
        v: Any real numbers.
        w_min: Least weight.
        w_max: Largest weight.

    Returns:
        Probabilities, at least float32.

    Raises:
        ValueError: The box is empty for ``K``.

    >>> v = torch.tensor([0.7, 0.35, 0.2, -0.3], dtype=torch.float64)
    >>> project_l2(v, w_min=0.1, w_max=0.5).round(decimals=3).tolist()
    [0.5, 0.275, 0.125, 0.1]
    """
    low, high = effective_bounds(v.shape[-1], w_min=w_min, w_max=w_max)
    wide = v.to(numerics.reduction_dtype(v.dtype))
    with torch.no_grad():
        # Differences of near values are exact, whatever their size.
        at_low, at_high = _active(
            wide,
            sum_at_high=lambda breakpoint: (wide - breakpoint + high).clamp(low, high).sum(dim=-1, keepdim=True),
            sum_at_low=lambda breakpoint: (wide - breakpoint + low).clamp(low, high).sum(dim=-1, keepdim=True),
        )
        free = ~(at_high | at_low)
        rest, n_free = _rest(at_low, at_high, low, high, wide)
        reference = wide.masked_fill(~free, -torch.inf).amax(dim=-1, keepdim=True)
        reference = torch.where(free.any(dim=-1, keepdim=True), reference, wide.amax(dim=-1, keepdim=True))
    centred = wide - reference
    mean = torch.where(free, centred, 0).sum(dim=-1, keepdim=True) / n_free
    return _at_bounds(centred - mean + rest / n_free, at_low, at_high, low, high)


def project_kl(v: Float[Tensor, "*batch K"], *, w_min: Number, w_max: Number) -> Float[Tensor, "*batch K"]:
    """Return the weights in the box of least ``KL(w || v)``: ``clip(c v, w_min, w_max)``.

    The same ``clip`` minimises ``<w, d> + tau KL(w || prior)`` over the box for ``v = prior exp(-d/tau)``.

    Args:
        v: Non-negative numbers, not necessarily normalised. Zeros count as equal and infinitely small.
        w_min: Least weight.
        w_max: Largest weight.

    Returns:
        Probabilities, at least float32; teachers at no bound keep their ratios.

    Raises:
        ValueError: The box is empty for ``K``.

    >>> v = torch.tensor([0.9, 0.07, 0.03], dtype=torch.float64)
    >>> project_kl(v, w_min=0.1, w_max=0.6).round(decimals=3).tolist()
    [0.6, 0.28, 0.12]
    """
    low, high = effective_bounds(v.shape[-1], w_min=w_min, w_max=w_max)
    return project_kl_log(numerics.log_of(v), w_min=w_min, w_max=w_max).exp().clamp(low, high)


def project_kl_log(log_v: Float[Tensor, "*batch K"], *, w_min: Number, w_max: Number) -> Float[Tensor, "*batch K"]:
    """:func:`project_kl` from log-weights to log-weights, without underflow.

    After ``softmax`` this guard is free: softmax and guard together are 1/2-Lipschitz in the sup norm, as softmax is.

    Args:
        log_v: Logs up to a common constant, however negative; ``-inf`` counts as ``-1e30``.
        w_min: Least weight.
        w_max: Largest weight.

    Returns:
        Log-weights, at least float32, exp-summing to 1, not below ``LOG_ZERO``.

    Raises:
        ValueError: The box is empty for ``K``.
    """
    low, high = effective_bounds(log_v.shape[-1], w_min=w_min, w_max=w_max)
    log_low, log_high = math.log(low) if low > 0 else -math.inf, math.log(high)
    wide = log_v.to(numerics.reduction_dtype(log_v.dtype)).clamp_min(-1e30)
    with torch.no_grad():
        at_low, at_high = _active(
            wide,
            sum_at_high=lambda breakpoint: (
                (wide - breakpoint + log_high).exp().clamp(low, high).sum(dim=-1, keepdim=True)
            ),
            sum_at_low=lambda breakpoint: (
                (wide - breakpoint + log_low).exp().clamp(low, high).sum(dim=-1, keepdim=True)
            ),
        )
        free = ~(at_high | at_low)
        rest, _ = _rest(at_low, at_high, low, high, wide)
        # Rows without a free teacher take no value from the formula, but it must stay finite for autograd.
        summed = free | ~free.any(dim=-1, keepdim=True)
        reference = wide.masked_fill(~summed, -torch.inf).amax(dim=-1, keepdim=True)
    # Free teachers may all be near LOG_ZERO; subtracting the largest first keeps their ratios exact in float32.
    centred = wide - reference
    log_sum = centred.masked_fill(~summed, -torch.inf).logsumexp(dim=-1, keepdim=True)
    log_w = centred - log_sum + numerics.log_of(rest)
    floor = max(log_low, numerics.LOG_ZERO)
    return _at_bounds(log_w, at_low, at_high, floor, log_high)


def _active(
    v: Float[Tensor, "*batch K"],
    *,
    sum_at_high: Callable[[Tensor], Tensor],
    sum_at_low: Callable[[Tensor], Tensor],
) -> tuple[Bool[Tensor, "*batch K"], Bool[Tensor, "*batch K"]]:
    """Return who is at the lower and who at the upper bound, by bisection over ranks.

    Args:
        v: What is projected.
        sum_at_high: The clipped sum ``[*batch 1]`` if a teacher with the value given were just at the upper bound.
        sum_at_low: Likewise for the lower bound.
    """
    descending = v.sort(dim=-1, descending=True).values
    n_high = _count_while(lambda rank: sum_at_high(descending.gather(-1, rank)) <= 1, v)
    n_low = _count_while(lambda rank: sum_at_low(descending.gather(-1, v.shape[-1] - 1 - rank)) >= 1, v)
    # By value and not by rank, so that ties are treated alike.
    at_high = (v >= descending.gather(-1, (n_high - 1).clamp_min(0))) & (n_high > 0)
    at_low = (v <= descending.gather(-1, (v.shape[-1] - n_low).clamp_max(v.shape[-1] - 1))) & (n_low > 0)
    return at_low & ~at_high, at_high


def _count_while(holds: Callable[[Tensor], Tensor], v: Float[Tensor, "*batch K"]) -> Int[Tensor, "*batch 1"]:
    """Return how many ranks ``0, 1, ..`` in a row satisfy ``holds``, which no rank does after one that does not."""
    n = v.shape[-1]
    least = torch.zeros_like(v[..., :1], dtype=torch.long)
    most = torch.full_like(least, n)
    for _ in range(n.bit_length()):
        middle = (least + most) // 2
        is_settled = least == most
        passes = holds(middle.clamp_max(n - 1)) & ~is_settled
        least = torch.where(passes, middle + 1, least)
        most = torch.where(passes | is_settled, most, middle)
    return least


def _rest(
    at_low: Bool[Tensor, "*batch K"], at_high: Bool[Tensor, "*batch K"], low: float, high: float, like: Tensor
) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """Return the mass left for the free teachers, and their number (1 where there is none, to divide by)."""
    n_low = at_low.sum(dim=-1, keepdim=True).to(like.dtype)
    n_high = at_high.sum(dim=-1, keepdim=True).to(like.dtype)
    n_free = like.shape[-1] - n_low - n_high
    # Each free weight is within the bounds, so rounding must not leave less or more than that.
    rest = torch.minimum(torch.maximum(1 - n_high * high - n_low * low, n_free * low), n_free * high)
    return rest, n_free.clamp_min(1)


def _at_bounds(
    free_value: Float[Tensor, "*batch K"],
    at_low: Bool[Tensor, "*batch K"],
    at_high: Bool[Tensor, "*batch K"],
    low: float,
    high: float,
) -> Float[Tensor, "*batch K"]:
    return free_value.masked_fill(at_low, low).masked_fill(at_high, high).clamp(low, high)
