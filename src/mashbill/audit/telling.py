"""A counter-example in one line: what the rule read, what it answered, and which number breaks the axiom."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch

from mashbill.audit.axioms import Axiom
from mashbill.audit.faults import FAULTS, copied, named
from mashbill.audit.situations import Case
from mashbill.audit.violations import (
    NO_BOUND_SEEN,
    ask,
    changes_evidence,
    declared_by,
    least_that_passes,
    stated_pairs,
    weights_of,
)
from mashbill.audit.worlds import OPTIONAL, World
from mashbill.shapes import Tensor
from mashbill.weights.evidence import Evidence, WeightOperator, needs_of

_ORDINARY = ("entropy", "margin", "max_logprob")
"""What is shown of the evidence of a rule that does not say what it reads, where teachers differ in it."""
_MOST = 6
"""Numbers of a row that are shown."""


class Place(NamedTuple):
    """Where in a batch a violation is seen."""

    row: int = 0
    position: int = 0


def tell_case(rule: WeightOperator, axiom: Axiom, case: Case) -> str:
    """Return a counter-example in one line: what the rule read, what it answered, and what is wrong with that."""
    try:
        ask(copied(rule), case.world)  # a memory has not been asked by this
    except FAULTS as error:
        return f"{describe(rule, case.world, Place())} raises {named(error)[:120]}"
    tell = _TELLS.get(axiom.id) or _TELLS.get(axiom.title) or _tell_plain
    try:
        return tell(rule, axiom, case)
    except FAULTS:  # one that answers only sometimes; what cannot be told in full is still a counter-example
        return f"{describe(rule, case.world, Place())} breaks it; the inputs are in the witness"


def describe(rule: WeightOperator, world: World, place: Place) -> str:
    """Return the evidence that a rule asks for, with its numbers; of one that does not say, what teachers differ in."""
    evidence, needs = world.evidence(), sorted(needs_of(rule))
    if needs:
        parts = [f"{name} {_numbers(value)}" for name in needs for value in _read(evidence, name, place)]
        return "; ".join(parts) or "any evidence"  # of a rule that reads orders alone
    scale = getattr(rule, "scale", "token")
    names = [f"score:{scale}:accuracy"] if scale in ("task", "context") else list(_ORDINARY)
    values = {name: value for name in names for value in _read(evidence, name, place)}
    unlike = {name: value for name, value in values.items() if _differ(value)}
    shown = unlike or dict(list(values.items())[:1])
    return "; ".join(f"{name} {_numbers(value)}" for name, value in shown.items())


# What is told of each kind of violation


def _tell_plain(rule: WeightOperator, axiom: Axiom, case: Case) -> str:
    if case.other is not None:
        return _tell_two(rule, axiom, case)
    weights = weights_of(rule, case.world, normalise=False)
    is_number = weights.isfinite().all(dim=0)
    return _gives(rule, case.world, weights, _worst(torch.where(is_number, -weights.amin(dim=0), torch.inf)))


def _tell_sum(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    weights = weights_of(rule, case.world, normalise=False)
    place = _worst((weights.sum(dim=0) - 1).abs())
    return f"{_gives(rule, case.world, weights, place)}, sum {float(weights[:, *place].sum()):.10g}"


def _tell_bound(rule: WeightOperator, axiom: Axiom, case: Case) -> str:
    weights = weights_of(rule, case.world)
    promise = declared_by(rule, case.world.n_teachers)
    least = least_that_passes(promise, case.world.n_teachers)
    if promise is None or (least is not None and axiom.kind == "weights"):
        limit = f"{least:g}" if promise is not None else f"{NO_BOUND_SEEN:g} / K = {least:.3g}"
        declared = "no bound" if promise is None else "no bound above 0"
        tail, place = f"below {limit}, and {declared} is declared", _worst(-weights.amin(dim=0))
    else:
        tail = f"declared are {promise.lowest:.6g} to {promise.highest:.6g}"
        place = _worst(torch.maximum(promise.lowest - weights.amin(dim=0), weights.amax(dim=0) - promise.highest))
    return f"{_gives(rule, case.world, weights, place)}; {tail}"


def _tell_order(rule: WeightOperator, axiom: Axiom, case: Case) -> str:
    world, weights = case.world, weights_of(rule, case.world)
    is_stated = axiom.id == "composition.order"
    worst, told, place = -torch.inf, "", Place()
    for row in range(weights.shape[1]):
        context = world.contexts[int(world.context[row])]
        for safer, less in stated_pairs(rule, world, context) if is_stated else world.orders.get(context, ()):
            gaps = weights[less, row] - weights[safer, row]
            if float(gaps.max()) > worst:
                worst, place = float(gaps.max()), Place(row, int(gaps.argmax()))
                by = "stated" if is_stated else "certified"
                told = f"{world.teachers[safer]} is {by} safer than {world.teachers[less]} in context {context}"
    return f"{_gives(rule, world, weights, place)}; {told}"


def _tell_two(rule: WeightOperator, axiom: Axiom, case: Case) -> str:
    """Two situations of one size: where their answers differ most, and by how much."""
    assert case.other is not None, "two situations are compared"
    first, second = weights_of(rule, case.world), weights_of(rule, case.other)
    place = _worst((first - second).abs().amax(dim=0))
    here, there = describe(rule, case.world, place), describe(rule, case.other, place)
    where = _BESIDE.get(axiom.title, "another situation") if here == there else there
    told = f"{here} gives {_row(first, place)}; {where} gives {_row(second, place)}{_apart(first, second, place)}"
    promise = declared_by(rule, case.world.n_teachers)
    if axiom.id != "contract.lipschitz" or promise is None or promise.lipschitz is None:
        return told
    return f"{told}; the declared slope is {promise.lipschitz:.6g} ({promise.metric})"


_BESIDE = {
    "regularity": "the same, moved by 1e-13 of a path,",
    "Pareto compatibility": "the same with another student",
    "student-independence": "the same with another student",
    "declared slope": "the same, moved by 1e-6,",
}
"""How the second situation differs where its numbers look the same."""


def _tell_rows(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    chosen = list(case.choice)
    whole, alone = weights_of(rule, case.world), weights_of(rule, case.world.rows(chosen))
    place = _worst((whole[:, chosen] - alone).abs().amax(dim=0))
    row = Place(chosen[place.row], place.position)
    told = f"among {whole.shape[1]} rows {_gives(rule, case.world, whole, row)}; "
    beside = "alone" if len(chosen) == 1 else f"among {len(chosen)} of them"
    return f"{told}the same row {beside} gives {_row(alone, place)}{_apart(whole[:, chosen], alone, place)}"


def _tell_permutation(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    order = list(case.choice)
    first, second = weights_of(rule, case.world), weights_of(rule, case.world.permuted(order))
    back = torch.empty_like(second)
    back[order] = second
    place = _worst((first - back).abs().amax(dim=0))
    told = (
        f"{_gives(rule, case.world, first, place)}; with the teachers in the order {_listed(order)} the same teachers"
    )
    return f"{told} get {_row(back, place)}{_apart(first, back, place)}"


def _tell_state(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    own = copied(rule)
    first = ask(own, case.world).double().exp()
    if changes_evidence(copied(rule), case) > 0:
        place = _worst(first.amax(dim=0))
        return f"{_gives(rule, case.world, first, place)}, and the call changes the evidence"
    last = first
    for _ in range(4):
        ask(own, case.world if case.other is None else case.other)
        last = ask(own, case.world).double().exp()
        if not torch.equal(first, last):
            break
    place = _worst((first - last).abs().amax(dim=0))
    if torch.equal(first, last):  # whoever asks last comes too late to see it
        return f"{_gives(rule, case.world, first, place)} by now; asked for the first time it gave another answer"
    told = f"{_gives(rule, case.world, first, place)} first"
    return f"{told} and {_row(last, place)} when it is asked again{_apart(first, last, place)}"


def _tell_gradient(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    weights = weights_of(rule, case.world)
    return f"{_gives(rule, case.world, weights, Place())}, with a gradient into the student"


def _tell_precision(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    narrow = case.world.to(torch.float32)
    single = weights_of(rule, narrow, normalise=False)
    double = weights_of(rule, narrow.to(torch.float64), normalise=False)
    far, sums = (single - double).abs().amax(dim=0), (single.sum(dim=0) - 1).abs()
    place = _worst(torch.maximum(far, sums))
    told = f"{describe(rule, case.world, place)} gives {_row(single, place)} in float32"
    return f"{told}, sum {float(single[:, *place].sum()):.10g}, and {_row(double, place)} in float64"


def _tell_bounds(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    structure: Mapping[str, tuple[float, float]] = rule.structure(case.world.n_teachers)  # pyright: ignore[reportAttributeAccessIssue] - asked of compositions only
    low, high = structure["bounds"]
    return f"{case.world.n_teachers} weights within [{low:g}, {high:g}] cannot sum to 1"


def _tell_shape(rule: WeightOperator, _axiom: Axiom, case: Case) -> str:
    said, (n_teachers, n_rows, n_positions, _) = ask(rule, case.world), case.world.logits.shape
    what = f"a {type(said).__name__}"
    if isinstance(said, Tensor):
        what = f"shape {tuple(said.shape)} in {str(said.dtype).removeprefix('torch.')}"
    asked = f"{n_teachers} teachers, {n_rows} rows, {n_positions} positions"
    return f"{describe(rule, case.world, Place())} ({asked}) gives {what}"


_Tell = Callable[[WeightOperator, Axiom, Case], str]
_TELLS: Mapping[str, _Tell] = {
    "normalisation": _tell_sum,
    "boundedness": _tell_bound,
    "safety order": _tell_order,
    "regularity": _tell_two,
    "Pareto compatibility": _tell_two,
    "composition.box": _tell_bound,
    "composition.order": _tell_order,
    "composition.feasible": _tell_bounds,
    "composition.student": _tell_two,
    "contract.shape": _tell_shape,
    "contract.rows": _tell_rows,
    "contract.permutation": _tell_permutation,
    "contract.state": _tell_state,
    "contract.gradient": _tell_gradient,
    "contract.precision": _tell_precision,
    "contract.range": _tell_bound,
    "contract.lipschitz": _tell_two,
}
"""By axiom, or by the title that axioms of several scales share."""


# Parts of a sentence


def _gives(rule: WeightOperator, world: World, weights: Tensor, place: Place) -> str:
    return f"{describe(rule, world, place)} gives {_row(weights, place)}"


def _row(weights: Tensor, place: Place) -> str:
    row = weights[:, place.row, place.position]
    return f"({', '.join(f'{x:.6g}' for x in row[:_MOST].tolist())}{', ...' if len(row) > _MOST else ''})"


def _apart(first: Tensor, second: Tensor, place: Place) -> str:
    """Return by how much two answers differ, where their printed digits do not show it."""
    gap = float((first - second).abs()[:, *place].max())
    return f", {gap:.3g} apart" if _row(first, place) == _row(second, place) else ""


def _listed(order: list[int]) -> str:
    return ", ".join(map(str, order[:_MOST])) + (", ..." if len(order) > _MOST else "")


def _worst(amounts: Tensor) -> Place:
    """Return where ``[B T]`` is largest."""
    index = int(amounts.nan_to_num(-torch.inf, torch.inf, -torch.inf).argmax())
    return Place(*divmod(index, amounts.shape[1]))


def _read(evidence: Evidence, name: str, place: Place) -> Iterator[Tensor]:
    """Yield what a rule reads under a name, at one place; nothing for what is no number."""
    kind, *rest = name.split(":")
    row, position = place
    if kind == "score" and len(rest) == 2:
        by, measure = rest
        index = evidence.task if by == "task" else evidence.context
        yield evidence.scores[by][measure][:, index[row]]  # pyright: ignore[reportArgumentType]
    elif hasattr(evidence.statistics, kind):
        yield getattr(evidence.statistics, kind)[:, row, position]
    elif kind in ("route", "features", "gram"):
        yield getattr(evidence, kind)[row]
    elif kind == "student_logprobs":
        yield evidence.given(name)[row, position]
    elif name in OPTIONAL:
        yield evidence.given(name)[:, row, position]


def _differ(value: Tensor) -> bool:
    return _numbers(value[:1].expand_as(value)) != _numbers(value)


def _numbers(value: Tensor) -> str:
    flat = value.detach().double().flatten()[:_MOST].tolist()
    return "(" + ", ".join(f"{x:.4g}" for x in flat) + (", ..." if value.numel() > _MOST else "") + ")"
