"""Situations with numbers that somebody chose, and how far weights miss an axiom there, measured without the audit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from mashbill.audit.moods import Stage, make_world
from mashbill.audit.worlds import World

Shows = Callable[[Any], float]
"""How far an operator misses its axiom at a known input; above 1e-6 where it does."""

NEAR = 1e-9
FREE = {"home": (), "field": ()}
FIRST = {"home": ((0, 1),), "field": ((0, 1),)}
"""Teacher 0 is certified safer than teacher 1."""


def situation(*, rows: int = 1, positions: int = 1, teachers: int = 2, **changes: Any) -> World:
    """Return a plain world of float64 with all rows of the first task and context, and without a certified order."""
    generator = torch.Generator().manual_seed(0)
    world = make_world(Stage(), generator, n_teachers=teachers, n_rows=rows, n_positions=positions)
    first = torch.zeros(rows, dtype=torch.long)
    return replace(world, **{"task": first, "context": first, "orders": FREE} | changes)


def leading(*margins: float, rows: int = 1, positions: int = 1) -> World:
    """Return a situation in which each teacher's first choice leads its second by so much, everywhere."""
    lead = torch.tensor(margins, dtype=torch.float64)
    logits = torch.stack([(1 + lead) / 2, (1 - lead) / 2], dim=-1).log()[:, None, None]
    world = situation(rows=rows, positions=positions, teachers=len(margins))
    student = torch.zeros(rows, positions, 2, dtype=torch.float64)
    return replace(
        world, logits=logits.expand(-1, rows, positions, -1).clone(), student=student, labels=world.labels % 2
    )


def skilled(*accuracy: float, losses: Sequence[float] | None = None, rows: int = 1) -> World:
    """Return a situation in which each teacher is so accurate, and so safe, at all tasks and in all contexts."""
    given = torch.tensor(accuracy, dtype=torch.float64)
    world = situation(rows=rows, teachers=len(accuracy))
    loss = world.losses if losses is None else torch.tensor(losses, dtype=torch.float64)[:, None].expand(-1, 4).clone()
    return replace(world, skill=given[None, :, None].expand(2, -1, 4).clone(), losses=loss)


def at(*features: float, teachers: int = 2) -> World:
    """Return a situation of one row with these context features."""
    return situation(teachers=teachers, features=torch.tensor([features], dtype=torch.float64))


def weights(operator: Any, world: World) -> torch.Tensor:
    """Return the weights as probabilities in float64."""
    return operator(world.evidence()).double().exp()


def misses_one(world: World) -> Shows:
    """How far the weights' sum is from 1."""
    return lambda operator: float((weights(operator, world).sum(dim=0) - 1).abs().max())


def is_zero(world: World) -> Shows:
    """1 if a weight is exactly 0."""
    return lambda operator: float((weights(operator, world) == 0).any())


def below(bound: float, world: World) -> Shows:
    """How many times smaller than a bound the least weight is, less 1."""
    return lambda operator: bound / max(float(weights(operator, world).min()), 1e-300) - 1


def above(bound: float, world: World) -> Shows:
    """How far the largest weight is above a bound."""
    return lambda operator: float(weights(operator, world).max()) - bound


def moves(here: World, there: World) -> Shows:
    """How far a weight moves between two situations that should not differ, or not by that."""
    return lambda operator: float((weights(operator, there) - weights(operator, here)).abs().max())


def jumps(here: World, there: World, share: float) -> Shows:
    """How far a weight moves around one point of a path, beyond what a slope of 1000 explains."""

    def shows(operator: Any) -> float:
        low, high = (here.toward(there, share + side * NEAR) for side in (-1, 1))
        return moves(low, high)(operator) - 2000 * NEAR

    return shows


def turns(world: World, pair: tuple[int, int] = (0, 1)) -> Shows:
    """How much more the less safe teacher of a certified pair counts."""

    def shows(operator: Any) -> float:
        orders = {"home": (pair,), "field": (pair,)}
        found = weights(operator, replace(world, orders=orders))
        return float((found[pair[1]] - found[pair[0]]).max())

    return shows


def is_nan(world: World) -> Shows:
    """1 if a weight is no number."""
    return lambda operator: float(weights(operator, world).isnan().any())


def steeper(slope: float, here: World, there: World, distance: float) -> Shows:
    """How much steeper the weights are between two situations than a slope, in parts of it."""
    return lambda operator: moves(here, there)(operator) / distance / slope - 1


def fails(world: World) -> Shows:
    """1 if the operator raises."""

    def shows(operator: Any) -> float:
        try:
            operator(world.evidence())
        except Exception:  # whatever it is, it is the operator's
            return 1.0
        return 0.0

    return shows
