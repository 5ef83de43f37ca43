"""How far a weight rule is from each axiom in one situation; above 0 is a violation.

Faults are kept apart: where an axiom is not about sums, weights are divided by their sum first, and situations that
give a NaN or an exception count for the axioms on those alone.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from mashbill.audit.faults import FAULTS, copied
from mashbill.audit.situations import Case
from mashbill.audit.worlds import World
from mashbill.shapes import Float, Tensor
from mashbill.weights.evidence import Declared, Evidence, WeightOperator, needs_of

NO_BOUND = 1e-6
"""A rule that declares 0 for its lower bound, and gives a weight below this, has none."""
NO_BOUND_SEEN = 1e-9
"""A rule that declares nothing may be steep and bounded: below this over ``K`` it has none worth the name."""
JUMP = 1e-6
"""A change of a weight between two situations 1e-12 of a path apart that is neither slope nor rounding."""
ROUNDING = 1e-9
"""Slack of every comparison in float64."""
LOW_PRECISION = 1e-3
"""How far weights from float32 evidence may be from those of the same numbers in float64."""


def answer(rule: WeightOperator, world: World) -> Tensor:
    """Return what the rule says, unchecked; what it said last time, if it was asked here last."""
    asked, said = world.last_answer.get("rule"), world.last_answer.get("said")
    if asked is not rule or said is None:
        said = ask(rule, world)
        world.last_answer.update(rule=rule, said=said)
    return said.clone() if isinstance(said, Tensor) else said


def ask(rule: WeightOperator, world: World) -> Tensor:
    """Return what the rule says now, unchecked."""
    with torch.no_grad():
        return rule(world.evidence(needs_of(rule)))


def weights_of(rule: WeightOperator, world: World, *, normalise: bool = True) -> Float[Tensor, "K B T"]:
    """Return probabilities, divided by their sum unless told otherwise; NaN where the rule gives NaN."""
    return _as_weights(answer(rule, world), normalise=normalise)


def declared_by(rule: WeightOperator, n_teachers: int) -> Declared | None:
    """Return a rule's promise, or None if it makes none."""
    declare: Callable[[int], Declared] | None = getattr(rule, "declared", None)
    return None if declare is None else declare(n_teachers)


def shape(rule: WeightOperator, case: Case) -> float:
    """1 if the answer is not log-weights ``[K B T]`` or ``[K B 1]``, the second above tokens, in float32 or float64."""
    said, (n_teachers, n_rows, n_positions, _) = answer(rule, case.world), case.world.logits.shape
    if not isinstance(said, Tensor) or said.dtype not in (torch.float32, torch.float64):
        return 1.0
    lengths = (1, n_positions) if getattr(rule, "scale", "token") == "token" else (1,)
    return float(said.ndim != 3 or said.shape[:2] != (n_teachers, n_rows) or said.shape[2] not in lengths)


def raises(rule: WeightOperator, case: Case) -> float:
    """1 if the rule raises."""
    try:
        answer(rule, case.world)
    except FAULTS:
        return 1.0
    return 0.0


def is_nan(rule: WeightOperator, case: Case) -> float:
    """1 if some weight is no number, or infinite."""
    return float(not bool(answer(rule, case.world).double().exp().isfinite().all()))


def sum_off(rule: WeightOperator, case: Case) -> float:
    """How far the sum is from 1, beyond rounding."""
    said = answer(rule, case.world)
    slack = 1e-6 + 4 * said.shape[0] * torch.finfo(torch.float32).eps if _is_single(said) else ROUNDING
    return _most((said.double().exp().sum(dim=0) - 1).abs()) - slack


def silenced(rule: WeightOperator, case: Case) -> float:
    """1 if some weight is 0 in float64."""
    return float(_most(-weights_of(rule, case.world)) >= 0)


def out_of_bounds(rule: WeightOperator, case: Case) -> float:
    """How far a weight leaves the declared bounds; without a lower one, how far it is below what passes for one."""
    n_teachers = case.world.n_teachers
    least = least_that_passes(declared_by(rule, n_teachers), n_teachers)
    return out_of_range(rule, case) if least is None else least - _least(weights_of(rule, case.world))


def least_that_passes(promise: Declared | None, n_teachers: int) -> float | None:
    """Return what passes for a lower bound where none above 0 is declared; None where one is."""
    if promise is None:
        return NO_BOUND_SEEN / n_teachers
    return None if promise.lowest > 0 else NO_BOUND


def out_of_range(rule: WeightOperator, case: Case) -> float:
    """How far a weight leaves the range that the rule declares."""
    promise = declared_by(rule, case.world.n_teachers)
    if promise is None:
        return 0.0
    weights = weights_of(rule, case.world)
    return max(promise.lowest - _least(weights), _most(weights) - promise.highest) - _slack(rule, case.world)


def infeasible(rule: WeightOperator, case: Case) -> float:
    """How far stated bounds are from letting the weights of so many teachers sum to 1."""
    tell = getattr(rule, "structure", None)
    bounds = None if tell is None else tell(case.world.n_teachers)["bounds"]
    if bounds is None:
        return 0.0
    return max(case.world.n_teachers * bounds[0] - 1, 1 - case.world.n_teachers * bounds[1]) - ROUNDING


def disorder(rule: WeightOperator, case: Case) -> float:
    """How much more a teacher counts than one that is certified safer in the row's context."""
    return _disorder(rule, case, lambda name: case.world.orders.get(name, ()))


def disorder_of_stated(rule: WeightOperator, case: Case) -> float:
    """The same of the order that a composition states."""
    return _disorder(rule, case, lambda name: stated_pairs(rule, case.world, name))


def stated_pairs(rule: WeightOperator, world: World, context: str) -> Sequence[Sequence[int]]:
    """Return the order that a composition states: pairs of its own that are written down, or what is certified."""
    tell = getattr(rule, "structure", None)
    stated = None if tell is None else tell(world.n_teachers)["ordered"]
    return stated if isinstance(stated, list) else world.orders.get(context, ())


def jump(rule: WeightOperator, case: Case) -> float:
    """How much weights differ between two situations that all but coincide."""
    return _difference(rule, case) - JUMP


def follows_student(rule: WeightOperator, case: Case) -> float:
    """How much weights differ between two situations that differ in the student alone."""
    return _difference(rule, case) - _slack(rule, case.world)


def follows_student_undeclared(rule: WeightOperator, case: Case) -> float:
    """The same for a rule that does not say so."""
    promise = declared_by(rule, case.world.n_teachers)
    return 0.0 if promise is not None and promise.reads_student else follows_student(rule, case)


def mixes_rows(rule: WeightOperator, case: Case) -> float:
    """How much a row's weights depend on its batch, for a rule that does not say so."""
    promise = declared_by(rule, case.world.n_teachers)
    if promise is not None and promise.mixes_rows:
        return 0.0
    whole = weights_of(rule, case.world)[:, list(case.choice)]
    return _most((whole - weights_of(rule, case.world.rows(case.choice))).abs()) - _slack(rule, case.world)


def depends_on_places(rule: WeightOperator, case: Case) -> float:
    """How much weights change when teachers change places."""
    permuted = weights_of(rule, case.world.permuted(case.choice))
    return _most((weights_of(rule, case.world)[list(case.choice)] - permuted).abs()) - max(
        1e-7, _slack(rule, case.world)
    )


def remembers(rule: WeightOperator, case: Case) -> float:
    """How much weights change when the same is asked four times, with another question in between.

    A copy is asked, so that the rule is as it was for whoever asks next. 1 if a call changes the evidence itself.
    """
    own = copied(rule)
    first = _as_weights(ask(own, case.world))
    between = case.world if case.other is None else case.other
    worst = changes_evidence(own, case)
    for _ in range(4):
        ask(own, between)
        worst = max(worst, _most((_as_weights(ask(own, case.world)) - first).abs()))
    return worst - 1e-12


def changes_evidence(rule: WeightOperator, case: Case) -> float:
    """1 if the call changes the evidence that it was given."""
    evidence, untouched = case.world.evidence(needs_of(rule)), case.world.evidence(needs_of(rule))
    with torch.no_grad():
        rule(evidence)
    return float(any(not _same(a, b) for a, b in zip(_tensors(evidence), _tensors(untouched), strict=True)))


def leaks_gradient(rule: WeightOperator, case: Case) -> float:
    """1 if weights carry a gradient back into the student: it would learn to look good to the rule.

    Slopes in what teachers said are no leak; teachers are not trained, and searches need those slopes.
    """
    evidence = case.world.evidence(needs_of(rule))
    read = (evidence.student_logprobs, evidence.gram, evidence.divergences.get("student"))
    inputs = [value.requires_grad_(True) for value in read if value is not None]
    with torch.enable_grad():
        said = rule(evidence)
        if not inputs or not said.requires_grad:
            return 0.0
        # No two teachers count alike, so that what one gains and others lose does not cancel.
        counts = torch.linspace(1, 2, len(said), dtype=said.dtype).reshape(-1, 1, 1)
        found = torch.autograd.grad((counts * said.exp()).sum(), inputs, allow_unused=True)
    return float(any(gradient is not None and bool((gradient.nan_to_num(0.0) != 0).any()) for gradient in found))


def depends_on_precision(rule: WeightOperator, case: Case) -> float:
    """How far weights from float32 evidence are from those in float64; far sums count, too."""
    narrow = case.world.to(torch.float32)
    said = answer(rule, narrow)
    wide = weights_of(rule, narrow.to(torch.float64), normalise=False)
    sums = _most((said.double().exp().sum(dim=0) - 1).abs()) - 1e-5
    return max(_most((said.double().exp() - wide).abs()) - LOW_PRECISION, sums)


VIOLATIONS: Mapping[str, Callable[[WeightOperator, Case], float]] = {
    "token.III.1": sum_off,
    "token.III.2": silenced,
    "token.III.3": out_of_bounds,
    "token.III.4": jump,
    "token.III.5": disorder,
    "task.III.10": sum_off,
    "task.III.11": silenced,
    "task.III.12": out_of_bounds,
    "task.III.13": jump,
    "task.III.14": follows_student,
    "context.III.18": sum_off,
    "context.III.19": silenced,
    "context.III.20": out_of_bounds,
    "context.III.21": jump,
    "context.III.22": disorder,
    "composition.box": out_of_range,
    "composition.order": disorder_of_stated,
    "composition.feasible": infeasible,
    "composition.student": follows_student_undeclared,
    "contract.answer": raises,
    "contract.shape": shape,
    "contract.finite": is_nan,
    "contract.rows": mixes_rows,
    "contract.permutation": depends_on_places,
    "contract.state": remembers,
    "contract.gradient": leaks_gradient,
    "contract.precision": depends_on_precision,
    "contract.range": out_of_range,
}
"""By axiom id. ``contract.lipschitz`` has a file of its own."""


def _as_weights(said: Tensor, *, normalise: bool = True) -> Float[Tensor, "K B T"]:
    weights = said.double().exp()
    return weights / weights.sum(dim=0, keepdim=True) if normalise else weights


def _disorder(rule: WeightOperator, case: Case, pairs_in: Callable[[str], Sequence[Sequence[int]]]) -> float:
    world, weights = case.world, weights_of(rule, case.world)
    worst = -1.0
    for index, name in enumerate(world.contexts):
        rows = world.context == index
        pairs = [pair for pair in pairs_in(name) if max(pair) < len(weights)] if bool(rows.any()) else []
        for safer, less in pairs:
            worst = max(worst, _most(weights[less, rows] - weights[safer, rows]))
    return worst - 1e-6


def _slack(rule: WeightOperator, world: World) -> float:
    return 1e-6 if _is_single(answer(rule, world)) else ROUNDING


def _is_single(said: Tensor) -> bool:
    """Whether an answer is in float32, or was and has been widened since."""
    return said.dtype != torch.float64 or bool(((said == said.float().double()) | said.isnan()).all())


def _difference(rule: WeightOperator, case: Case) -> float:
    assert case.other is not None, "two situations are compared"
    return _most((weights_of(rule, case.world) - weights_of(rule, case.other)).abs())


def _most(values: Tensor) -> float:
    """Return the largest value; NaN is another axiom's affair."""
    return float(values.nan_to_num(-torch.inf, torch.inf, -torch.inf).max()) if values.numel() else -1.0


def _least(values: Tensor) -> float:
    return -_most(-values)


def _tensors(evidence: Evidence) -> list[Tensor]:
    plain = [value for value in vars(evidence).values() if isinstance(value, Tensor)]
    return [*plain, *vars(evidence.statistics).values(), *evidence.divergences.values()]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan()) if a.is_floating_point() else a == b).all())
