"""The product of scales, and the finish that makes any rule conform: safety order, then bounds.

The pipeline is the certified one: add the scales' log-weights with exponents ``1/T_s``, fit them to the safety order,
project onto the box. The result of :func:`product` and of :func:`conform` is itself a weight operator.

What a finish repairs: normalisation, positivity, bounds, order. What it does not: a rule that jumps still jumps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights import order as orders
from mashbill.weights import simplex
from mashbill.weights.bounds import check_box
from mashbill.weights.evidence import Declared, Evidence, WeightOperator
from mashbill.weights.order import SafetyOrder
from mashbill.weights.promises import Finish, Guard, composed, declared_of, structure
from mashbill.weights.shares import Number
from mashbill.weights.static import Uniform

Order = SafetyOrder | Literal["scorecard"] | None
Bounds = tuple[Number, Number] | None
SCALES = ("token", "task", "context")
_GUARDS = {"l2": simplex.project_l2, "squash": simplex.squash}


@dataclass(frozen=True)
class Product:
    """``w ~ prod_s w_s^(1/T_s)`` over the scales given, then order, then guard. Built by :func:`product`.

    Attributes:
        token: Rule at the token scale; None counts all alike, as for the others.
        task: Rule at the task scale.
        context: Rule at the context scale.
        temperatures: ``{scale: T}``; 1 where absent.
        order: Safety order of all rows, or ``"scorecard"``: the certified order of each row's context.
        bounds: ``(w_min, w_max)``.
        guard: How bounds and order are enforced.
    """

    token: WeightOperator | None
    task: WeightOperator | None
    context: WeightOperator | None
    temperatures: Mapping[str, Number]
    order: Order
    bounds: Bounds
    guard: Guard

    def __post_init__(self) -> None:
        for scale, rule, _ in self.parts:
            require_rule(rule, argument=scale)
        _require_finish(self.order, self.bounds, self.guard)
        for scale, temperature in self.temperatures.items():
            if scale not in SCALES:
                raise ValueError(
                    f"temperatures names scale {scale!r}, which does not exist; scales are token, task, context"
                )
            if not 0 < temperature < float("inf"):
                raise ValueError(f"temperatures[{scale!r}]={temperature!r} must be finite and positive")

    @property
    def parts(self) -> tuple[tuple[str, WeightOperator, float], ...]:
        """Scale, rule and temperature of each scale that has a rule."""
        given = ((scale, getattr(self, scale)) for scale in SCALES)
        return tuple((scale, rule, self.temperatures.get(scale, 1.0)) for scale, rule in given if rule is not None)

    @property
    def needs(self) -> frozenset[str]:
        """What the rules read, and ``"orders"`` if the order comes from the scorecard."""
        needs = frozenset().union(*(getattr(rule, "needs", frozenset()) for _, rule, _ in self.parts))
        return needs | ({"orders"} if self.order == "scorecard" else frozenset())

    @property
    def certificate(self) -> str:
        """What the temperatures certify, in words."""
        if not self.parts:
            return "no scale has a rule: weights are 1/K"
        total = sum(1 / temperature for _, _, temperature in self.parts)
        names = " + ".join(f"1/{temperature:g} ({scale})" for scale, _, temperature in self.parts)
        if total <= 1:
            return f"sum 1/T_s = {names} = {total:.6g} <= 1: a lower bound common to the scales is kept (Hölder)"
        kept = "the guard's bounds hold" if self.bounds is not None else "the range is the composed one"
        return f"sum 1/T_s = {names} = {total:.6g} > 1: the scales' own bounds are not kept by the product; {kept}"

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B #T]``; the last axis is 1 unless a rule works at the token scale."""
        if not self.parts:
            return Uniform()(evidence)
        terms = [_log_weights(rule, evidence, scale) / temperature for scale, rule, temperature in self.parts]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return _finish(simplex.log_normalise(total, dim=0), evidence, self.order, self.bounds, self.guard)

    def structure(self, n_teachers: int) -> dict[str, Any]:
        """Return how the product is put together, for who checks its promise."""
        return structure(self._promises(n_teachers), self._last, _plain(self.order))

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: exact composed or guarded range, and the Lipschitz constant if every rule has one.

        ``lipschitz <= 1/2 sum_s L_s / T_s`` with ``L_s`` the constant of scale ``s``'s log-weights, at most its
        weights' constant over its least weight, for inputs that all change by at most 1 in their metrics.

        Raises:
            ValueError: The bounds are infeasible for ``n_teachers``.
        """
        return composed(self._promises(n_teachers), self._last, n_teachers=n_teachers, source=self.certificate)

    @property
    def _last(self) -> Finish:
        return Finish(self.order is not None, self.bounds, self.guard)

    def _promises(self, n_teachers: int) -> list[tuple[Declared, Number]]:
        parts: list[tuple[Declared, Number]] = [(declared_of(rule, n_teachers), t) for _, rule, t in self.parts]
        return parts or [(Uniform().declared(n_teachers), 1.0)]


@dataclass(frozen=True)
class Conformed:
    """Any rule followed by order and guard. Built by :func:`conform`."""

    rule: WeightOperator
    bounds: Bounds
    order: Order
    guard: Guard

    def __post_init__(self) -> None:
        require_rule(self.rule, argument="op")
        _require_finish(self.order, self.bounds, self.guard)

    @property
    def needs(self) -> frozenset[str]:
        """What the rule reads, and ``"orders"`` if the order comes from the scorecard."""
        return getattr(self.rule, "needs", frozenset()) | ({"orders"} if self.order == "scorecard" else frozenset())

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B #T]``."""
        log_weights = simplex.log_normalise(_log_weights(self.rule, evidence, "conformed"), dim=0)
        return _finish(log_weights, evidence, self.order, self.bounds, self.guard)

    def structure(self, n_teachers: int) -> dict[str, Any]:
        """Return how the rule is finished, for who checks its promise."""
        last = Finish(self.order is not None, self.bounds, self.guard)
        return structure([(declared_of(self.rule, n_teachers), 1.0)], last, _plain(self.order))

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: the rule's range cut to the bounds, and its Lipschitz constant times the guard's."""
        part = declared_of(self.rule, n_teachers)
        finish = Finish(self.order is not None, self.bounds, self.guard)
        return composed([(part, 1.0)], finish, n_teachers=n_teachers, source=f"{part.source}; {self.guard} guard")


def product(
    *,
    token: WeightOperator | None = None,
    task: WeightOperator | None = None,
    context: WeightOperator | None = None,
    temperatures: Mapping[str, Number] | None = None,
    order: Order = None,
    bounds: Bounds = None,
    guard: Guard = "kl",
) -> Product:
    """Compose rules of any subset of scales: ``w ~ prod_s w_s^(1/T_s)``, then safety order, then bounds.

    Without any rule, or with rules that count all alike, the weights are ``1/K`` to the last bit, whatever order and
    bounds. The temperatures of scales without a rule are not used, and those of the others are used as given: with
    fewer scales, ``sum 1/T_s`` is smaller and the weights are flatter.

    Args:
        token: Rule at the token scale.
        task: Rule at the task scale.
        context: Rule at the context scale.
        temperatures: ``{scale: T}``, exponents ``1/T``; the papers' product is all 1. ``sum 1/T_s <= 1`` keeps a lower
            bound common to the scales without a guard.
        order: ``SafetyOrder`` for all rows, or ``"scorecard"`` for the certified order of each row's context; rows of
            contexts without one are not touched.
        bounds: ``(w_min, w_max)`` of every weight.
        guard: ``"kl"`` keeps ratios, in log space; ``"l2"`` moves least; ``"squash"`` mixes with uniform.

    Returns:
        A weight operator.

    Raises:
        TypeError: A rule is a name or a class, and not a rule or a function.
        ValueError: No number of teachers could satisfy the bounds, a temperature is not positive, or a name is
            unknown. In a call or in ``declared``: the bounds are infeasible for ``K``.

    Source:
        arXiv 2601.17910, Definition IV.1; order and guard last, because the product does not inherit bounds (against
        Theorem IV.2 (2)), and an order for sure only from scales that all respect it.

    >>> from mashbill.weights.token import EntropySoftmax
    >>> product(token=EntropySoftmax(beta=4.0), bounds=(0.1, 0.8)).declared(3).lowest
    0.1
    """
    return Product(token, task, context, dict(temperatures or {}), order, bounds, guard)


def conform(op: WeightOperator, *, bounds: Bounds = None, order: Order = None, guard: Guard = "kl") -> Conformed:
    """Make any rule normalised, positive, bounded and ordered.

    Args:
        op: A rule, also a plain function.
        bounds: ``(w_min, w_max)``; without them the order alone is enforced.
        order: As in :func:`product`.
        guard: As in :func:`product`.

    Returns:
        A weight operator.

    Raises:
        TypeError: ``op`` is no rule.
        ValueError: As :func:`product`.
    """
    return Conformed(op, bounds, order, guard)


def _plain(order: Order) -> str | list[list[int]] | None:
    return [list(pair) for pair in order.pairs] if isinstance(order, SafetyOrder) else order


def require_rule(rule: object, *, argument: str) -> None:
    """Raise ``TypeError`` for a class or a name in the place of a rule."""
    if isinstance(rule, type):
        raise TypeError(f"{argument}={rule.__name__} is a class; give it its options, as in {rule.__name__}()")
    if not callable(rule):
        raise TypeError(f"{argument}={rule!r} is no rule; give a rule, such as EntropySoftmax(), or a function")


def _require_finish(order: Order, bounds: Bounds, guard: str) -> None:
    if guard not in ("kl", "l2", "squash"):
        raise ValueError(f"guard={guard!r} must be 'kl', 'l2' or 'squash'")
    if order is not None and not isinstance(order, SafetyOrder) and order != "scorecard":
        raise ValueError(f"order={order!r} must be a SafetyOrder or 'scorecard'")
    if bounds is not None:
        check_box(*bounds)


def _log_weights(rule: WeightOperator, evidence: Evidence, scale: str) -> LogWeights:
    log_weights = rule(evidence)
    if log_weights.ndim != 3 or log_weights.shape[0] != evidence.n_teachers:
        raise ValueError(
            f"{scale}={type(rule).__name__} returned shape {tuple(log_weights.shape)}; a rule returns log-weights "
            f"[K B T] or [K B 1] with K = {evidence.n_teachers}"
        )
    return log_weights.to(numerics.reduction_dtype(log_weights.dtype))


def _finish(log_weights: LogWeights, evidence: Evidence, order: Order, bounds: Bounds, guard: Guard) -> LogWeights:
    """Enforce order and bounds; rows that count all alike keep exactly ``-log K``."""
    given = log_weights.movedim(0, -1)
    box = bounds or (0.0, 1.0)
    if guard == "kl":
        result = _ordered(given, evidence, order)
        if order is not None or bounds is not None:
            result = simplex.project_kl_log(result, w_min=box[0], w_max=box[1])
    elif order is not None or bounds is not None:
        result = _ordered(given.exp(), evidence, order)
        if bounds is not None:
            result = _GUARDS[guard](result, w_min=box[0], w_max=box[1])
        result = numerics.log_of(result)
    else:
        result = given
    # Uniform satisfies every order and every feasible box, so no rounding may touch it: the value is set, the
    # gradient kept, and the difference of two nearly equal numbers is exact.
    even = Uniform()(evidence)[:, :1].movedim(0, -1).to(result.dtype)
    is_even = given.amax(dim=-1, keepdim=True) == given.amin(dim=-1, keepdim=True)
    return (result + torch.where(is_even, even - result.detach(), 0)).movedim(-1, 0)


def _ordered(values: Float[Tensor, "B T K"], evidence: Evidence, order: Order) -> Float[Tensor, "B T K"]:
    if order is None:
        return values
    if isinstance(order, SafetyOrder):
        return orders.fit(values, order)
    # A scorecard may know contexts that the data has not. Those without a row here are left out where looking is free.
    known = [name for name in evidence.orders if name in evidence.contexts]
    if evidence.context.device.type == "cpu":
        present = set(evidence.context.tolist())
        known = [name for name in known if evidence.contexts.index(name) in present]
    for name in known:
        in_context = (evidence.context == evidence.contexts.index(name)).reshape(-1, 1, 1)
        fitted = orders.fit(values, orders.order_of(evidence.n_teachers, evidence.orders[name]))
        values = torch.where(in_context, fitted, values)
    return values
