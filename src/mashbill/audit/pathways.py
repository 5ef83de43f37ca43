"""Looking for jumps along paths between two situations, all points of a path in one batch where that is the same."""

from collections.abc import Callable

import torch

from mashbill.audit.faults import FAULTS
from mashbill.audit.situations import Case
from mashbill.audit.spreading import along, can_spread
from mashbill.audit.violations import JUMP, declared_by, jump, weights_of
from mashbill.audit.worlds import World
from mashbill.shapes import Float, Tensor
from mashbill.weights.evidence import WeightOperator, needs_of

_Ask = Callable[[Float[Tensor, " N"]], Float[Tensor, "N D"]]
"""Returns the weights at each share of the way, one row a point."""

RESOLUTION = 1e-13
"""Share of a path at which the search ends."""
START_OF_COMPARISON = 1e-9
"""Share of a path below which a change that gets smaller with the step is a slope."""
N_SUSPECTS = 4
N_ZOOM = 33
N_ZOOM_ALONE = 5
"""Points of a closer look; where each is a call of its own, few points and many looks are the shorter way."""


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
    ask, n_zoom = _batched(rule, here, there), N_ZOOM
    if ask is None:
        ask, n_zoom = _one_by_one(rule, here, there), N_ZOOM_ALONE
        n_points = max(33, n_points // 16)
    shares = torch.linspace(0, 1, n_points, dtype=torch.float64)
    for index in _suspects(ask(shares)):
        interval = _zoom(ask, (float(shares[index]), float(shares[index + 1])), n_zoom)
        if interval is None:
            continue
        case = Case(here.toward(there, interval[0]), here.toward(there, interval[1]))
        if jump(rule, case) > 0:
            return case
    return None


def _zoom(ask: _Ask, interval: tuple[float, float], n_points: int) -> tuple[float, float] | None:
    """Follow the largest change down to the resolution; a slope fades on the way, however steep, a jump does not."""
    low, high = interval
    coarse = None
    while high - low > RESOLUTION:
        inner = torch.linspace(low, high, n_points, dtype=torch.float64)
        steps = _steps(ask(inner))
        worst = int(steps.argmax())
        change = float(steps[worst])
        if change < JUMP or (coarse is not None and change < 0.7 * coarse):
            return None
        low, high = float(inner[worst]), float(inner[worst + 1])
        if high - low < START_OF_COMPARISON:
            coarse = change if coarse is None else coarse
    return low, high


def _suspects(values: Float[Tensor, "N D"]) -> list[int]:
    """Return the intervals where a jump may be: the largest changes, and those unlike both neighbours."""
    steps = _steps(values)
    padded = torch.cat([steps[:1], steps, steps[-1:]])
    odd = steps - torch.maximum(padded[:-2], padded[2:])
    order = [*odd.argsort(descending=True)[:N_SUSPECTS].tolist(), *steps.argsort(descending=True)[:N_SUSPECTS].tolist()]
    return [index for index in dict.fromkeys(order) if float(steps[index]) > JUMP]


def _steps(values: Float[Tensor, "N D"]) -> Float[Tensor, " M"]:
    return values.diff(dim=0).abs().amax(dim=1).nan_to_num(0.0)


def _batched(rule: WeightOperator, here: World, there: World) -> _Ask | None:
    """Return what asks for all points at once; None if the rule then says something else than alone.

    Rows are mixed, routes and orders would multiply, or tasks and contexts are known by their names.
    """
    promise, needs = declared_by(rule, here.n_teachers), needs_of(rule)
    if not can_spread(needs, mixes_rows=promise is not None and promise.mixes_rows):
        return None

    def ask(shares: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
        return weights_of(rule, along(here, there, shares, needs)).movedim(1, 0).flatten(1)

    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    try:
        seen = ask(ends)
    except FAULTS:  # as a rule may at a name that it does not know
        return None
    is_same = torch.allclose(seen, _one_by_one(rule, here, there)(ends), rtol=0, atol=1e-9, equal_nan=True)
    return ask if is_same else None


def _one_by_one(rule: WeightOperator, here: World, there: World) -> _Ask:
    def ask(shares: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
        return torch.stack([weights_of(rule, here.toward(there, float(share))).flatten() for share in shares])

    return ask
