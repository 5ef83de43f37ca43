"""Looking for jumps along paths between two situations, with all points of a path in one batch."""

import torch

from mashbill.audit.situations import Case
from mashbill.audit.spreading import along, can_spread
from mashbill.audit.violations import JUMP, declared_by, jump, weights_of
from mashbill.audit.worlds import World
from mashbill.shapes import Float, Tensor
from mashbill.weights.evidence import WeightOperator, needs_of

RESOLUTION = 1e-13
"""Share of a path at which the search ends."""
START_OF_COMPARISON = 1e-9
"""Share of a path below which a change that gets smaller with the step is a slope."""
N_SUSPECTS = 4
N_ZOOM = 33


def find_jump(rule: WeightOperator, here: World, there: World, *, n_points: int) -> Case | None:
    """Return two situations 1e-13 of a path apart whose weights differ by more than ``JUMP``, or None.

    The path is sampled; the intervals whose change stands out from their neighbours' are sampled again, down to the
    resolution. So a step shows wherever it lies, and a bump shows if it is wider than a point's share of the path.

    Args:
        rule: The rule.
        here: One row and its tables.
        there: Another of the same size.
        n_points: Samples of the whole path.
    """
    if not _is_one_batch(rule, here):
        n_points = max(33, n_points // 16)  # each point is a call of its own
    shares = torch.linspace(0, 1, n_points, dtype=torch.float64)
    values = _along(rule, here, there, shares)
    for index in _suspects(values):
        found = _zoom(rule, here, there, (float(shares[index]), float(shares[index + 1])))
        if found is not None:
            return found
    return None


def _zoom(rule: WeightOperator, here: World, there: World, interval: tuple[float, float]) -> Case | None:
    """Follow the largest change down to the resolution; a slope fades on the way, however steep, a jump does not."""
    low, high = interval
    coarse = None
    while high - low > RESOLUTION:
        inner = torch.linspace(low, high, N_ZOOM, dtype=torch.float64)
        steps = _steps(_along(rule, here, there, inner))
        worst = int(steps.argmax())
        change = float(steps[worst])
        if change < JUMP or (coarse is not None and change < 0.7 * coarse):
            return None
        low, high = float(inner[worst]), float(inner[worst + 1])
        if high - low < START_OF_COMPARISON:
            coarse = change if coarse is None else coarse
    case = Case(here.toward(there, low), here.toward(there, high))
    return case if jump(rule, case) > 0 else None


def _suspects(values: Float[Tensor, "N D"]) -> list[int]:
    """Return the intervals where a jump may be: the largest changes, and those unlike both neighbours."""
    steps = _steps(values)
    padded = torch.cat([steps[:1], steps, steps[-1:]])
    odd = steps - torch.maximum(padded[:-2], padded[2:])
    order = [*odd.argsort(descending=True)[:N_SUSPECTS].tolist(), *steps.argsort(descending=True)[:N_SUSPECTS].tolist()]
    return [index for index in dict.fromkeys(order) if float(steps[index]) > JUMP]


def _steps(values: Float[Tensor, "N D"]) -> Float[Tensor, " M"]:
    return values.diff(dim=0).abs().amax(dim=1).nan_to_num(0.0)


def _along(rule: WeightOperator, here: World, there: World, shares: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
    """Return the weights at each share of the way, one row a point."""
    if _is_one_batch(rule, here):
        return weights_of(rule, along(here, there, shares, needs_of(rule))).movedim(1, 0).flatten(1)
    return torch.stack([weights_of(rule, here.toward(there, float(share))).flatten() for share in shares])


def _is_one_batch(rule: WeightOperator, world: World) -> bool:
    promise = declared_by(rule, world.n_teachers)
    return can_spread(needs_of(rule), mixes_rows=promise is not None and promise.mixes_rows)
