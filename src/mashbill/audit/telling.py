"""A counter-example in one line: what the rule read, and what it answered."""

from collections.abc import Iterator

import torch

from mashbill.audit.axioms import Axiom
from mashbill.audit.situations import Case
from mashbill.audit.violations import weights_of
from mashbill.audit.worlds import World
from mashbill.shapes import Tensor
from mashbill.weights.evidence import Evidence, WeightOperator, needs_of


def tell_case(rule: WeightOperator, axiom: Axiom, case: Case) -> str:
    """Return a counter-example in one line: what the rule read, and what it answered."""
    said = _shown(rule, case.world, case.other)
    read = describe(rule, case.world)
    if case.other is not None and axiom.id not in ("contract.state",):
        return f"{read} gives {said}; {describe(rule, case.other)} gives {_shown(rule, case.other, case.world)}"
    if case.choice:
        return f"{read} gives {said}; rows or teachers {list(case.choice)} get others"
    return f"{read} gives {said}"


def _shown(rule: WeightOperator, world: World, other: World | None = None) -> str:
    """Return the weights where the least of them is, or where two situations differ most."""
    try:
        weights = weights_of(rule, world, normalise=False)
        unlike = -weights if other is None else (weights - weights_of(rule, other, normalise=False)).abs()
    except Exception as error:  # the axiom may be that there is an answer
        return f"{type(error).__name__}: {error}"[:120]
    place = int(unlike.amax(dim=0).nan_to_num(torch.inf).argmax()) if weights.ndim == 3 else 0
    row = weights.flatten(1)[:, place] if weights.ndim == 3 else weights.flatten()[:6]
    return "(" + ", ".join(f"{x:.6g}" for x in row[:6].tolist()) + (", ..." if len(row) > 6 else "") + ")"


def describe(rule: WeightOperator, world: World) -> str:
    """Return the evidence that a rule asks for, with its numbers."""
    evidence = world.evidence()
    parts = [f"{name} {_numbers(value)}" for name in sorted(needs_of(rule)) for value in _read(evidence, name)]
    return "; ".join(parts) or "any evidence"


def _read(evidence: Evidence, name: str) -> Iterator[Tensor]:
    kind, *rest = name.split(":")
    if kind == "score":
        by, measure = rest
        index = evidence.task if by == "task" else evidence.context
        yield evidence.scores[by][measure][:, index[0]]  # pyright: ignore[reportArgumentType]
    elif hasattr(evidence.statistics, kind):
        yield getattr(evidence.statistics, kind)[:, 0]
    elif kind in ("route", "features"):
        yield getattr(evidence, kind)[0]
    elif kind != "orders":
        value = evidence.given(name)
        yield value[0] if kind in ("gram", "student_logprobs") else value[:, 0]


def _numbers(value: Tensor) -> str:
    flat = value.detach().double().flatten()[:6].tolist()
    return "(" + ", ".join(f"{x:.4g}" for x in flat) + (", ..." if value.numel() > 6 else "") + ")"
