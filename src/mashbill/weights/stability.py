"""Weights that feed back on themselves: fixed points of a map of the box simplex into itself, and whether there is one.

Not covered: fixed points that iterations move away from; the search finds only those that attract.
"""

from dataclasses import dataclass
from typing import cast

import torch

from mashbill.shapes import Float, Tensor
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.contraction import Curvature, Norm, Update, contraction_bound, jacobian_norm, sample_points
from mashbill.weights.shares import Number

_APART = 1e-5  # limits nearer than this, in the sup norm, count as one
_SLACK = 1e-6  # float32 weights are as near to the box as that


@dataclass(frozen=True)
class FixedPoint:
    """Where the iteration of a map ended, and what is known of it.

    Attributes:
        weights: The limit from the start given, ``[K]`` or ``[S K]`` as the start was.
        residual: Largest ``|T(w) - w|`` of these, sup norm.
        n_steps: Steps taken.
        contraction: Largest Jacobian norm measured: a lower bound of the Lipschitz constant.
        certified: A bound of it that holds everywhere; None if none could be given.
        is_certified: The bound is below 1, so the fixed point is the only one and every start leads to it.
        error: Bound of the distance to it in ``norm``, ``|T(w) - w| / (1 - certified)``; also of the sup norm, which is
            the least of them. None if uniqueness is not certified.
        limits: All different limits found, ``[L K]``; at least two refute uniqueness.
        n_starts: Starts tried.
        n_points: Points at which the map and its Jacobian were looked at.
        norm: The norm of ``contraction`` and ``certified``.
    """

    weights: Float[Tensor, "*batch K"]
    residual: float
    n_steps: int
    contraction: float
    certified: float | None
    is_certified: bool
    error: float | None
    limits: Float[Tensor, "L K"]
    n_starts: int
    n_points: int
    norm: str


class UncertifiedError(ValueError):
    """A fixed point that was not proved to be the only one.

    Attributes:
        evidence: What was found: the measured constant, and the different limits.
    """

    def __init__(self, message: str, evidence: FixedPoint) -> None:
        super().__init__(message)
        self.evidence = evidence


def fixed_point(
    update: Update,
    start: Float[Tensor, "*batch K"],
    *,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    norm: Norm = "sup",
    lipschitz: Number | None = None,
    curvature: Curvature | None = None,
    relaxation: Number = 1.0,
    allow_uncertified: bool = False,
    n_points: int = 2000,
    n_starts: int = 64,
    tolerance: Number | None = None,
    max_steps: int = 20_000,
    seed: int = 0,
) -> FixedPoint:
    """Iterate ``w <- (1-r) w + r T(w)`` to a fixed point of ``T``, and say whether it is certified to be the only one.

    Certified if a proved constant is below 1: ``lipschitz``, worked out by composition, or a bound over cells that
    cover the box simplex, if ``curvature`` says how fast the Jacobian changes. The Jacobian's norm is measured at
    ``n_points`` on a lattice and as many at random; the iteration runs from there too, to look for other limits.
    Iterates to a tolerance; float64. Cost ``O(n_points K)`` evaluations.

    Args:
        update: ``T``, from ``[n K]`` to ``[n K]``, each row by itself; differentiable.
        start: Weights in the box, one set or several.
        bounds: ``(w_min, w_max)``; ``T`` must map the box simplex into itself.
        norm: Norm of the constants; see :func:`~mashbill.weights.contraction.jacobian_norm`.
        lipschitz: A constant of ``T`` that the caller has proved, in ``norm``.
        curvature: A Lipschitz constant of its Jacobian, also as a function of the cell.
        relaxation: ``r`` in ``(0, 1]``; changes the way, not the fixed points.
        allow_uncertified: Return the result instead of refusing it.
        n_points: Points of the lattice.
        n_starts: Further starts, taken from these points.
        tolerance: Residual to stop at; None is 64 units in the last place.
        max_steps: Most iterations.
        seed: Of the random points.

    Raises:
        UncertifiedError: Uniqueness is not certified; carries the measured constant and the limits found.
        ValueError: ``T`` leaves the box, ``start`` is not in it, or ``lipschitz`` is refuted: by a measured Jacobian,
            or by two limits where it is below 1.

    Source:
        arXiv 2601.17910, Theorem VII.1, with a constant of ``T`` in ``w`` instead of the theorem's ``beta L``.
    """
    if not 0 < relaxation <= 1:
        raise ValueError(f"relaxation={relaxation!r} must be above 0 and at most 1")
    n_teachers = start.shape[-1]
    given = start.detach().to(torch.float64).reshape(-1, n_teachers)
    box = effective_bounds(n_teachers, w_min=bounds[0], w_max=bounds[1])
    _require_inside(given, box, "start")
    generator = torch.Generator().manual_seed(seed)
    points = sample_points(n_teachers, bounds=bounds, n=n_points, generator=generator).to(given.device)
    with torch.no_grad():
        _require_inside(update(points), box, "update(w)", at=points)
    norms = jacobian_norm(update, points, norm=norm)
    measured = float(norms.max())
    certified = None if lipschitz is None else float(lipschitz)
    if curvature is not None:
        bound, _ = contraction_bound(update, n_teachers=n_teachers, curvature=curvature, bounds=bounds, norm=norm)
        certified = min(bound, certified) if certified is not None else bound
    if certified is not None and measured > certified * (1 + 1e-6) + 1e-9:
        witness = [round(x, 6) for x in points[norms.argmax()].tolist()]
        raise ValueError(
            f"lipschitz={certified:.6g} is refuted: the Jacobian's {norm} norm is {measured:.6g} at w={witness}; "
            "correct lipschitz or curvature"
        )
    more = points[:: max(1, len(points) // max(1, n_starts))][:n_starts]
    stop = float(tolerance) if tolerance is not None else 64 * torch.finfo(torch.float64).eps
    w, residual, n_steps = _iterate(update, torch.cat([given, more]), relaxation, stop, max_steps)
    own, has_settled = residual[: len(given)], residual <= max(stop, 1e-9)
    is_certified = certified is not None and certified < 1
    limits = _distinct(w[has_settled])
    # Points that a contraction moves by at most r are within 2 r / (1 - certified): only what is further apart refutes.
    apart = float((limits - limits[:1]).abs().max()) if len(limits) > 1 else 0.0
    if is_certified and apart * (1 - cast(float, certified)) > 2 * n_teachers * max(stop, 1e-9):
        raise ValueError(
            f"lipschitz={certified:.6g} is refuted: {len(limits)} different limits, {limits[0].tolist()} and "
            f"{limits[1].tolist()}, where a contraction has one; correct lipschitz or curvature"
        )
    found = FixedPoint(
        weights=w[: len(given)].reshape(start.shape),
        residual=float(own.max()),
        n_steps=n_steps,
        contraction=measured,
        certified=certified,
        is_certified=is_certified,
        error=_left(update, w[: len(given)], norm) / (1 - cast(float, certified)) if is_certified else None,
        limits=limits,
        n_starts=len(w),
        n_points=len(points),
        norm=norm,
    )
    if not is_certified and not allow_uncertified:
        raise UncertifiedError(_reason(found), found)
    return found


def _iterate(
    update: Update, w: Float[Tensor, "n K"], relaxation: Number, stop: float, max_steps: int
) -> tuple[Float[Tensor, "n K"], Float[Tensor, " n"], int]:
    n_steps = 0
    with torch.no_grad():
        while True:
            change = update(w).to(w) - w
            residual = change.abs().amax(dim=-1)
            if n_steps >= max_steps or (n_steps % 8 == 0 and bool((residual <= stop).all())):
                return w, residual, n_steps
            w = w + relaxation * change
            n_steps += 1


def _left(update: Update, w: Float[Tensor, "n K"], norm: Norm) -> float:
    """Return the largest ``|T(w) - w|`` in the norm of the constant; ``"projected"`` is one of the sup norm."""
    order = {"l1": 1, "l2": 2}.get(norm, torch.inf)
    with torch.no_grad():
        return float(torch.linalg.vector_norm(update(w).to(w) - w, ord=order, dim=-1).max())


def _distinct(limits: Float[Tensor, "n K"]) -> Float[Tensor, "L K"]:
    kept: list[Tensor] = []
    for one in limits:
        if all(float((one - other).abs().max()) > _APART for other in kept):
            kept.append(one)
    return torch.stack(kept) if kept else limits[:0]


def _require_inside(w: Tensor, box: tuple[float, float], name: str, *, at: Tensor | None = None) -> None:
    is_in = ((w >= box[0] - _SLACK) & (w <= box[1] + _SLACK)).all(dim=-1) & ((w.sum(dim=-1) - 1).abs() <= 4 * _SLACK)
    is_out = ~is_in  # NaN is out
    if bool(is_out.any()):
        first = int(is_out.nonzero()[0])
        where = "" if at is None else f" at w={at[first].tolist()}"
        raise ValueError(
            f"{name}={w[first].tolist()}{where} is not in the box simplex [{box[0]:g}, {box[1]:g}]; "
            "end the map with a guard (simplex.squash or a projection), or widen bounds"
        )


def _reason(found: FixedPoint) -> str:
    if len(found.limits) > 1:
        shown = " and ".join(str([round(x, 6) for x in limit.tolist()]) for limit in found.limits[:2])
        what = f"{len(found.limits)} different limits from {found.n_starts} starts, {shown}"
    else:
        n_found = "one limit" if len(found.limits) else "no limit"
        what = f"{n_found} from {found.n_starts} starts, which is no proof"
    bound = "no constant was proved" if found.certified is None else f"the proved constant is {found.certified:.6g}"
    return (
        f"update has no certified unique fixed point: {bound}, the measured one is {found.contraction:.6g} "
        f"({found.norm} norm, {found.n_points} points); {what}; weaken the feedback, prove a constant below 1 "
        "(lipschitz= or curvature=), or accept the result with allow_uncertified=True"
    )
