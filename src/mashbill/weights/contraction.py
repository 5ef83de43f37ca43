"""How strongly a map of the weights contracts: measured by its Jacobian, and bounded on the whole simplex.

A map ``T`` with ``|T(w) - T(v)| <= rho |w - v|``, ``rho < 1``, has one fixed point (Banach). Differences of weights sum
to 0, so only that part of the Jacobian counts; each norm below is the exact operator norm on it.

**Measured** is the largest norm at some points: a lower bound of the constant, no proof. **Certified** is a bound at
every point: a composition of known constants, or cells around the points with a bound of how fast the Jacobian changes.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch

from mashbill.shapes import Float, Int, Tensor
from mashbill.weights.bounds import check_box, effective_bounds
from mashbill.weights.shares import Number

Norm = Literal["sup", "l1", "l2", "projected"]
Update = Callable[[Tensor], Tensor]
Curvature = Number | Callable[[Tensor, float], Tensor]
"""Lipschitz constant of the Jacobian in the same norm, against sup-norm distance: one number, or ``(centres [n K],
radius) -> [n]`` for the cells of that sup-norm radius."""


def jacobian_norm(update: Update, w: Float[Tensor, "n K"], *, norm: Norm = "sup") -> Float[Tensor, " n"]:
    """Return the operator norm of a map's Jacobian at each point, on differences of weights.

    ``"sup"`` ``max_k min_c sum_j |J_kj - c|``; ``"l1"`` half the largest l1 distance of two columns; ``"l2"`` the
    largest singular value of ``J (I - 11'/K)``; ``"projected"`` the largest absolute row sum of that matrix, an upper
    bound of ``"sup"``.

    Args:
        update: Maps ``[n K]`` to ``[n K]``, each row by itself; differentiable.
        w: Where.
        norm: In which norm differences are measured.
    """
    jacobian = _jacobian(update, w)
    centred = jacobian - jacobian.mean(dim=-1, keepdim=True)
    if norm == "l2":
        return torch.linalg.matrix_norm(centred, ord=2)
    if norm == "l1":
        columns = jacobian.movedim(-1, -2)
        return (columns.unsqueeze(-2) - columns.unsqueeze(-3)).abs().sum(dim=-1).flatten(-2).amax(dim=-1) / 2
    if norm == "projected":
        return centred.abs().sum(dim=-1).amax(dim=-1)
    median = jacobian.median(dim=-1, keepdim=True).values
    return (jacobian - median).abs().sum(dim=-1).amax(dim=-1)


def relaxation_rate(gain: Number, *, lipschitz: Number) -> float:
    """Return the constant of ``w <- (1-b) w + b F(w)``: ``(1-b) + b L_F``.

    Adding instead, ``w + b F(w)``, only has ``1 + b L_F``: it need not contract, however small ``b L_F`` is.

    Source:
        arXiv 2601.17910, Theorem VII.1, whose ``rho = b L`` is in general wrong: ``T(w) = w + b L w`` expands.
    """
    if not (0 <= gain <= 1 and lipschitz >= 0):
        raise ValueError(f"gain={gain!r} must be in [0, 1] and lipschitz={lipschitz!r} not negative")
    return float(1 - gain + gain * lipschitz)


def descent_rate(step: Number, *, curvature: Number, smoothness: Number) -> float:
    """Return the constant in l2 of ``w <- project(w - b grad)``: ``max(|1 - b mu|, |1 - b L|)``.

    Below 1 only if ``mu > 0`` and ``b < 2/L``. The l2 projection onto the box simplex adds nothing in l2; in the sup
    norm it multiplies by ``2 (1 - 1/K)``.

    Args:
        step: ``b``.
        curvature: ``mu``, the least curvature.
        smoothness: ``L``, the largest.
    """
    if not (step > 0 and 0 <= curvature <= smoothness):
        raise ValueError(f"step={step!r} must be positive, and curvature={curvature!r} in [0, {smoothness!r}]")
    return float(max(abs(1 - step * curvature), abs(1 - step * smoothness)))


def contraction_bound(
    update: Update,
    *,
    n_teachers: int,
    curvature: Curvature,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    norm: Norm = "sup",
    n_points: int = 200_000,
    goal: Number = 1.0,
) -> tuple[float, int]:
    """Bound the Jacobian's norm on the whole box simplex: ``|J(centre)| + radius * curvature`` on cells that cover it.

    Cells that are not below ``goal`` are cut until they are, or until ``n_points`` have been looked at.

    Args:
        update: The map; it must be defined on probabilities of at least ``bounds[0]`` each, with no upper bound.
        n_teachers: ``K``.
        curvature: How fast the Jacobian changes there.
        bounds: ``(w_min, w_max)``.
        norm: The norm of the answer.
        n_points: Most Jacobians to compute.
        goal: What is to be proved.

    Returns:
        A bound that holds at every point of the box simplex (below ``goal`` if that could be proved), and the number
        of points looked at.
    """
    low, high = _box(n_teachers, bounds)
    side, n_steps, n_seen, proved = 1 - n_teachers * low, 4, 0, 0.0
    local = curvature if callable(curvature) else lambda w, _: w.new_full(w.shape[:1], float(curvature))
    cells = lattice(n_teachers, n_steps)
    while True:
        radius = side / n_steps
        w = low + side * cells.to(torch.float64) / n_steps
        is_near = (w <= high + radius).all(dim=-1)  # every point of the box is within the radius of such a cell
        cells, w = cells[is_near], w[is_near]
        n_seen += len(w)
        at_centre = jacobian_norm(update, w, norm=norm)
        bound = at_centre + radius * local(w, radius)
        is_open = ~(bound < goal)
        proved = max(proved, float(bound[~is_open].max()) if bool((~is_open).any()) else 0.0)
        if not bool(is_open.any()):
            return proved, n_seen
        children = _children(cells[is_open])
        if bool((at_centre >= goal).any()) or n_seen + len(children) > n_points:
            return max(proved, float(bound.max())), n_seen
        cells, n_steps = children, 2 * n_steps


def lattice(n_teachers: int, n_steps: int) -> Int[Tensor, "n K"]:
    """Return all non-negative integers ``[n K]`` that sum to ``n_steps``.

    >>> lattice(2, 2).tolist()
    [[0, 2], [1, 1], [2, 0]]
    """
    bars = list(itertools.combinations(range(n_steps + n_teachers - 1), n_teachers - 1))
    cuts = torch.tensor(bars, dtype=torch.long).reshape(len(bars), n_teachers - 1)
    first, last = cuts.new_full((len(cuts), 1), -1), cuts.new_full((len(cuts), 1), n_steps + n_teachers - 1)
    return torch.cat([first, cuts, last], dim=-1).diff(dim=-1) - 1


def sample_points(
    n_teachers: int, *, bounds: tuple[Number, Number], n: int, generator: torch.Generator
) -> Float[Tensor, "m K"]:
    """Return points of the box simplex, float64: the finest lattice of at most ``n``, and as many at random."""
    low, high = _box(n_teachers, bounds)
    n_steps = 1
    while math.comb(n_steps + n_teachers, n_teachers - 1) <= n and n_teachers > 1:
        n_steps += 1
    regular = lattice(n_teachers, n_steps).to(torch.float64) / n_steps
    at_random = torch.empty(n, n_teachers, dtype=torch.float64).exponential_(generator=generator)
    at_random = at_random / at_random.sum(dim=-1, keepdim=True)
    w = low + (1 - n_teachers * low) * torch.cat([regular, at_random])
    return w[(w <= high + 1e-12).all(dim=-1)]


def _box(n_teachers: int, bounds: tuple[Number, Number]) -> tuple[float, float]:
    check_box(*bounds)
    return effective_bounds(n_teachers, w_min=bounds[0], w_max=bounds[1])


def _jacobian(update: Update, w: Float[Tensor, "n K"]) -> Float[Tensor, "n K K"]:
    with torch.enable_grad():
        at = w.detach().clone().requires_grad_()
        value = update(at)
        rows = [torch.autograd.grad(value[:, k].sum(), at, retain_graph=True)[0] for k in range(w.shape[-1])]
    return torch.stack(rows, dim=-2)


def _children(cells: Int[Tensor, "n K"]) -> Int[Tensor, "m K"]:
    """Return the cells of half the step that cover cells; less than 3 half steps away in each coordinate."""
    n_teachers = cells.shape[-1]
    moves = torch.tensor([m for m in itertools.product(range(-2, 3), repeat=n_teachers) if sum(m) == 0])
    found = torch.unique((2 * cells.unsqueeze(1) + moves).reshape(-1, n_teachers), dim=0)
    return found[(found >= 0).all(dim=-1)]
