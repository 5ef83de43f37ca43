"""Mixture weights of least ``KL(t || sum_k w_k p_k)`` in a box simplex.

Expectation maximisation multiplies each weight by ``c_k = sum_v t_v p_k(v)/x(v)`` and clips: it never goes up, and
crawls. Newton's method on the box is a quadratic program and is quick near the end, but may overshoot. Each step takes
whichever is lower, so the divergence never increases and the end is quadratic.
"""

import torch

from mashbill import numerics
from mashbill.pools.precision import widest
from mashbill.pools.support import largest_mean
from mashbill.shapes import Float, Tensor
from mashbill.weights import quadratic
from mashbill.weights.shares import Number
from mashbill.weights.simplex import project_kl, project_l2

_STRIDES = (1.0, 0.5, 0.125, 0.015625)
_LARGE = 1e30  # p/x where a teacher of weight 0 knows what no other does; squares of it still fit into float64


def fit(
    target: Float[Tensor, "*batch V"],
    teachers: Float[Tensor, "K *batch V"],
    *,
    w_min: Number,
    w_max: Number,
    tolerance: Number,
    max_steps: int,
) -> Float[Tensor, "K *batch"]:
    """Return the weights; their gradient is that of the exact solution, by the implicit function theorem.

    Args:
        target: Log-probabilities in nats.
        teachers: Log-probabilities in nats.
        w_min: Least weight.
        w_max: Largest weight.
        tolerance: Stops where ``max_w' sum_k (w'_k - w_k) c_k`` is at most this everywhere.
        max_steps: Stops here all the same.
    """
    dtype, inside = teachers.dtype, widest(teachers)
    target, teachers = target.to(inside), teachers.to(inside)
    t = target.exp()
    box = {"w_min": w_min, "w_max": w_max}
    with torch.no_grad():
        w = torch.full_like(teachers[..., 0], 1 / len(teachers))
        for _ in range(max_steps):
            ratio = _ratio(teachers, w)
            c = (t * ratio).sum(dim=-1)
            if bool((largest_mean(c, **box) - (w * c).sum(dim=0) <= tolerance).all()):
                break
            w = w + _descent(t, ratio, w, c, teachers=teachers, box=box)
        ratio = _ratio(teachers, w)
        hessian = torch.einsum("...v,j...v,k...v->...jk", t, ratio, ratio)
    # One more Newton step gives the derivative of the solution; its value would add rounding only.
    step = _newton(hessian, (target.exp() * _ratio(teachers, w)).sum(dim=-1), w, box)
    return (w + step - step.detach()).to(dtype)


def mix(teachers: Float[Tensor, "K *batch V"], weights: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch V"]:
    """Return ``log sum_k w_k p_k`` from weights that may be 0, with their gradient there."""
    # Differentiable at w_k = 0, where the logarithm of the weight is not; teachers' small entries stay in log space.
    peak = teachers.detach().amax(dim=0)
    total = (weights.unsqueeze(-1) * (teachers - peak).exp()).sum(dim=0)
    return (numerics.log_of(total) + peak).clamp_min(numerics.LOG_ZERO)


def _ratio(teachers: Tensor, w: Tensor) -> Tensor:
    """Return ``p_k(v)/x(v)``, ``[K *batch V]``; 0 where no teacher with weight knows the entry."""
    x = mix(teachers, w)
    return torch.where(x > numerics.LOG_ZERO, teachers - x, -torch.inf).exp().clamp(max=_LARGE)


def _newton(hessian: Tensor, c: Tensor, w: Tensor, box: dict[str, Number]) -> Tensor:
    """Return the minimiser over the box of the second-order model at ``w``."""
    at = w.movedim(0, -1)
    slope = -c.movedim(0, -1) - torch.einsum("...jk,...k->...j", hessian, at)
    return quadratic.minimise(hessian, linear=slope, w_min=box["w_min"], w_max=box["w_max"]).movedim(-1, 0)


def _descent(t: Tensor, ratio: Tensor, w: Tensor, c: Tensor, *, teachers: Tensor, box: dict[str, Number]) -> Tensor:
    """Return the best of no step, the step of expectation maximisation, and Newton's in several lengths."""
    hessian = torch.einsum("...v,j...v,k...v->...jk", t, ratio, ratio)
    # A model without curvature in some direction is where rounding may leave the box; the last projection does not.
    ahead = project_l2(_newton(hessian, c, w, box).movedim(0, -1), **box).movedim(-1, 0) - w
    maximised = project_kl((w * c).movedim(0, -1), **box).movedim(-1, 0) - w
    best, least = torch.zeros_like(w), torch.zeros_like(w[0])
    here = mix(teachers, w)
    for candidate in (maximised, *(stride * ahead for stride in _STRIDES)):
        # The last digit of a weight at a bound is no step, but the slope there is steep.
        step = torch.where(candidate.abs() > 8 * torch.finfo(w.dtype).eps, candidate, 0)
        rise = _rise(t, ratio, c, step, log_change=mix(teachers, w + step) - here)
        best, least = torch.where(rise < least, step, best), torch.minimum(rise, least)
    return best


def _rise(t: Tensor, ratio: Tensor, c: Tensor, step: Tensor, *, log_change: Tensor) -> Tensor:
    """Return by how much ``KL(t || x)`` grows with the step, to the digits of the growth, not of the divergence."""
    change = torch.einsum("k...,k...v->...v", step, ratio).clamp_min(-1)
    # An entry that nearly vanishes has no digits left in `change`, but all of them in its own logarithm.
    logs = torch.where(change < -0.5, log_change, change.clamp_min(-0.5).log1p())
    # One that matters must not be lost in a single step: from a weight of 0 the way back is too steep to find.
    logs = logs.masked_fill((change < -1 + 1e-8) & (t > 1e-12), -torch.inf)
    curved = torch.where(t > 0, t * (change - logs), 0).sum(dim=-1)
    # Steps sum to 0 but for rounding; seen from the level of those that move, their sum does not count.
    level = (step.square() * c).sum(dim=0) / step.square().sum(dim=0).clamp_min(torch.finfo(c.dtype).tiny)
    return curved - (step * (c - level)).sum(dim=0)
