"""Making a counter-example one that a person can read: fewer rows, positions and teachers, then rounder numbers."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from mashbill.audit.moods import Stage
from mashbill.audit.situations import Case
from mashbill.audit.worlds import CONTINUOUS, World

Violates = Callable[[Case], bool]


def shrink(case: Case, violates: Violates, stage: Stage) -> Case:
    """Return a smaller case that still violates.

    Cases that compare two situations or choose rows are left at their size: what they compare depends on it.

    Args:
        case: A violation.
        violates: Whether a case is one, too.
        stage: Names that may not be taken away.
    """
    if case.other is not None or case.choice:
        return case
    for smaller in (_one_row, _one_position, lambda world: _fewer_teachers(world, stage)):
        case = next((found for found in map(Case, smaller(case.world)) if violates(found)), case)
    for decimals in (0, 1, 2, 3):
        rounded = Case(_rounded(case.world, decimals))
        if violates(rounded):
            return rounded
    return case


def _one_row(world: World) -> Iterator[World]:
    if world.logits.shape[1] > 1:
        yield from (world.rows([row]) for row in range(world.logits.shape[1]))


def _one_position(world: World) -> Iterator[World]:
    n_positions = world.logits.shape[2]
    for t in range(n_positions if n_positions > 1 else 0):
        at = slice(t, t + 1)
        yield replace(
            world,
            logits=world.logits[:, :, at],
            student=world.student[:, at],
            labels=world.labels[:, at],
            mask=world.mask[:, at],
            variance=world.variance[:, :, at],
        )


def _fewer_teachers(world: World, stage: Stage) -> Iterator[World]:
    if stage.teachers is not None or world.n_teachers <= 2:
        return
    pairs = [(a, b) for a in range(world.n_teachers) for b in range(a + 1, world.n_teachers)]
    for pair in pairs[:28]:
        rest = [k for k in range(world.n_teachers) if k not in pair]
        permuted = world.permuted([*pair, *rest])
        yield replace(
            permuted,
            teachers=permuted.teachers[:2],
            logits=permuted.logits[:2],
            variance=permuted.variance[:2],
            skill=permuted.skill[:, :2],
            losses=permuted.losses[:2],
            route=torch.where(permuted.route < 2, permuted.route, -1),
            orders={name: tuple(p for p in pairs if max(p) < 2) for name, pairs in permuted.orders.items()},
        )


def _rounded(world: World, decimals: int) -> World:
    changes = {name: getattr(world, name).round(decimals=decimals) for name in CONTINUOUS}
    return replace(world, **changes)
