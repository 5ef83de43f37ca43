"""Weights that minimise a quadratic form over the box simplex: least variance, least norm of a mixed gradient.

``min_w w'(G + ridge I)w / 2 + linear'w`` over ``{sum_k w_k = 1, w_min <= w_k <= w_max}``, optionally with
``w_safer >= w_less`` for the pairs of a safety order. Exact: an active-set method finds the set of bounds that hold,
and the weights solve a linear system on it. With ``G`` the Gram matrix of gradients this is MGDA, with ``G`` a
covariance it is the portfolio of least variance.
"""

import math
from typing import Any

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights import active_set, box_program
from mashbill.weights import order as orders
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.order import SafetyOrder
from mashbill.weights.shares import Number
from mashbill.weights.simplex import project_l2


def minimise(
    gram: Float[Tensor, "*batch K K"],
    *,
    w_min: Number = 0.0,
    w_max: Number = 1.0,
    ridge: Number = 0.0,
    linear: Float[Tensor, "*#batch K"] | None = None,
    order: SafetyOrder | None = None,
) -> Float[Tensor, "*batch K"]:
    """Return the minimiser of ``w'(gram + ridge I)w / 2 + linear'w`` over the box simplex.

    With several minimisers (collinear or identical gradients, no gradient at all), the one of least norm, which is
    the limit of ``ridge -> 0`` and the most even: identical teachers share alike. That choice is deterministic and
    commutes with permutations, but it is not continuous in ``gram``; with ``ridge > 0`` the minimiser is unique and
    Lipschitz, see :func:`sensitivity`.

    The gradient is that of the linear system on the active set: exact where no multiplier is 0, one-sided elsewhere;
    directions without curvature carry none. It can be taken again.

    Args:
        gram: Symmetric, positive semidefinite; an asymmetric or indefinite one counts as the semidefinite part of its
            symmetric part. Solved in float64 whatever its dtype; curvature below ``1e-14`` of the largest entry is 0.
        w_min: Least weight.
        w_max: Largest weight.
        ridge: Added to the diagonal, in the units of ``gram``. Not negative.
        linear: In the units of ``gram``.
        order: Pairs of teachers of whom the safer must not count less.

    Returns:
        Probabilities in the dtype of ``gram``, float32 at least. Up to rounding, :func:`kkt_residual` is 0.

    Raises:
        ValueError: The box is empty for ``K``, ``ridge`` is negative, an entry is not finite, or the order is for
            another ``K``.

    Source:
        Désidéri, *Multiple-gradient descent algorithm*, C. R. Math. 350, 2012 (no box, no ridge). Cost: ``O(K^3)`` a
        face, about one face for each weight at a bound.

    >>> minimise(torch.diag(torch.tensor([1.0, 4.0, 0.25]))).double().numpy().round(4).tolist()
    [0.1905, 0.0476, 0.7619]
    """
    n_teachers = gram.shape[-1]
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge={ridge!r} must be finite and not negative")
    dtype = numerics.reduction_dtype(gram.dtype)
    if high - low < 1e-12:
        return torch.full_like(gram[..., 0], 1 / n_teachers, dtype=dtype)
    hessian, slope = _problem(gram, ridge, linear)
    if not bool((hessian.isfinite().all() & slope.isfinite().all()).item()):
        raise ValueError("gram and linear must be finite; a NaN or infinite gradient has no direction to mix")
    with torch.no_grad():
        scale = _scale(hessian, slope).unsqueeze(-1)
        box = box_program.box_simplex(n_teachers, low, high, order, like=slope)
        w, inverse = box_program.solve(hessian / scale.unsqueeze(-1), slope / scale, box)
    flat: Any = box_program.Solution.apply(hessian, slope, w, inverse / scale.unsqueeze(-1))
    return flat.to(gram.device, dtype).reshape(gram.shape[:-1])


def form(gram: Float[Tensor, "*batch K K"], w: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """Return ``w'Gw``: the variance of a mix if ``G`` is a covariance, the squared norm of a mixed gradient else.

    >>> w, covariance = torch.tensor([0.6, 0.4]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> round(float(form(covariance, w)), 4)
    0.04
    """
    return torch.einsum("...j,...jk,...k->...", w, gram, w)


def kkt_residual(
    gram: Float[Tensor, "*batch K K"],
    w: Float[Tensor, "*batch K"],
    *,
    w_min: Number = 0.0,
    w_max: Number = 1.0,
    ridge: Number = 0.0,
    linear: Float[Tensor, "*#batch K"] | None = None,
    order: SafetyOrder | None = None,
) -> Float[Tensor, "*batch"]:
    """Certificate: ``max_k |w - project(w - gradient/scale)|_k``, 0 if and only if ``w`` solves :func:`minimise`.

    ``project`` is the exact l2 projection onto the same set, so infeasible weights show as well; ``scale`` is the
    largest entry of the problem. Stationarity, feasibility and complementary slackness in one number, in weights.

    >>> gram = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    >>> residuals = [kkt_residual(gram, w.double()) for w in (torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]))]
    >>> [round(float(residual), 3) for residual in residuals]
    [0.0, 0.188]
    """
    hessian, slope = _problem(gram, ridge, linear)
    wide = w.to(hessian.device, torch.float64).reshape(slope.shape)
    gradient = active_set.times(hessian, wide) + slope
    target = wide - gradient / _scale(hessian, slope).unsqueeze(-1)
    safety = order or SafetyOrder(w.shape[-1], ())
    nearest = project_l2(orders.fit(target, safety), w_min=w_min, w_max=w_max)
    residual = (wide - nearest).abs().amax(dim=-1)
    return residual.to(gram.device, numerics.reduction_dtype(gram.dtype)).reshape(gram.shape[:-2])


def optimality_gap(
    gram: Float[Tensor, "*batch K K"],
    w: Float[Tensor, "*batch K"],
    *,
    w_min: Number = 0.0,
    w_max: Number = 1.0,
    ridge: Number = 0.0,
    linear: Float[Tensor, "*#batch K"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Certificate: no weights in the box have an objective smaller than that of ``w`` by more than this.

    ``max_v gradient'(w - v)`` over the box simplex (Frank and Wolfe's gap), for feasible ``w``; by convexity it bounds
    the excess. The maximising ``v`` fills the teachers of least gradient up to ``w_max``.
    """
    n_teachers = w.shape[-1]
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    hessian, slope = _problem(gram, ridge, linear)
    wide = w.to(hessian.device, torch.float64).reshape(slope.shape)
    gradient = active_set.times(hessian, wide) + slope
    filled = torch.arange(n_teachers, device=wide.device, dtype=torch.float64) * (high - low)
    vertex = low + (1 - n_teachers * low - filled).clamp(0, high - low)
    gap = (gradient * wide).sum(dim=-1) - (gradient.sort(dim=-1).values * vertex).sum(dim=-1)
    return gap.to(gram.device, numerics.reduction_dtype(gram.dtype)).reshape(gram.shape[:-2])


def sensitivity(w: Float[Tensor, "*batch K"], *, ridge: Number) -> Float[Tensor, "*batch"]:
    """Return ``|w|_2 / ridge``, the Lipschitz constant of :func:`minimise` at ``w`` in ``gram``.

    For every other semidefinite ``G'``: ``|w' - w|_2 <= |G' - G|_2 |w|_2 / ridge``, spectral norm, because the
    objective is ``ridge``-strongly convex and its gradient at ``w`` moves by ``(G' - G)w``. In the sup norm
    ``sqrt(1 - 1/K)`` of that, because ``w' - w`` sums to 0.
    """
    return w.norm(dim=-1) / ridge


def longest(n_teachers: int, *, w_min: Number, w_max: Number) -> float:
    """Return the largest ``|w|_2`` in the box simplex, at a vertex: as many weights as possible at ``w_max``.

    >>> round(longest(3, w_min=0.1, w_max=0.5), 4)
    0.6481
    """
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    left = max(1 - n_teachers * low, 0.0)
    steps = [min(max(left - k * (high - low), 0.0), high - low) for k in range(n_teachers)]
    return math.hypot(*(low + step for step in steps))


def _problem(
    gram: Float[Tensor, "*batch K K"], ridge: Number, linear: Float[Tensor, "*#batch K"] | None
) -> tuple[Float[Tensor, "n K K"], Float[Tensor, "n K"]]:
    """Return Hessian and linear term in float64, with one batch axis."""
    device = torch.device("cpu") if gram.device.type == "mps" else gram.device  # which has no float64
    n_teachers = gram.shape[-1]
    wide = gram.to(device, torch.float64).reshape(-1, n_teachers, n_teachers)
    hessian = (wide + wide.mT) / 2 + ridge * torch.eye(n_teachers, dtype=torch.float64, device=device)
    if linear is None:
        return hessian, torch.zeros_like(hessian[..., 0])
    return hessian, linear.to(device, torch.float64).expand(gram.shape[:-1]).reshape(-1, n_teachers)


def _scale(hessian: Float[Tensor, "n K K"], slope: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
    largest = torch.maximum(hessian.abs().amax(dim=(-2, -1)), slope.abs().amax(dim=-1))
    return torch.where(largest > 0, largest, 1)


__all__ = ["form", "kkt_residual", "longest", "minimise", "optimality_gap", "sensitivity"]
