"""What noise in the weights does: to the target, to the loss, and to the student that learns it."""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


@dataclass(frozen=True)
class TargetShift:
    """How far noisy weights move a linear pool.

    Attributes:
        kl: ``KL(q || q~)``: what a student that learns ``q~`` exactly loses, nats.
        l1: ``|q~ - q|_1``.
        bound: ``|eps|_1 D_TV``, never below ``l1``.
    """

    kl: Float[Tensor, "*batch"]
    l1: Float[Tensor, "*batch"]
    bound: Float[Tensor, "*batch"]


def target_shift(
    probabilities: Float[Tensor, "K *batch V"], weights: Float[Tensor, "K *#batch"], noise: Float[Tensor, "K *#batch"]
) -> TargetShift:
    """Measure the linear pool's shift when weights ``w`` become ``w + eps``, beside its bound.

    Args:
        probabilities: The teachers' distributions.
        weights: ``w``, probabilities.
        noise: ``eps``; sums to 0 over teachers, and ``w + eps`` is not negative.

    Source:
        arXiv 2601.17910, Remark VI.4, with the constant that holds: its ``O(delta L)`` is 0 for constant weights.

    >>> p = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64)
    >>> w, eps = (torch.tensor(pair, dtype=torch.float64) for pair in ([0.5, 0.5], [0.05, -0.05]))
    >>> round(float(target_shift(p, w, eps).l1), 6)
    0.04
    """
    wide = numerics.widen(probabilities)
    q = (weights.to(wide.dtype).unsqueeze(-1) * wide).sum(dim=0)
    moved = ((weights + noise).to(wide.dtype).unsqueeze(-1) * wide).sum(dim=0)
    kl = (q * (numerics.log_of(q) - numerics.log_of(moved))).sum(dim=-1)
    bound = noise.to(wide.dtype).abs().sum(dim=0) * tv_diameter(wide)
    return TargetShift(kl, (moved - q).abs().sum(dim=-1), bound)


def tv_diameter(probabilities: Float[Tensor, "K *batch V"]) -> Float[Tensor, "*batch"]:
    """Largest total variation between two teachers, ``D_TV = max_jk |p_j - p_k|_1 / 2``."""
    pairs = [(one - probabilities).abs().sum(dim=-1).amax(dim=0) for one in probabilities]
    return torch.stack(pairs).amax(dim=0) / 2


def noise_l1(n_teachers: int, delta: Number) -> float:
    """Largest l1 norm of noise that sums to 0 and is at most ``delta`` everywhere: ``2 floor(K/2) delta``."""
    if not delta >= 0:
        raise ValueError(f"delta={delta!r} must not be negative")
    return 2.0 * (n_teachers // 2) * delta


def shift_bound(delta: Number, *, n_teachers: int, diameter: Number = 1.0) -> float:
    """Bound of the target's l1 shift for noise of at most ``delta``: ``2 floor(K/2) delta D_TV``, attained.

    ``eps`` is ``|eps|_1 / 2`` times a difference of two mixtures of teachers, which are at most ``2 D_TV`` apart.

    Args:
        delta: Largest noise of a weight.
        n_teachers: ``K``.
        diameter: ``D_TV``; at most 1, whatever the teachers.
    """
    return noise_l1(n_teachers, delta) * diameter


def excess_loss_bound(delta: Number, *, n_teachers: int, w_min: Number, diameter: Number = 1.0) -> float:
    """Bound of ``KL(q || q~)`` in nats, quadratic in the noise: ``2 floor(K/2) delta^2 D_TV / w_min``.

    ``KL <= chi^2 = sum_v (q - q~)^2 / q~``, and ``|q - q~| <= (delta / w_min) q~`` entry by entry.

    Args:
        delta: Largest noise of a weight.
        n_teachers: ``K``.
        w_min: Least weight after the noise; positive.
        diameter: ``D_TV``.

    Source:
        Replaces arXiv 2601.17910, Remark VI.4's ``O(delta L)``.
    """
    if not 0 < w_min <= 1:
        raise ValueError(f"w_min={w_min!r} must be above 0, at most 1: without it the loss has no bound")
    return shift_bound(delta, n_teachers=n_teachers, diameter=diameter) * delta / w_min


def parameter_shift_bound(
    delta: Number, *, n_teachers: int, curvature: Number, score: Number, diameter: Number = 1.0
) -> float:
    """Bound of how far the best student moves: ``(G / mu) 2 floor(K/2) delta D_TV``, in the norm of the parameters.

    Two losses' gradients at one student differ by at most ``G |q - q~|_1``, and a ``mu``-strongly convex loss is
    minimal within ``|gradient| / mu``.

    Args:
        delta: Largest noise of a weight.
        n_teachers: ``K``.
        curvature: ``mu`` of the loss, positive: a regulariser's, as a rule.
        score: ``G``, a bound of the gradient of each log-probability of the student.
        diameter: ``D_TV``.

    Source:
        arXiv 2601.17910, Theorem VII.2, with its constant.
    """
    if not (curvature > 0 and score >= 0):
        raise ValueError(f"curvature={curvature!r} must be positive, and score={score!r} not negative")
    return score / curvature * shift_bound(delta, n_teachers=n_teachers, diameter=diameter)


def parameter_shift(
    hessian: Float[Tensor, "P P"], pulls: Float[Tensor, "P K"], noise: Float[Tensor, " K"]
) -> Float[Tensor, " P"]:
    """First-order shift of the best student, by the implicit function theorem: ``H^-1 sum_k eps_k c_k``.

    Exact up to ``O(delta^2)``, so Theorem VII.2's rate is tight unless this is 0.

    Args:
        hessian: Of the regularised loss at its minimum.
        pulls: ``c_k = E sum_v p_k(v) grad log p_S(v)`` there.
        noise: ``eps``.
    """
    return torch.linalg.solve(hessian, pulls @ noise)
