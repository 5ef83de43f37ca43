"""Projection onto the mixtures of the teachers, with a certificate that a third party can check.

The mixtures ``{sum_k w_k p_k}`` with weights in a box simplex are a polytope in ``V`` dimensions, but the projection
onto it is a problem in ``K``: a ``K``-by-``K`` quadratic program for the Euclidean distance, a fit of mixture weights
for the Kullback-Leibler divergence.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from mashbill import numerics
from mashbill.pools import mixture_fit
from mashbill.pools.support import largest_mean
from mashbill.shapes import Float, Tensor
from mashbill.weights import quadratic
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.shares import Number

Metric = Literal["l2", "kl"]


@dataclass(frozen=True)
class HullProjection:
    """The mixture of teachers nearest to a target, and the proof that none is nearer.

    A target is a mixture if ``distance`` is 0 to rounding, and is proved not to be one if ``lower`` is more than
    rounding. Check: ``margin = separator . target - max_w separator . (mixture of w)``.

    Attributes:
        logprobs: The mixture, in nats.
        weights: Its weights, probabilities in the box; zeros are exact with ``l2``.
        distance: From the target to the mixture: ``|t - x|_2``, or ``KL(t || x)`` in nats.
        lower: No mixture is nearer than this. No gradient.
        gap: Certificate of optimality: no weights have an objective, ``|t - x|^2 / 2`` or ``KL(t || x)``, that is
            less by more than this (Frank and Wolfe's gap; with ``kl`` and no box ``max_k sum_v t_v p_k(v)/x(v) - 1``).
            0 to rounding with ``l2``. No gradient.
        separator: The direction ``t - x``, or ``t/x`` with ``kl``. No gradient.
        margin: If positive, no mixture is the target: along ``separator`` all of them lie below it. With ``l2`` this
            is the squared distance less the gap. No gradient.
    """

    logprobs: Float[Tensor, "*batch V"]
    weights: Float[Tensor, "K *batch"]
    distance: Float[Tensor, "*batch"]
    lower: Float[Tensor, "*batch"]
    gap: Float[Tensor, "*batch"]
    separator: Float[Tensor, "*batch V"]
    margin: Float[Tensor, "*batch"]


def hull_project(
    target: Float[Tensor, "*batch V"],
    teachers: Float[Tensor, "K *batch V"],
    *,
    metric: Metric = "l2",
    w_min: Number = 0.0,
    w_max: Number = 1.0,
    tolerance: Number = 1e-9,
    max_steps: int = 100,
) -> HullProjection:
    """Return the mixture ``sum_k w_k p_k``, ``w_min <= w_k <= w_max``, that is nearest to ``target``.

    ``l2``: exact, by an active-set method. 1-Lipschitz in the target in l2. Of several weights that give the same
    mixture the most even ones are returned.

    ``kl``: ``min_w KL(t || sum_k w_k p_k)`` by steps of expectation maximisation, or of Newton's method on the box
    where that goes lower; the divergence never increases, and the iteration stops where ``gap`` is at most
    ``tolerance``. Entries that the target finds possible and no teacher does cost ``1e4`` nats each and have no say.

    Differentiable in both arguments: through the active bounds, as for the exact solution; weights at a bound have no
    gradient, and neither have directions that change weights but not the mixture.

    Args:
        target: Log-probabilities in nats. With ``l2`` they need not sum to 1.
        teachers: Log-probabilities in nats, normalised over ``V``.
        metric: ``"l2"`` or ``"kl"``.
        w_min: Least weight.
        w_max: Largest weight.
        tolerance: Largest ``gap`` in nats at which ``kl`` stops; ``l2`` has none.
        max_steps: Steps after which ``kl`` stops all the same; ``gap`` says how good the result is.

    Raises:
        ValueError: An unknown metric, a box that is empty for ``K``, or probabilities in place of their logs.

    Source:
        arXiv 2601.17910, Definition III.7: a target must be a mixture. The certificate of the fit is that of Lindsay,
        *The Geometry of Mixture Likelihoods*, Ann. Statist. 11(1), 1983. Cost: ``O(K^2 V)``, times the steps for
        ``kl``.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    >>> target = torch.tensor([0.68, 0.29, 0.19], dtype=torch.float64)
    >>> nearest = hull_project((target / target.sum()).log(), teachers)
    >>> round(nearest.distance.item(), 6), nearest.weights.round(decimals=4).tolist()
    (0.009753, [0.4655, 0.5345])
    """
    if metric not in ("l2", "kl"):
        raise ValueError(f"metric={metric!r} must be 'l2' or 'kl'")
    largest = float(target.detach().amax()) if target.numel() else 0.0
    if largest > 1e-3:
        raise ValueError(f"target has a value of {largest:.6g}, but must be log-probabilities; take the log")
    effective_bounds(len(teachers), w_min=w_min, w_max=w_max)
    dtype = numerics.reduction_dtype(torch.promote_types(target.dtype, teachers.dtype))
    target, teachers = target.to(dtype), teachers.to(dtype)
    if metric == "kl":
        box = {"w_min": w_min, "w_max": w_max}
        fit = mixture_fit.fit(target, teachers, **box, tolerance=tolerance, max_steps=max_steps)
        return _certified_kl(target, teachers, fit, w_min, w_max)
    return _nearest_l2(target, teachers, w_min, w_max)


def _nearest_l2(target: Tensor, teachers: Tensor, w_min: Number, w_max: Number) -> HullProjection:
    t, p = target.exp(), teachers.exp()
    # Seen from the mean teacher, so that teachers much like each other keep their differences.
    centre = p.mean(dim=0)
    spread, offset = p - centre, t - centre
    gram = torch.einsum("j...v,k...v->...jk", spread, spread)
    pull = torch.einsum("k...v,...v->...k", spread, offset)
    weights = quadratic.minimise(gram, linear=-pull, w_min=w_min, w_max=w_max).movedim(-1, 0)
    separator = offset - torch.einsum("k...,k...v->...v", weights, spread)
    mixture = torch.einsum("k...,k...v->...v", weights, p)
    squared = separator.square().sum(dim=-1)
    # The root has no slope at 0; a target that is a mixture gets 0 for it.
    distance = torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)
    with torch.no_grad():
        reached = torch.einsum("...v,k...v->k...", separator, spread)
        support = largest_mean(reached, w_min=w_min, w_max=w_max)
        margin = (separator * offset).sum(dim=-1) - support
        gap = (support - (weights * reached).sum(dim=0)).clamp_min(0)
        lower = margin.clamp_min(0) / torch.where(distance > 0, distance, 1)
    return HullProjection(numerics.log_of(mixture), weights, distance, lower, gap, separator.detach(), margin)


def _certified_kl(target: Tensor, teachers: Tensor, fit: Tensor, w_min: Number, w_max: Number) -> HullProjection:
    x = mixture_fit.mix(teachers, fit)
    distance = (target.exp() * (target - x)).sum(dim=-1)
    with torch.no_grad():
        # Entries that no teacher knows: any large number will do, and t/0 is none.
        separator = torch.where(x > numerics.LOG_ZERO, target - x, torch.log(target.new_tensor(1e4))).exp()
        reached = torch.einsum("...v,k...v->k...", separator, teachers.exp())
        support = largest_mean(reached, w_min=w_min, w_max=w_max)
        # A quotient beyond all numbers proves nothing, and must not be NaN, which no comparison would notice.
        margin = ((separator * target.exp()).sum(dim=-1) - support).nan_to_num(nan=-torch.inf)
        gap = (support - (fit * reached).sum(dim=0)).clamp_min(0).nan_to_num(nan=torch.inf)
        lower = (distance - gap).clamp_min(0)
    return HullProjection(x, fit, distance, lower, gap, separator, margin)
