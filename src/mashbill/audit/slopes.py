"""Attacking a declared Lipschitz constant: the steepest slope of the weights, in the metric that the rule names.

Slopes are finite differences in float64 over a step small enough that curvature does not matter. Known metrics are
those of evidence that a world can move: logits and probabilities of teachers and student, features, scores, variances.
A constant in another metric, or in several at once, is not attacked beyond those parts that are known.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from mashbill.audit.situations import Case
from mashbill.audit.violations import declared_by, weights_of
from mashbill.audit.worlds import World
from mashbill.shapes import Tensor
from mashbill.weights.evidence import WeightOperator

STEP = 1e-6
SLACK = 1e-3
"""Share by which a measured slope may exceed the constant: rounding over the step, and curvature."""


def excess(rule: WeightOperator, case: Case) -> float:
    """Return by which share the slope between two situations exceeds the declared constant, beyond rounding.

    Two situations differ in causes of one metric only; the distance is the largest of the known ones.
    """
    promise = declared_by(rule, case.world.n_teachers)
    if promise is None or promise.lipschitz is None or case.other is None:
        return 0.0
    moved = float((weights_of(rule, case.world) - weights_of(rule, case.other)).abs().max())
    far = distance(case.world, case.other, promise.metric)
    return moved - promise.lipschitz * far * (1 + SLACK) - 1e-13


def distance(here: World, there: World, metric: str) -> float:
    """Return how far two situations are apart in a metric; infinite in one that is not known."""
    parts = [part.strip() for part in metric.split(";")]
    found = [_DISTANCES[part](here, there) for part in parts if part in _DISTANCES]
    return max(found, default=float("inf"))


def steepest(
    rule: WeightOperator, world: World, metric: str, generator: torch.Generator, *, n_moves: int
) -> Case | None:
    """Return two near situations between which weights move fast, or None if the metric is not known."""
    best: Case | None = None
    value = 0.0
    here, size = world, 0.5
    for _ in range(n_moves):
        trial = here if best is None else _wander(here, size, generator)
        for there in _neighbours(trial, metric):
            far = distance(trial, there, metric)
            if not 0 < far < float("inf"):
                continue
            slope = float((weights_of(rule, trial) - weights_of(rule, there)).abs().max()) / far
            if slope > value:
                here, value, best = trial, slope, Case(trial, there)
        size *= 0.95
    return best


def _wander(world: World, size: float, generator: torch.Generator) -> World:
    def noisy(value: Tensor) -> Tensor:
        return value + size * torch.randn(value.shape, generator=generator, dtype=torch.float64)

    return replace(
        world,
        logits=noisy(world.logits),
        student=noisy(world.student),
        features=noisy(world.features),
        variance=noisy(world.variance).clamp(0, 1),
        skill=noisy(world.skill).clamp(0, 1),
        losses=noisy(world.losses).clamp_min(0),
    )


def _neighbours(world: World, metric: str) -> Iterator[World]:
    """Yield worlds one step away: for each teacher's weight, the step that moves it most, cause by cause."""
    for part in (part.strip() for part in metric.split(";")):
        if part not in _MOVES:
            continue
        name, signs = _MOVES[part]
        value = getattr(world, name)
        for direction in signs(value):
            yield replace(world, **{name: value + STEP * direction})
            yield replace(world, **{name: value - STEP * direction})


def _corners(value: Tensor) -> Iterator[Tensor]:
    """Yield directions of size 1 in the sup norm: single entries, single teachers, and opposed teachers."""
    flat = value.numel()
    for place in range(min(flat, 12)):
        one = torch.zeros(flat, dtype=value.dtype)
        one[place] = 1
        yield one.reshape(value.shape)
    generator = torch.Generator().manual_seed(0)
    for _ in range(16):
        yield torch.randint(0, 2, value.shape, generator=generator).to(value.dtype) * 2 - 1


def _sup(name: str):
    return lambda here, there: float((getattr(here, name) - getattr(there, name)).abs().max())


def _probabilities_l1(here: World, there: World) -> float:
    p, q = here.logits.softmax(dim=-1), there.logits.softmax(dim=-1)
    return float((p - q).abs().sum(dim=-1).max())


def _features_l2(here: World, there: World) -> float:
    return float((here.features - there.features).norm(dim=-1).max())


_DISTANCES = {
    "teacher logits, sup": _sup("logits"),
    "teacher probabilities, l1": _probabilities_l1,
    "student logits, sup": _sup("student"),
    "measured accuracy, sup": lambda here, there: float((here.skill[0] - there.skill[0]).abs().max()),
    "measured safety, sup": lambda here, there: float((here.skill[1] - there.skill[1]).abs().max()),
    "measured loss, sup": _sup("losses"),
    "context features, l2": _features_l2,
    "supplied variances, sup": _sup("variance"),
}
_MOVES = {
    "teacher logits, sup": ("logits", _corners),
    "teacher probabilities, l1": ("logits", _corners),
    "student logits, sup": ("student", _corners),
    "measured accuracy, sup": ("skill", _corners),
    "measured safety, sup": ("skill", _corners),
    "measured loss, sup": ("losses", _corners),
    "context features, l2": ("features", _corners),
    "supplied variances, sup": ("variance", _corners),
}
