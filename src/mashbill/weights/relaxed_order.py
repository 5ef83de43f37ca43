"""A safety order that fades near ties, so that weights are continuous in the safety scores.

``w_j - w_k <= kappa (margin - (s_k - s_j))_+`` for every pair with ``s_k > s_j``: the strict order where the safer
teacher leads by the margin, and less room above it the larger its lead.

No isotonic fit solves this, because a pair at its limit is not pooled. The projection is a quadratic program, solved
exactly by the dual active-set method: it starts from the unconstrained optimum and adds one violated constraint after
another, dropping those that come to push the wrong way. Finitely many active sets, each visited at most once.

Source:
    Goldfarb & Idnani, *A numerically stable dual method for solving strictly convex quadratic programs*,
    Mathematical Programming 27, 1983; here for a projection, whose Hessian is the identity.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights import simplex
from mashbill.weights.shares import Number

_MOST_PAIRS = 2**22  # looked at together
_ROUNDING = 1e-13  # relative to the largest number of a row


def project_relaxed(
    w: Float[Tensor, "*batch K"],
    *,
    scores: Sequence[Number] | Float[Tensor, "*#batch K"],
    margin: Number,
    kappa: Number | None = None,
    w_min: Number = 0.0,
    w_max: Number = 1.0,
) -> Float[Tensor, "*batch K"]:
    """Return the nearest weights (least squares) under a safety order that is relaxed within a margin.

    The constraints are ``w_j - w_k <= kappa (margin - (s_k - s_j))_+`` for ``s_k > s_j``, the box, and sum 1. Always
    feasible: uniform weights satisfy them. Where ``s_k - s_j >= margin`` the order is exact: ``w_k >= w_j`` to the last
    bit. The gradient, in ``w`` and in ``scores``, is that of the active set. 1-Lipschitz in ``w``, in l2; piecewise
    affine in ``scores``.

    Continuity in the scores needs ``kappa * margin >= w_max - w_min`` (effective bounds): only then has the constraint
    of a pair no effect at the moment when it disappears. A smaller ``kappa`` gives weights that jump where scores tie.

    Cost: one box projection of the batch; then rows that break a constraint, one after another in float64 on the CPU,
    each some ``n`` factorisations of ``K x n`` numbers for ``n < K`` active constraints.

    Args:
        w: Any real numbers.
        scores: One score a teacher, higher is safer; a NaN puts a teacher under no order.
        margin: Lead, in units of the scores, from which on the order is exact. Positive.
        kappa: Weight that a pair may be out of order for each unit of score short of the margin. Positive; the least
            that gives continuity if None.
        w_min: Least weight.
        w_max: Largest weight.

    Returns:
        Probabilities, at least float32.

    Raises:
        ValueError: The box is empty for ``K``, or margin or kappa are not positive.

    Source:
        arXiv 2601.17910, Axiom III.5, which the plain projection keeps at the price of a jump in the scores.

    >>> w = torch.tensor([0.3, 0.7], dtype=torch.float64)
    >>> for lead in (0.0, 0.06, 0.08, 0.1):
    ...     scores = torch.tensor([lead, 0.0], dtype=torch.float64)
    ...     print(project_relaxed(w, scores=scores, margin=0.1).numpy().round(4).tolist())
    [0.3, 0.7]
    [0.3, 0.7]
    [0.4, 0.6]
    [0.5, 0.5]
    """
    low, high = simplex.effective_bounds(w.shape[-1], w_min=w_min, w_max=w_max)
    if not 0 < margin < float("inf"):
        raise ValueError(f"margin={margin!r} must be a positive number, in units of the scores")
    if kappa is None:
        kappa = (high - low) / margin
    elif not 0 < kappa < float("inf"):
        raise ValueError(f"kappa={kappa!r} must be a positive number; None is the least that gives continuity")
    wide = w.to(numerics.reduction_dtype(w.dtype))
    lead = torch.as_tensor(scores, dtype=wide.dtype, device=wide.device)
    if lead.shape[-1] != wide.shape[-1]:
        raise ValueError(f"scores has {lead.shape[-1]} scores for {wide.shape[-1]} teachers; give one each")
    rows_at_once = max(1, _MOST_PAIRS // wide.shape[-1] ** 2)
    flat = wide.reshape(-1, wide.shape[-1]).split(rows_at_once)
    leads = lead.expand_as(wide).reshape(-1, wide.shape[-1]).split(rows_at_once)
    parts = [_project(v, s, float(margin), float(kappa), (w_min, w_max)) for v, s in zip(flat, leads, strict=True)]
    return torch.cat(parts).reshape(wide.shape)


def _project(
    v: Float[Tensor, "R K"], scores: Float[Tensor, "R K"], margin: float, kappa: float, box: tuple[Number, Number]
) -> Float[Tensor, "R K"]:
    boxed = simplex.project_l2(v, w_min=box[0], w_max=box[1])
    with torch.no_grad():
        limits = _limits(scores, margin, kappa)
        gap = boxed.unsqueeze(-1) - boxed.unsqueeze(-2)  # [j, k]: by how much j is above k
        rows = (gap > limits).flatten(-2).any(dim=-1).nonzero().squeeze(-1)
    if len(rows):
        bounds = simplex.effective_bounds(v.shape[-1], w_min=box[0], w_max=box[1])
        broken = _limits(scores[rows].double().cpu(), margin, kappa)
        boxed = boxed.index_copy(0, rows, _on_active_set(v[rows].double().cpu(), broken, *bounds).to(boxed))
    return _exact_order(boxed, limits)


def _limits(scores: Float[Tensor, "R K"], margin: float, kappa: float) -> Float[Tensor, "R K K"]:
    """Return how far teacher ``j`` may be above teacher ``k``, ``[R, j, k]``; infinitely far if ``k`` is not safer."""
    lead = scores.unsqueeze(-2) - scores.unsqueeze(-1)
    return torch.where(lead > 0, kappa * (margin - lead).clamp_min(0), torch.inf)


def _exact_order(w: Float[Tensor, "R K"], limits: Float[Tensor, "R K K"]) -> Float[Tensor, "R K"]:
    """Take away what rounding has left above teachers that are safer by the margin (a transitive relation)."""
    with torch.no_grad():
        ceiling = torch.where(limits == 0, w.unsqueeze(-2), torch.inf).amin(dim=-1)
        excess = torch.minimum(w, ceiling) - w
    return w + excess


def _on_active_set(
    v: Float[Tensor, "R K"], limits: Float[Tensor, "R K K"], low: float, high: float
) -> Float[Tensor, "R K"]:
    """Return the projection of each row as a differentiable formula: the nearest point where its active set is tight.

    ``w = v - N'(N N')^-1 (N v - b)`` with the active normals ``N``, which are independent.
    """
    n = v.shape[-1]
    active = [_active_set(*row, low, high) for row in zip(v.detach().numpy(), limits.detach().numpy(), strict=True)]
    most = 1 + max(map(len, active))
    normals = torch.zeros(len(active), most, n, dtype=v.dtype)
    fixed = torch.zeros(len(active), most, dtype=v.dtype)
    upper, lower = torch.zeros(2, len(active), most, dtype=torch.long)
    normals[:, 0], fixed[:, 0] = 1.0, 1.0
    for row, constraints in enumerate(active):
        for place, constraint in enumerate(constraints, start=1):
            normals[row, place] = torch.from_numpy(constraint.normal(n))
            if constraint.k < 0:
                fixed[row, place] = low if constraint.is_lower else -high
            else:
                upper[row, place], lower[row, place] = constraint.j, constraint.k
    # A pair's bound is -limit, with the limit's gradient; elsewhere the index is that of a diagonal entry: infinite.
    pair = upper != lower
    of_pair = limits.flatten(-2).gather(-1, upper * n + lower).masked_fill(~pair, 0)
    bound = torch.where(pair, -of_pair, fixed)
    empty = (normals == 0).all(dim=-1)
    gram = normals @ normals.mT + torch.diag_embed(empty.to(v.dtype))
    multipliers = torch.linalg.solve(gram, (normals @ v.unsqueeze(-1)).squeeze(-1) - bound)
    w = v - (multipliers.unsqueeze(-2) @ normals).squeeze(-2)
    return w + (w.detach().clamp(low, high) - w.detach())


class _Constraint(NamedTuple):
    """``w_k - w_j >= -limit``, or for ``k = -1`` a bound of ``w_j``: ``w_j >= low`` or ``-w_j >= -high``."""

    j: int
    k: int
    is_lower: bool

    def normal(self, n: int) -> np.ndarray:
        found = np.zeros(n)
        if self.k < 0:
            found[self.j] = 1.0 if self.is_lower else -1.0
        else:
            found[self.j], found[self.k] = -1.0, 1.0
        return found


def _active_set(v: np.ndarray, limits: np.ndarray, low: float, high: float) -> list[_Constraint]:
    """Return the constraints that hold the projection of one row, besides the sum; independent of it and each other."""
    n = len(v)
    x = v - (v.sum() - 1) / n
    tolerance = _ROUNDING * max(1.0, float(np.abs(v).max())) * n
    active: list[_Constraint] = []
    normals = np.ones((n, 1))  # of the sum, which is never dropped, then of the active constraints
    multipliers = np.zeros(1)
    while True:
        worst, violation = _most_violated(x, limits, low, high)
        if violation <= tolerance:
            return active
        normal, multiplier = worst.normal(n), 0.0
        while True:
            basis, triangle = np.linalg.qr(normals)
            along = basis.T @ normal
            direction = normal - basis @ along
            rates = np.linalg.solve(triangle, along)
            curvature = float(direction @ direction)
            # A normal in the span of the others cannot be followed: only drop.
            full = violation / curvature if curvature > _ROUNDING * n else np.inf
            ratios = [u / r if r > 0 else np.inf for u, r in zip(multipliers[1:], rates[1:], strict=True)]
            first = int(np.argmin(ratios)) if ratios else -1
            partial = ratios[first] if ratios else np.inf
            step = min(full, partial)
            multipliers = multipliers - step * rates
            multiplier += step
            if np.isfinite(full):
                x = x + step * direction
                violation -= step * curvature
            if full <= partial:
                break
            del active[first]
            normals = np.delete(normals, first + 1, axis=1)
            multipliers = np.delete(multipliers, first + 1)
        active.append(worst)
        normals = np.column_stack([normals, normal])
        multipliers = np.append(multipliers, multiplier)


def _most_violated(x: np.ndarray, limits: np.ndarray, low: float, high: float) -> tuple[_Constraint, float]:
    n = len(x)
    found = [
        (low - float(x.min()), _Constraint(int(x.argmin()), -1, is_lower=True)),
        (float(x.max()) - high, _Constraint(int(x.argmax()), -1, is_lower=False)),
    ]
    excess = x[:, None] - x[None, :] - limits
    j, k = divmod(int(excess.argmax()), n)
    found.append((float(excess[j, k]), _Constraint(j, k, is_lower=False)))
    violation, worst = max(found, key=lambda one: one[0])
    return worst, violation
