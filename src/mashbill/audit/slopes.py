"""Attacking a declared Lipschitz constant: the steepest slope of the weights, in the metric that the rule names.

Slopes are finite differences in float64 over a step small enough that curvature does not matter. Known metrics are
those of evidence that a world can move: logits and probabilities of teachers and student, features, scores, variances.
A constant in another metric is not attacked; of one in several metrics, the known ones are.
"""

from dataclasses import replace

import torch

from mashbill.audit.metrics import Metric, metrics_in
from mashbill.audit.situations import Case
from mashbill.audit.spreading import ROW_AXIS
from mashbill.audit.violations import declared_by, weights_of
from mashbill.audit.worlds import World
from mashbill.shapes import Float, Tensor
from mashbill.weights.evidence import WeightOperator

STEP = 1e-6
SLACK = 1e-3
"""Share by which a measured slope may exceed the constant: rounding over the step, and curvature."""
N_DIRECTIONS = 24


def excess(rule: WeightOperator, case: Case) -> float:
    """Return by how much weights move more between two near situations than the constant allows."""
    promise = declared_by(rule, case.world.n_teachers)
    if promise is None or promise.lipschitz is None or case.other is None:
        return 0.0
    moved = float((weights_of(rule, case.world) - weights_of(rule, case.other)).abs().max())
    far = max(float(_apart(metric, case.world, case.other).max()) for metric in metrics_in(promise.metric))
    return moved - promise.lipschitz * far * (1 + SLACK) - 1e-13


def steepest(
    rule: WeightOperator, world: World, metric: str, generator: torch.Generator, *, n_moves: int
) -> Case | None:
    """Return two near situations of one row between which weights move fast, or None if no metric is known."""
    promise = declared_by(rule, world.n_teachers)
    is_batch = promise is None or not promise.mixes_rows
    here, found, value, size = world, None, 0.0, 0.5
    for _ in range(n_moves):
        trial = here if found is None else _wander(here, size, generator)
        for known in metrics_in(metric):
            near, slope = _fastest(rule, trial, known, generator, is_batch=is_batch)
            if slope > value:
                here, value, found = trial, slope, Case(trial, near)
        size *= 0.95
    return found


def _apart(metric: Metric, here: World, there: World) -> Tensor:
    return metric.distance(getattr(here, metric.cause), getattr(there, metric.cause))


def _fastest(
    rule: WeightOperator, world: World, metric: Metric, generator: torch.Generator, *, is_batch: bool
) -> tuple[World, float]:
    """Return the neighbour to which weights move fastest, and how fast."""
    value = getattr(world, metric.cause)
    steps = STEP * _directions(value, generator, N_DIRECTIONS if is_batch and metric.is_by_row else 6)
    before = weights_of(rule, world)
    neighbours = [replace(world, **{metric.cause: value + step}) for step in steps]
    far = torch.stack([_apart(metric, world, one).max() for one in neighbours]).clamp_min(1e-30)
    if is_batch and metric.is_by_row:
        axis = ROW_AXIS[metric.cause]
        many = world.rows([0] * len(steps))
        moved = replace(many, **{metric.cause: torch.cat([getattr(one, metric.cause) for one in neighbours], dim=axis)})
        after = weights_of(rule, moved)
    else:
        after = torch.cat([weights_of(rule, one) for one in neighbours], dim=1)
    speed = (after - before).abs().amax(dim=(0, 2)) / far
    best = int(speed.nan_to_num(0.0).argmax())
    return neighbours[best], float(speed[best])


def _directions(value: Tensor, generator: torch.Generator, n_directions: int) -> Float[Tensor, "N *shape"]:
    """Return directions of size 1 in the sup norm: single entries, and random signs."""
    n_single = min(value.numel(), n_directions // 2)
    places = torch.randperm(value.numel(), generator=generator)[:n_single]
    single = torch.nn.functional.one_hot(places, value.numel()).to(value.dtype).reshape(n_single, *value.shape)
    signs = torch.randint(0, 2, (n_directions - n_single, *value.shape), generator=generator).to(value.dtype) * 2 - 1
    return torch.cat([single, signs])


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
