"""The quadratic program of :mod:`mashbill.weights.quadratic`: its polytope, its solution and the derivative of that."""

import math
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from mashbill.shapes import Float, Tensor
from mashbill.weights import active_set
from mashbill.weights.active_set import Bounds
from mashbill.weights.order import SafetyOrder


class BoxSimplex(NamedTuple):
    """The weights allowed.

    Attributes:
        bounds: ``w >= low``, ``-w >= -high``, then ``w_safer - w_less >= 0``, in unit rows.
        low: Least weight.
        high: Largest weight.
        fixed: Projector onto what is given by equality: the sum, and differences of teachers that the order ties.
        start: Weights at no bound.
    """

    bounds: Bounds
    low: float
    high: float
    fixed: Float[Tensor, "K K"]
    start: Float[Tensor, " K"]


def box_simplex(n_teachers: int, low: float, high: float, order: SafetyOrder | None, *, like: Tensor) -> BoxSimplex:
    """Build the polytope.

    Raises:
        ValueError: The order is for another ``K``.
    """
    pairs = _covers(order, n_teachers)
    unit = torch.eye(n_teachers, dtype=like.dtype, device=like.device)
    tied = torch.stack([(unit[i] - unit[j]) / math.sqrt(2) for i, j in pairs]) if pairs else unit[:0]
    ends = torch.cat([torch.full_like(unit[0], low), torch.full_like(unit[0], -high), torch.zeros_like(tied[:, 0])])
    start, fixed = torch.full_like(unit[0], 1 / n_teachers), torch.full_like(unit, 1 / n_teachers)
    if order is not None:
        rank = torch.tensor(order.copeland(), dtype=like.dtype, device=like.device)
        start = start + rank * (min(1 / n_teachers - low, high - 1 / n_teachers) / (2 * n_teachers))
        apart = [unit[i] - unit[j] for group in order.ties for i, j in pairwise(group)]
        fixed = _projector(torch.stack([torch.ones_like(unit[0]), *apart])) if apart else fixed
    return BoxSimplex(Bounds(torch.cat([unit, -unit, tied]), ends), low, high, fixed, start)


def _projector(rows: Float[Tensor, "M K"]) -> Float[Tensor, "K K"]:
    """Return the projector onto the span of rows of whole numbers."""
    size, basis = torch.linalg.eigh(rows.T @ rows)
    basis = basis * (size > 1e-6)
    return basis @ basis.T


def solve(
    hessian: Float[Tensor, "n K K"], slope: Float[Tensor, "n K"], box: BoxSimplex
) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n K K"]]:
    """Return the minimiser of least norm, and the inverse of the Hessian on its face.

    Args:
        hessian: Entries up to 1; made semidefinite.
        slope: At ``w = 0``, entries up to 1.
        box: Where to look.
    """
    hessian = _semidefinite(hessian)
    n, n_teachers = slope.shape
    given = box.fixed.expand_as(hessian)
    w, working = active_set.descend(hessian, slope, bounds=box.bounds, fixed=given, start=box.start.expand(n, -1))
    rows = active_set.Rows.leaning(box.bounds.rows, given)
    whole = active_set.face(hessian, rows, torch.zeros_like(working), given)
    is_open = torch.diagonal(whole.flat, dim1=-2, dim2=-1).sum(dim=-1) > 0.5
    if bool(is_open.any()):
        anew = active_set.times(hessian, w) + slope
        w[is_open] = _most_even(w[is_open], anew[is_open], whole.flat[is_open], whole.inverse[is_open], box.bounds)
        working &= box.bounds.room(w) < 1e-12
    face = active_set.face(hessian, rows, working, given)
    for _ in range(2):  # what rounding along the way has added up
        w = active_set.polish(w, active_set.times(hessian, w) + slope, face, bounds=box.bounds, working=working)
    at_low, at_high = working[:, :n_teachers], working[:, n_teachers : 2 * n_teachers]
    w = torch.where(at_low, box.low, torch.where(at_high, box.high, w)).clamp(box.low, box.high)
    return w, face.along @ face.inverse @ face.along


class Solution(torch.autograd.Function):
    """A value ``x`` with ``dx = -inverse (dH x + dc)``, as the minimiser on its face has.

    Backward needs ``m = -inverse g``, and ``dm = -inverse (dH m + dg)``: a value of the same kind, so derivatives of
    any order follow.
    """

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> Tensor:
        """Take Hessian ``[n K K]``, slope ``[n K]``, value ``[n K]`` and inverse ``[n K K]``; return the value."""
        hessian, _slope, value, inverse = args
        found = value.clone()
        ctx.save_for_backward(hessian, found, inverse)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of Hessian and slope."""
        hessian, found, inverse = ctx.saved_tensors
        moved: Any = Solution.apply(hessian, grads[0], -active_set.times(inverse, grads[0].detach()), inverse)
        outer = moved.unsqueeze(-1) * found.unsqueeze(-2)
        return (outer + outer.mT) / 2, moved, None, None


def _most_even(
    w: Float[Tensor, "n K"],
    slope: Float[Tensor, "n K"],
    flat: Float[Tensor, "n K K"],
    inverse: Float[Tensor, "n K K"],
    bounds: Bounds,
) -> Float[Tensor, "n K"]:
    """Move from a minimiser to that of least norm: only along flat directions do others lie, and not uphill."""
    # How far flat directions, as computed, may lean towards those of least curvature.
    blur = active_set.ROUNDING * w.shape[-1] * inverse.abs().amax(dim=(-2, -1))
    ray = active_set.times(flat, slope)
    length = ray.norm(dim=-1, keepdim=True)
    is_uphill = length > blur.clamp(10 * active_set.ROUNDING * w.shape[-1], 5e-11).unsqueeze(-1)
    ray = torch.where(is_uphill, ray / length.clamp_min(1e-300), 0)
    unit = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    return active_set.descend(
        unit.expand_as(flat),
        torch.zeros_like(w),
        bounds=bounds,
        fixed=unit - flat + ray.unsqueeze(-1) * ray.unsqueeze(-2),
        start=w,
        least=blur.clamp(active_set.SPANNED, 1e-7),
    )[0]


@lru_cache(maxsize=1024)
def _covers(order: SafetyOrder | None, n_teachers: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of an order that do not follow from others: redundant rows would only make ties."""
    if order is None:
        return ()
    if order.n_teachers != n_teachers:
        raise ValueError(f"order is of {order.n_teachers} teachers, but gram of {n_teachers}; order the same teachers")
    pairs = set(order.closure)
    between = {(i, j) for i, m in pairs for k, j in pairs if m == k}
    return tuple(sorted(pairs - between))


def _semidefinite(hessian: Float[Tensor, "n K K"]) -> Float[Tensor, "n K K"]:
    """Return the nearest semidefinite matrix where rounding in a narrower dtype has left a negative curvature."""
    curvature, basis = torch.linalg.eigh(hessian)
    is_indefinite = curvature[:, :1].unsqueeze(-1) < -1e-13
    return torch.where(is_indefinite, (basis * curvature.clamp_min(0).unsqueeze(-2)) @ basis.mT, hessian)
