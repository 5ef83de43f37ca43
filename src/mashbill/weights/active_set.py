"""Convex quadratic programs, exactly and a batch at a time, by the primal active-set method.

:func:`descend` walks from a feasible point to the minimiser of ``w'Hw/2 + c'w`` subject to ``rows w >= floor`` and to
equalities that the start satisfies. On each face it goes to the minimiser of the face, or to the first bound on the
way; there it drops a bound that pushes the wrong way. Finitely many faces, each visited once: no step sizes, no
convergence to a tolerance. ``H`` may be singular. Where bounds tie (a degenerate vertex), the least index goes first,
which cannot cycle (Bland).

Units: callers scale ``H`` and ``c`` so that their largest entry is about 1; the tolerances below are relative to that.
"""

from typing import NamedTuple

import torch

from mashbill.shapes import Bool, Float, Int, Tensor

ROUNDING = 4 * torch.finfo(torch.float64).eps
"""Times ``K``: the curvature below which a direction is flat. A tenfold slope along a flat direction leads down: more
than such a curvature could undo within a polytope of diameter ``sqrt(2)``."""
WRONG = 1e-12
"""How far below 0 a multiplier is negative."""
SPANNED = 1e-9
"""Least sine of an angle that is not taken for 0."""


class Bounds(NamedTuple):
    """Inequalities ``rows w >= floor``.

    Attributes:
        rows: Unit vectors.
        floor: Least products.
    """

    rows: Float[Tensor, "M K"]
    floor: Float[Tensor, " M"]

    def room(self, w: Float[Tensor, "n K"]) -> Float[Tensor, "n M"]:
        """Return how far from each bound points are."""
        return w @ self.rows.T - self.floor


class Rows(NamedTuple):
    """Inequality rows, each by what it adds to the equalities: one that nearly follows from them must not look free.

    Attributes:
        unit: Unit vectors in the directions that the equalities leave; 0 for a row that follows from the equalities.
        share: Length of that part of the row as it was given.
    """

    unit: Float[Tensor, "n M K"]
    share: Float[Tensor, "n M"]

    @classmethod
    def leaning(
        cls, rows: Float[Tensor, "M K"], fixed: Float[Tensor, "n K K"], least: Float[Tensor, " n"] | None = None
    ) -> "Rows":
        """Split rows from the span of the equalities; a share of ``least`` or less is none."""
        least = torch.full_like(fixed[:, 0, 0], SPANNED) if least is None else least
        within = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device) - fixed
        share = (rows @ within).norm(dim=-1)
        is_new = (share > least.unsqueeze(-1)).unsqueeze(-1)
        share = share.clamp_min(SPANNED)
        # Projected again: what is small after the first time is small beside its rounding.
        unit = (rows @ within / share.unsqueeze(-1)) @ within
        return cls(torch.where(is_new, unit / unit.norm(dim=-1, keepdim=True).clamp_min(0.5), 0), share)


class Face(NamedTuple):
    """The directions in which the working rows and equalities let a point move.

    Attributes:
        along: Projector onto them.
        inverse: Inverse of the Hessian on the curved ones, 0 elsewhere.
        flat: Projector onto those without curvature.
        span: Orthonormal columns that span the working rows, 0 after them.
        factor: Upper triangular, of the working rows in those columns; the unit matrix after them.
        slot: Row that each column stands for.
    """

    along: Float[Tensor, "n K K"]
    inverse: Float[Tensor, "n K K"]
    flat: Float[Tensor, "n K K"]
    span: Float[Tensor, "n K C"]
    factor: Float[Tensor, "n C C"]
    slot: Int[Tensor, "n C"]

    def newton(self, slope: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
        """Return the step from a point with this slope to the minimiser over the curved directions."""
        # Projected on both sides: the eigenvectors of small curvature lean out of the face by rounding.
        return -times(self.along, times(self.inverse, times(self.along, slope)))

    def multipliers(self, slope: Float[Tensor, "n K"], working: Bool[Tensor, "n M"]) -> Float[Tensor, "n M"]:
        """Return how hard each working row pushes back at the minimiser of the face; 0 for the others."""
        found = torch.linalg.solve_triangular(self.factor, (self.span.mT @ slope.unsqueeze(-1)), upper=True)
        return torch.zeros_like(slope[:, :1]).expand(working.shape).scatter(-1, self.slot, found.squeeze(-1)) * working


def face(
    hessian: Float[Tensor, "n K K"], rows: Rows, working: Bool[Tensor, "n M"], fixed: Float[Tensor, "n K K"]
) -> Face:
    """Return the face on which the working rows and ``fixed`` stay what they are; the rows are independent."""
    unit = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    is_held, slot = working.sort(dim=-1, descending=True, stable=True)
    is_held, slot = is_held[:, : len(unit)].unsqueeze(-2), slot[:, : len(unit)]
    columns = rows.unit.gather(1, slot.unsqueeze(-1).expand(-1, -1, len(unit))).mT * is_held
    span, factor = torch.linalg.qr(columns)
    span = span * is_held
    factor = torch.where(is_held & is_held.mT, factor, torch.eye(factor.shape[-1]).to(factor))
    along = unit - fixed - span @ span.mT
    # On a single point nothing moves; what rounding leaves would look like a direction.
    along = along * (torch.diagonal(along, dim1=-2, dim2=-1).sum(dim=-1) > 0.5)[:, None, None]
    # Directions off the face get curvature 1: with 0 they would mix with the flat ones.
    curvature, basis = torch.linalg.eigh(along @ hessian @ along + (unit - along))
    is_curved = (curvature > ROUNDING * len(unit)).unsqueeze(-2)
    inverse = (basis * torch.where(is_curved, 1 / curvature.unsqueeze(-2).masked_fill(~is_curved, 1), 0)) @ basis.mT
    flat = (basis * ~is_curved) @ basis.mT
    return Face(along, inverse, flat, span, factor, slot)


def descend(
    hessian: Float[Tensor, "n K K"],
    linear: Float[Tensor, "n K"],
    *,
    bounds: Bounds,
    fixed: Float[Tensor, "n K K"],
    start: Float[Tensor, "n K"],
    least: Float[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, "n K"], Bool[Tensor, "n M"]]:
    """Return a minimiser, and the working set: independent rows that hold with equality and carry the multipliers.

    Args:
        hessian: Positive semidefinite, entries up to about 1.
        linear: Bounded below on the feasible set, together with ``hessian``.
        bounds: Rows independent of ``fixed`` or not.
        fixed: Projector onto the directions in which ``w`` must not move.
        start: Feasible.
        least: How much of a row must lead out of ``fixed`` for it to count, where ``fixed`` is known less well.

    Raises:
        ArithmeticError: More faces than ``50 (K + M)`` were visited, which exact arithmetic excludes.
    """
    w, slope = start.clone(), times(hessian, start) + linear
    working = torch.zeros(len(w), len(bounds.rows), dtype=torch.bool, device=w.device)
    live = torch.arange(len(w), device=w.device)
    index = torch.arange(len(bounds.rows), device=w.device)
    leaning = Rows.leaning(bounds.rows, fixed, least)
    patience = 5 * (w.shape[-1] + len(index))
    for turn in range(10 * patience):
        if len(live) == 0:
            return w, working
        here, held, pull = w[live], working[live], slope[live]
        frame = face(hessian[live], own := Rows(*(part[live] for part in leaning)), held, fixed[live])
        step, reach = _direction(frame, pull)
        # A step that changes nothing points nowhere in particular; a row must not block it.
        step = step * (step.norm(dim=-1, keepdim=True) > ROUNDING / 4 * here.norm(dim=-1, keepdim=True))
        until = _until(bounds.room(here) / own.share, step, own.unit).masked_fill(held, torch.inf)
        nearest = until.amin(dim=-1)
        is_blocked = nearest < reach
        length = torch.minimum(nearest, reach).unsqueeze(-1)
        here = here + length * step
        first = torch.where(until <= nearest.unsqueeze(-1), index, len(index)).amin(dim=-1)
        # Only at the minimiser of a face do the multipliers say anything.
        anew = times(hessian[live], here) + linear[live]
        is_early = ~is_blocked & (times(frame.along, anew).abs().amax(dim=-1) > WRONG / 10) & (turn < patience)
        push = frame.multipliers(anew, held)
        is_wrong = (push < -WRONG) & ~(is_blocked | is_early).unsqueeze(-1)
        worst = torch.where(is_wrong, push if turn < patience else index - len(index), torch.inf)
        dropped = worst.argmin(dim=-1)
        is_dropped = is_wrong.any(dim=-1)
        # What is left of the slope on the next face: a part, or what the dropped row held. Computing it anew from
        # ``H w + c`` would bury a small one under the rounding of all that the held rows carry.
        part = torch.where(reach.isinf().unsqueeze(-1), pull, (1 - length) * pull)
        held_back = push.gather(-1, dropped.unsqueeze(-1)) * leaning.unit[live, dropped]
        slope[live] = torch.where(is_blocked.unsqueeze(-1), part, torch.where(is_early.unsqueeze(-1), anew, held_back))
        held = held | (is_blocked.unsqueeze(-1) & (index == first.unsqueeze(-1)))
        w[live], working[live] = here, held & ~(is_dropped.unsqueeze(-1) & (index == dropped.unsqueeze(-1)))
        live = live[is_blocked | is_early | is_dropped]
    raise ArithmeticError(f"no minimiser after {10 * patience} faces; are the matrices finite and semidefinite?")


def _direction(frame: Face, slope: Float[Tensor, "n K"]) -> tuple[Float[Tensor, "n K"], Float[Tensor, " n"]]:
    """Return the step to the face's minimiser and 1, or a flat direction that leads down and infinity."""
    downhill = -times(frame.flat, slope)
    length = downhill.norm(dim=-1, keepdim=True)
    is_steep = length > 10 * ROUNDING * slope.shape[-1]
    # Projected again, at length 1: rounding of a long slope would bend a short direction away from flat.
    downhill = times(frame.along, times(frame.flat, downhill / torch.where(is_steep, length, 1)))
    step = torch.where(is_steep, downhill, frame.newton(slope))
    return step, torch.where(is_steep.squeeze(-1), torch.inf, 1.0).to(slope.dtype)


def polish(
    w: Float[Tensor, "n K"],
    slope: Float[Tensor, "n K"],
    frame: Face,
    *,
    bounds: Bounds,
    working: Bool[Tensor, "n M"],
) -> Float[Tensor, "n K"]:
    """Take one Newton step on a face, no further than the other rows allow."""
    step = frame.newton(slope)
    until = _until(bounds.room(w), step, bounds.rows.expand(len(w), -1, -1)).masked_fill(working, torch.inf)
    return w + until.amin(dim=-1, keepdim=True).clamp_max(1) * step


def _until(
    room: Float[Tensor, "n M"], step: Float[Tensor, "n K"], rows: Float[Tensor, "n M K"]
) -> Float[Tensor, "n M"]:
    """Return how many steps each row allows; one to which the step is parallel allows any number."""
    rate = times(rows, step)
    is_ahead = rate < -SPANNED * step.norm(dim=-1, keepdim=True)
    return torch.where(is_ahead, room.clamp_min(0) / torch.where(is_ahead, -rate, 1), torch.inf)


def times(matrix: Float[Tensor, "n I J"], vector: Float[Tensor, "n J"]) -> Float[Tensor, "n I"]:
    """Return ``matrix @ vector``, each of a batch."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
