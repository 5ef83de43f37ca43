"""What becomes of requested weights when gradients are changed before they are added: PCGrad, MGDA, anything.

Plain functions over a matrix of gradients, one row a teacher: for experiments and audits, not rules. None has options
that move a parameter; give them gradients from any layer.
"""

from typing import NamedTuple

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights import active_set, quadratic


class Stationarity(NamedTuple):
    """How far from Pareto stationary a point is.

    Attributes:
        residual: ``min |sum_k a_k g_k|`` over the simplex, in the units of a gradient; 0 where no direction improves
            all losses.
        weights: The minimising ``a``, of several the most even. ``-sum a_k g_k`` improves every loss.
    """

    residual: Float[Tensor, "*batch"]
    weights: Float[Tensor, "*batch K"]


class Effective(NamedTuple):
    """Which combination of gradients an update is.

    Attributes:
        coefficients: ``c`` of least ``|sum_k c_k g_k - update|``, of several the least norm.
        weights: ``c / sum c``: what the update really weighs. NaN if the coefficients sum to 0.
        residual: ``|sum_k c_k g_k - update|``: what is no combination of these gradients.
    """

    coefficients: Float[Tensor, " K"]
    weights: Float[Tensor, " K"]
    residual: Float[Tensor, ""]


class Surgery(NamedTuple):
    """An update made of gradients.

    Attributes:
        direction: ``sum_k c_k g_k``.
        coefficients: ``c``.
    """

    direction: Float[Tensor, " D"]
    coefficients: Float[Tensor, " K"]


def pareto_stationarity(
    gradients: Float[Tensor, "*batch K D"] | None = None, *, gram: Float[Tensor, "*batch K K"] | None = None
) -> Stationarity:
    """Return how far a point is from Pareto stationary; exact.

    Args:
        gradients: Of each loss.
        gram: Their inner products instead; a residual below about 1e-8 of a gradient's norm is then rounding.

    Raises:
        ValueError: Not exactly one of the two is given.

    Source:
        arXiv 2601.17910, axiom III.14, as a residual that can be measured. Cost: ``O(K^2 D + K^3)``.

    >>> found = pareto_stationarity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
    >>> round(float(found.residual), 6), [round(a, 6) for a in found.weights.tolist()]
    (0.0, [0.75, 0.25])
    """
    if (gradients is None) == (gram is None):
        raise ValueError("gradients and gram are two ways to say the same; give exactly one")
    if gradients is None:
        assert gram is not None, "one of the two is given"
        weights = quadratic.minimise(gram)
        return Stationarity(quadratic.form(gram.to(weights), weights).clamp_min(0).sqrt(), weights)
    wide = gradients.to(torch.float64) if gradients.device.type != "mps" else gradients
    weights = quadratic.minimise(wide @ wide.mT)
    residual = (weights.unsqueeze(-2) @ wide).squeeze(-2).norm(dim=-1)
    dtype = numerics.reduction_dtype(gradients.dtype)
    return Stationarity(residual.to(dtype), weights.to(dtype))


def effective_weights(
    gradients: Float[Tensor, "K D"], update: Float[Tensor, " D"], *, nonnegative: bool = False
) -> Effective:
    """Recover the combination of gradients that an update is: its coefficients, and their shares.

    Exact where the gradients are linearly independent and the update is in their span; else least squares.

    Args:
        gradients: One row a teacher.
        update: The direction that was taken, of any length and with the gradients' sign (not the descent's).
        nonnegative: Only combinations with ``c >= 0`` (by an active set, exactly), as weights are.

    >>> g = torch.tensor([[1.0, 0.0], [-0.5, 1.0]], dtype=torch.float64)
    >>> surgery = pcgrad(g, torch.tensor([0.7, 0.3], dtype=torch.float64))
    >>> effective_weights(g, surgery.direction).weights.round(decimals=3).tolist()
    [0.594, 0.406]
    """
    wide, target = numerics.widen(gradients), numerics.widen(update).to(numerics.reduction_dtype(gradients.dtype))
    c = _cone(wide, target) if nonnegative else torch.linalg.pinv(wide).mT @ target
    return Effective(c, c / c.sum(), (c @ wide - target).norm())


def pcgrad(
    gradients: Float[Tensor, "K D"],
    weights: Float[Tensor, " K"] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Surgery:
    """Add gradients after removing from each what conflicts with the others (PCGrad).

    ``v_i = w_i g_i``; for every other ``j`` in turn, if ``<v_i, g_j> < 0`` then ``v_i -= <v_i, g_j> / |g_j|^2 g_j``.
    The direction is ``sum_i v_i``; it is the combination of the *unchanged* gradients with the coefficients returned:
    for two in conflict ``c_i = w_i - w_j <g_i, g_j> / |g_i|^2``, not the weights that were asked for.

    Weighting and surgery commute for positive weights: a projection is linear in ``v_i`` and does not see how long
    ``g_j`` is. MGDA's minimisation does see it, so there weighting before and after differ: gradients (1, 0), (-.5, 1)
    and weights (.7, .3) give the directions (.078, .220) and (.308, .138).

    Args:
        gradients: One row a teacher.
        weights: Positive; 1 each by default, as published.
        generator: Draws for each gradient the order in which the others are taken (one permutation of all ``K`` each),
            as published; without it, by index.

    Source:
        Yu et al., *Gradient Surgery for Multi-Task Learning*, NeurIPS 2020, Algorithm 1. Cost: ``O(K^2 D + K^3)``.
    """
    wide = numerics.widen(gradients)
    n = len(wide)
    gram = wide @ wide.mT
    square = torch.diagonal(gram)
    total = torch.zeros_like(square)
    w = torch.ones_like(square) if weights is None else weights.to(square)
    unit = torch.eye(n, dtype=square.dtype, device=square.device)
    for i in range(n):
        order = range(n) if generator is None else torch.randperm(n, generator=generator).tolist()
        own = w[i] * unit[i]
        for j in order:
            if j != i:
                conflict = (gram[j] @ own).clamp_max(0)
                own = own - torch.where(square[j] > 0, conflict / square[j], 0) * unit[j]
        total = total + own
    return Surgery(total @ wide, total)


def _cone(gradients: Float[Tensor, "K D"], update: Float[Tensor, " D"]) -> Float[Tensor, " K"]:
    """Return the non-negative coefficients of least distance."""
    n = len(gradients)
    device = gradients.device if gradients.device.type != "mps" else torch.device("cpu")
    wide, target = gradients.to(device, torch.float64), update.to(device, torch.float64)
    # Unit gradients, unit update: the active set's tolerances are relative to 1.
    length, size = wide.norm(dim=-1), target.norm()
    length, size = torch.where(length > 0, length, 1), torch.where(size > 0, size, 1)
    unit = wide / length.unsqueeze(-1)
    none = torch.zeros(1, n, dtype=torch.float64, device=device)
    found, _ = active_set.descend(
        (unit @ unit.mT).unsqueeze(0),
        -(unit @ (target / size)).unsqueeze(0),
        bounds=active_set.Bounds(torch.eye(n, dtype=torch.float64, device=device), none[0]),
        fixed=torch.zeros(1, n, n, dtype=torch.float64, device=device),
        start=none,
    )
    return (found[0].clamp_min(0) * size / length).to(gradients)


__all__ = ["Effective", "Stationarity", "Surgery", "effective_weights", "pareto_stationarity", "pcgrad"]
