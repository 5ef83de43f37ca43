"""A quick look at a weight rule: which of five properties a few thousand situations break, and where.

Finding nothing proves nothing; what is found is a counter-example that can be looked at. Small situations come first,
so that the counter-example is one that a person can read.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mashbill.audit.moods import MOODS, Stage, make_world
from mashbill.audit.worlds import World
from mashbill.shapes import Tensor
from mashbill.weights.evidence import Declared, Evidence, WeightOperator, needs_of

PROPERTIES = ("normalised", "positive", "bounded", "continuous", "ordered")
"""Weights sum to 1; are above 0; stay above a bound that is itself above 0; do not jump; respect a certified order."""

SMALL_WEIGHT = 1e-4
"""A rule that declares no lower bound and gives less than this, somewhere, has none worth the name."""
JUMP = 1e-3
"""A change of a weight within a step of 1e-12 of the way between two situations that is no rounding."""


@dataclass(frozen=True)
class Finding:
    """What was found out about one property.

    Attributes:
        property: One of :data:`PROPERTIES`.
        is_broken: Whether there is a counter-example.
        witness: The counter-example in words and numbers, or what was looked at.
    """

    property: str
    is_broken: bool
    witness: str


@torch.no_grad()
def scan(rule: WeightOperator, *, stage: Stage | None = None, seed: int = 0, n_worlds: int = 300) -> list[Finding]:
    """Look for counter-examples to each property.

    Args:
        rule: A weight rule.
        stage: The names that it was made for.
        seed: Of the situations.
        n_worlds: Situations to look at, and half as many paths between two.
    """
    worlds = list(_worlds(stage or Stage(), seed, n_worlds))
    seen = [(world, rule(world.evidence()).double().exp()) for world in worlds]
    return [
        _normalised(rule, seen),
        _positive(rule, seen),
        _bounded(rule, seen),
        _continuous(rule, worlds),
        _ordered(rule, seen),
    ]


_Seen = list[tuple[World, Tensor]]


def _worlds(stage: Stage, seed: int, n_worlds: int) -> Iterator[World]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(2, 1, 1, 2), (2, 1, 1, 3), (3, 1, 1, 3), (3, 2, 2, 3), (5, 2, 3, 7)]
    per_mood = max(1, n_worlds // (len(sizes) * len(MOODS)))
    for (k, b, t, v), mood, _ in itertools.product(sizes, MOODS, range(per_mood)):
        yield make_world(stage, generator, mood=mood, n_teachers=k, n_rows=b, n_positions=t, n_entries=v)


def _normalised(rule: WeightOperator, seen: _Seen) -> Finding:
    error, world, weights = max(
        ((float((w.sum(dim=0) - 1).abs().max()), world, w) for world, w in seen), key=lambda each: each[0]
    )
    # An answer in float32 is off by its rounding.
    is_broken = not error < (1e-9 if rule(world.evidence()).dtype == torch.float64 else 1e-5)
    told = f"sum {float(weights.sum(dim=0).flatten()[0]):.6g} for {describe(rule, world)}" if is_broken else ""
    return Finding("normalised", is_broken, told or f"off by at most {error:.0e} in {len(seen)} situations")


def _positive(rule: WeightOperator, seen: _Seen) -> Finding:
    for world, weights in seen:
        if not bool((weights > 0).all()):
            return Finding("positive", True, _told(rule, world, weights))
    least = min(float(weights.min()) for _, weights in seen)
    return Finding("positive", False, f"least weight {least:.1e} in {len(seen)} situations")


def _bounded(rule: WeightOperator, seen: _Seen) -> Finding:
    least, world, weights = min(((float(w.min()), world, w) for world, w in seen), key=lambda each: each[0])
    lowest = _declared(rule, weights.shape[0])
    if lowest <= 0 and least < SMALL_WEIGHT:
        return Finding("bounded", True, _told(rule, world, weights))
    for world, weights in seen:
        declared = _declared(rule, weights.shape[0])
        if float(weights.min()) < declared - 1e-9:
            return Finding("bounded", True, f"{_told(rule, world, weights)}, below the declared {declared:.3g}")
    declared = f"at least {lowest:.3g} declared" if lowest > 0 else "none declared"
    return Finding("bounded", False, f"{declared}, {least:.3g} seen")


def _declared(rule: WeightOperator, n_teachers: int) -> float:
    declare: Callable[[int], Declared] | None = getattr(rule, "declared", None)
    return declare(n_teachers).lowest if declare is not None else 0.0


def _continuous(rule: WeightOperator, worlds: list[World]) -> Finding:
    for here, there in itertools.pairwise(worlds):
        if here.logits.shape == there.logits.shape and bool((here.logits.isfinite() & there.logits.isfinite()).all()):
            jump = find_jump(rule, here, there)
            if jump is not None:
                before, after = (rule(world.evidence()).double().exp() for world in jump)
                told = f"{_numbers(before)} becomes {_numbers(after)} within 1e-12 of {describe(rule, jump[0])}"
                return Finding("continuous", True, told)
    return Finding("continuous", False, f"no jump above {JUMP:g} on {len(worlds)} paths")


def find_jump(rule: WeightOperator, here: World, there: World) -> tuple[World, World] | None:
    """Return two situations 1e-12 of the way apart whose weights differ by more than ``JUMP``, if bisection finds any.

    Of each half of the path the one with the larger change is kept, 40 times. A steep slope survives that as well as a
    jump, so the last change is held against ``JUMP``.
    """

    def weights(share: float) -> Tensor:
        return rule(here.toward(there, share).evidence()).double().exp()

    for start in (0.0, 0.25, 0.5, 0.75):
        low, high = start, start + 0.25
        at_low, at_high = weights(low), weights(high)
        for _ in range(40):
            if float((at_high - at_low).abs().max()) < JUMP:
                break
            middle = (low + high) / 2
            between = weights(middle)
            if float((between - at_low).abs().max()) >= float((at_high - between).abs().max()):
                high, at_high = middle, between
            else:
                low, at_low = middle, between
        else:
            return here.toward(there, low), here.toward(there, high)
    return None


def _ordered(rule: WeightOperator, seen: _Seen) -> Finding:
    n_pairs = 0
    for world, weights in seen:
        for row in range(weights.shape[1]):
            for safer, less in world.orders[world.contexts[int(world.context[row])]]:
                n_pairs += 1
                gap = weights[less, row] - weights[safer, row]
                if float(gap.max()) > 1e-6:
                    told = _told(rule, world.rows([row]), weights[:, [row]])
                    return Finding("ordered", True, f"teacher {safer} is certified safer than {less}: {told}")
    return Finding("ordered", False, f"{n_pairs} certified pairs respected")


def _told(rule: WeightOperator, world: World, weights: Tensor) -> str:
    """Say which evidence gives which weights, at the row and position with the least weight."""
    _, row, position = (int(i) for i in (weights == weights.min()).nonzero()[0])
    one = world.rows([row])
    return f"{describe(rule, one)} gives {_numbers(weights[:, row, position])}"


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
