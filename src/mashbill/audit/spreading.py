"""Many variations of one row in one batch, each with measured scores of its own: a call for hundreds of situations."""

from collections.abc import Collection
from dataclasses import replace

import torch

from mashbill.audit.worlds import World
from mashbill.shapes import Float, Tensor

ROW_AXIS = {"logits": 1, "variance": 1, "student": 0, "features": 0}
"""Causes that each row has for itself, and where its axis is. Scores have theirs by task and context."""


def can_spread(needs: Collection[str], *, mixes_rows: bool) -> bool:
    """Whether rows are situations of their own: not if they are mixed, nor if routes or orders would multiply."""
    return not mixes_rows and not ("orders" in needs and any(need.startswith("score:context") for need in needs))


def spread(world: World, n: int, needs: Collection[str]) -> World:
    """Return the first row ``n`` times; where scores are read, each copy is a task or context of its own."""
    copies = world.rows([0] * n)
    columns, tasks, contexts = [], world.tasks, world.contexts
    n_tasks = len(world.tasks)
    changes: dict[str, object] = {}
    if any(need.startswith("score:task") for need in needs):
        tasks = tuple(f"{world.tasks[int(world.task[0])]} {i}" for i in range(n))
        columns += [int(world.task[0])] * n
        changes["task"] = torch.arange(n)
    else:
        columns += list(range(n_tasks))
    if any(need.startswith("score:context") for need in needs):
        name = world.contexts[int(world.context[0])]
        contexts = tuple(f"{name} {i}" for i in range(n))
        columns += [n_tasks + int(world.context[0])] * n
        changes["context"] = torch.arange(n)
        changes["orders"] = dict.fromkeys(contexts, world.orders.get(name, ()))
    else:
        columns += [n_tasks + place for place in range(len(world.contexts))]
    return replace(
        copies,
        tasks=tasks,
        contexts=contexts,
        skill=world.skill[..., columns],
        losses=world.losses[..., columns],
        **changes,  # pyright: ignore[reportArgumentType]
    )


def along(here: World, there: World, shares: Float[Tensor, " N"], needs: Collection[str]) -> World:
    """Return the points of a path from one row to another as one batch."""
    n = len(shares)
    start, end = spread(here, n, needs), spread(there, n, needs)
    moved = {}
    for name, axis in ROW_AXIS.items():
        value = getattr(start, name)
        share = shares.reshape([n if d == axis else 1 for d in range(value.ndim)])
        moved[name] = torch.lerp(value, getattr(end, name), share.expand_as(value))
    by_task = shares if len(start.tasks) == n and start.tasks != here.tasks else torch.zeros(len(start.tasks))
    by_context = (
        shares if len(start.contexts) == n and start.contexts != here.contexts else torch.zeros(len(start.contexts))
    )
    share = torch.cat([by_task.double(), by_context.double()])
    for name in ("skill", "losses"):
        value = getattr(start, name)
        moved[name] = torch.lerp(value, getattr(end, name), share.expand_as(value))
    return replace(start, **moved)
