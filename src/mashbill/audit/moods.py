"""Random worlds, most of them unpleasant: ties, certainty, absurd sizes, missing labels."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from mashbill.audit.worlds import World
from mashbill.shapes import Tensor


@dataclass(frozen=True)
class Stage:
    """What a search may not choose: the names that an operator was made for.

    Attributes:
        teachers: Teacher ids; None for as many as the search likes.
        n_entries: ``V``, for operators that were made for one; None for any.
        tasks: Task names.
        contexts: Context names.
        n_features: Context features of a row.
    """

    teachers: tuple[str, ...] | None = None
    n_entries: int | None = None
    tasks: tuple[str, ...] = ("chat", "code")
    contexts: tuple[str, ...] = ("home", "field")
    n_features: int = 2

    def teachers_for(self, n_teachers: int) -> tuple[str, ...]:
        """Return the names of as many teachers as wanted, or of those that there are."""
        return self.teachers if self.teachers is not None else tuple(f"t{k}" for k in range(n_teachers))


def make_world(
    stage: Stage,
    generator: torch.Generator,
    *,
    mood: str = "plain",
    n_teachers: int = 3,
    n_rows: int = 2,
    n_positions: int = 2,
    n_entries: int = 3,
) -> World:
    """Return a random world.

    Args:
        stage: The names there are.
        generator: Source of chance.
        mood: ``plain`` logits of size 2; ``sure`` and ``flat`` teachers; ``mixed`` sizes; ``tied`` teachers, skill and
            features; all teachers ``alike`` and like the student; ``certain`` answers, probabilities of exactly 0 and
            1; ``extreme`` logits of 1e4; ``masked`` rows and labels that are missing; ``skewed`` skill of 0, 1 and
            losses from 0 to 1e4.
        n_teachers: Unless the stage names them.
        n_rows: ``B``.
        n_positions: ``T``.
        n_entries: ``V``, unless the stage says it.
    """
    if mood not in MOODS:
        raise ValueError(f"mood={mood!r} must be one of {', '.join(MOODS)}")
    teachers = stage.teachers_for(n_teachers)
    n_teachers, n_cells = len(teachers), len(stage.tasks) + len(stage.contexts)
    n_entries = stage.n_entries or n_entries

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def choice(n: int, *shape: int) -> Tensor:
        return torch.randint(n, shape, generator=generator)

    world = World(
        teachers=teachers,
        tasks=stage.tasks,
        contexts=stage.contexts,
        logits=2 * normal(n_teachers, n_rows, n_positions, n_entries),
        student=2 * normal(n_rows, n_positions, n_entries),
        labels=choice(n_entries, n_rows, n_positions),
        mask=torch.ones(n_rows, n_positions, dtype=torch.bool),
        features=normal(n_rows, stage.n_features),
        variance=uniform(n_teachers, n_rows, n_positions),
        skill=uniform(2, n_teachers, n_cells),
        losses=2 * uniform(n_teachers, n_cells),
        task=choice(len(stage.tasks), n_rows),
        context=choice(len(stage.contexts), n_rows),
        route=choice(n_teachers + 1, n_rows) - 1,
        orders=_random_orders(stage, n_teachers, generator),
    )
    return replace(world, **MOODS[mood](world, generator))


def _random_orders(stage: Stage, n_teachers: int, generator: torch.Generator) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return for each context some pairs of a random ranking, so no cycle can arise."""
    orders = {}
    for name in stage.contexts:
        ranking = torch.randperm(n_teachers, generator=generator).tolist()
        wanted = torch.rand(n_teachers, n_teachers, generator=generator) < 0.5
        pairs = [(ranking[i], ranking[j]) for i in range(n_teachers) for j in range(i + 1, n_teachers)]
        kept = tuple(pair for pair in pairs if bool(wanted[pair]))
        # A rule's exact order has limits that are not the audit's business: many teachers get a chain.
        orders[name] = kept if n_teachers <= 8 else tuple(itertools.pairwise(ranking))
    return orders


# What each mood changes. Named functions and not lambdas: a witness says which one it came from.


def _plain(_world: World, _generator: torch.Generator) -> dict[str, Any]:
    return {}


def _sure(world: World, _generator: torch.Generator) -> dict[str, Any]:
    return {"logits": 15 * world.logits}


def _flat(world: World, _generator: torch.Generator) -> dict[str, Any]:
    return {"logits": 1e-3 * world.logits}


def _mixed(world: World, generator: torch.Generator) -> dict[str, Any]:
    size = 10 ** (4 * _uniform(*world.logits.shape[:-1], 1, generator=generator) - 2)
    return {"logits": size * world.logits}


def _tied(world: World, generator: torch.Generator) -> dict[str, Any]:
    same = _uniform(*world.logits.shape[:2], 1, 1, generator=generator) < 0.5
    return {
        "logits": torch.where(same, world.logits[:1].expand_as(world.logits), world.logits),
        "skill": (world.skill * 2).round() / 2,
        "losses": world.losses.round(),
        "variance": world.variance.round(),
    }


def _alike(world: World, _generator: torch.Generator) -> dict[str, Any]:
    return {
        "logits": world.student.expand_as(world.logits).clone(),
        "skill": torch.full_like(world.skill, 0.5),
        "losses": torch.ones_like(world.losses),
        "variance": torch.full_like(world.variance, 0.25),
    }


def _certain(world: World, generator: torch.Generator) -> dict[str, Any]:
    best = torch.nn.functional.one_hot(world.logits.argmax(dim=-1), world.logits.shape[-1]).bool()
    impossible = torch.full_like(world.logits, -torch.inf)
    some = _uniform(*world.logits.shape[:2], 1, 1, generator=generator) < 0.7
    return {"logits": torch.where(some, torch.where(best, 0.0, impossible), world.logits)}


def _extreme(world: World, _generator: torch.Generator) -> dict[str, Any]:
    return {"logits": 5e3 * world.logits.clamp(-2, 2), "student": 5e3 * world.student.clamp(-2, 2)}


def _masked(world: World, generator: torch.Generator) -> dict[str, Any]:
    labelled = _uniform(*world.labels.shape, generator=generator) < 0.5
    return {
        "mask": _uniform(*world.mask.shape, generator=generator) < 0.5,
        "labels": torch.where(labelled, world.labels, -100),
    }


def _skewed(world: World, generator: torch.Generator) -> dict[str, Any]:
    losses = 10 ** (8 * _uniform(*world.losses.shape, generator=generator) - 4)
    return {"skill": world.skill.round(), "losses": losses, "variance": world.variance.round()}


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


MOODS: dict[str, Callable[[World, torch.Generator], dict[str, Any]]] = {
    "plain": _plain,
    "sure": _sure,
    "flat": _flat,
    "mixed": _mixed,
    "tied": _tied,
    "alike": _alike,
    "certain": _certain,
    "extreme": _extreme,
    "masked": _masked,
    "skewed": _skewed,
}
"""Kinds of situations, each unpleasant in its own way."""
