"""What a product of rules promises, worked out from what its rules promise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mashbill.weights.bounds import composed_bounds, effective_bounds
from mashbill.weights.evidence import Declared, WeightOperator
from mashbill.weights.shares import Number
from mashbill.weights.simplex import squash_factor

Guard = Literal["kl", "l2", "squash"]


@dataclass(frozen=True)
class Finish:
    """What follows the product: whether an order is enforced, and which guard with which bounds."""

    ordered: bool
    bounds: tuple[Number, Number] | None
    guard: Guard


def declared_of(rule: WeightOperator, n_teachers: int) -> Declared:
    """Return a rule's promise, or for a rule that makes none what is true of any weights."""
    declared = getattr(rule, "declared", None)
    if declared is not None:
        return declared(n_teachers)
    low = 1.0 if n_teachers == 1 else 0.0
    return Declared(low, 1.0, None, "unknown", f"{type(rule).__name__} declares nothing")


def composed(parts: Sequence[tuple[Declared, Number]], finish: Finish, *, n_teachers: int, source: str) -> Declared:
    """Return the promise of ``finish(prod_s w_s^(1/T_s))``.

    Args:
        parts: Each scale's promise and temperature.
        finish: Order and guard.
        n_teachers: ``K``.
        source: The argument, for the reader.
    """
    low, high = _guarded(*_product_range(parts, n_teachers), finish, n_teachers)
    scores = _score_lipschitz(parts)
    metrics = dict.fromkeys(part.metric for part, _ in parts if part.lipschitz != 0)
    metric = "; ".join(metrics) or "any continuous input"
    # Order and guard in log space move log-weights no further than scores; those on weights may, where one is small.
    is_untouched = finish.guard == "kl" or (not finish.ordered and finish.bounds is None)
    lipschitz = _lipschitz(parts, scores, finish, n_teachers)
    return Declared(
        low,
        high,
        lipschitz,
        metric,
        source,
        score_lipschitz=scores if is_untouched else None,
        reads_student=any(part.reads_student for part, _ in parts),
        mixes_rows=any(part.mixes_rows for part, _ in parts),
    )


def structure(parts: Sequence[tuple[Declared, Number]], finish: Finish, order: object) -> dict[str, Any]:
    """Return how a composition is put together, as plain numbers that somebody else can compute with.

    Its last step is a normalisation or a projection onto the simplex, hence ``normalised``.

    Args:
        parts: Each scale's promise and temperature.
        finish: Order and guard.
        order: ``"scorecard"``, pairs of teacher indices, or None.
    """
    return {
        "parts": [
            {
                "lowest": part.lowest,
                "highest": part.highest,
                "score_lipschitz": _score_lipschitz([(part, 1.0)]),
                "temperature": float(temperature),
            }
            for part, temperature in parts
        ],
        "bounds": None if finish.bounds is None else [float(x) for x in finish.bounds],
        "guard": finish.guard,
        "ordered": order,
        "normalised": True,
    }


def _product_range(parts: Sequence[tuple[Declared, Number]], n_teachers: int) -> tuple[float, float]:
    if all(temperature == 1 for _, temperature in parts):
        return composed_bounds([(part.lowest, part.highest) for part, _ in parts], n_teachers=n_teachers)
    # Always: two weights differ by no more than the product of the scales' largest ratios.
    ratio = math.prod((part.lowest / part.highest) ** (1 / temperature) for part, temperature in parts)
    low, high = ratio / (ratio + (n_teachers - 1)), 1 / (1 + (n_teachers - 1) * ratio)
    # Hölder: with sum 1/T <= 1 the normaliser is at most K^(1 - sum 1/T).
    exponent = sum(1 / temperature for _, temperature in parts)
    if exponent <= 1:
        least = math.prod(part.lowest ** (1 / temperature) for part, temperature in parts)
        low = max(low, least * n_teachers ** (exponent - 1))
    return low, min(high, 1 - (n_teachers - 1) * low)


def _guarded(low: float, high: float, finish: Finish, n_teachers: int) -> tuple[float, float]:
    """Carry a range through order and guard."""
    if finish.ordered and finish.guard == "kl":
        # Block means of logs are no less than the least log, and sum to less than 1 before they are normalised.
        high = 1 - (n_teachers - 1) * low
    if finish.bounds is None:
        return low, high
    w_min, w_max = finish.bounds
    box_low, box_high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    if finish.guard == "squash":
        rho = squash_factor(n_teachers, w_min=w_min, w_max=w_max)
        return (1 - rho) / n_teachers + rho * low, (1 - rho) / n_teachers + rho * high
    # If no weight is below w_min, a projection only ever raises those that stay free; likewise from above.
    return effective_bounds(n_teachers, w_min=max(low, box_low), w_max=min(high, box_high))


def _score_lipschitz(parts: Sequence[tuple[Declared, Number]]) -> float | None:
    """Return ``sum_s L_s / T_s`` of the log-weights; a rule without such a constant counts ``lipschitz / lowest``."""
    total = 0.0
    for part, temperature in parts:
        known = [] if part.score_lipschitz is None else [part.score_lipschitz]
        if part.lipschitz is not None and (part.lowest > 0 or part.lipschitz == 0):
            known.append(part.lipschitz / part.lowest if part.lipschitz else 0.0)
        if not known:
            return None
        total += min(known) / temperature
    return total


def _lipschitz(
    parts: Sequence[tuple[Declared, Number]], scores: float | None, finish: Finish, n_teachers: int
) -> float | None:
    """Return the sup-norm constant of the weights: softmax 1/2, order 1, KL guard 1, squash rho, l2 2(1 - 1/K)."""
    known = [] if scores is None else [scores / 2]
    in_log_space = finish.guard == "kl" and (finish.ordered or finish.bounds is not None)
    if len(parts) == 1 and parts[0][1] == 1 and not in_log_space and parts[0][0].lipschitz is not None:
        known.append(parts[0][0].lipschitz)
    if not known:
        return None
    if finish.bounds is None or finish.guard == "kl":
        return min(known)
    if finish.guard == "squash":
        return min(known) * squash_factor(n_teachers, w_min=finish.bounds[0], w_max=finish.bounds[1])
    return min(known) * 2 * (1 - 1 / n_teachers)
