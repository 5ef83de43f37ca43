"""Making a violation larger: autograd where the rule is differentiable, small random moves where it is not."""

from collections.abc import Callable
from dataclasses import replace

import torch

from mashbill.audit.situations import Case
from mashbill.audit.worlds import CONTINUOUS, World
from mashbill.weights.evidence import WeightOperator, needs_of

Measure = Callable[[WeightOperator, Case], float]
_LARGEST_LOGIT = 50.0


def climb(rule: WeightOperator, measure: Measure, start: World, generator: torch.Generator, *, n_moves: int) -> World:
    """Return a situation near ``start`` where the violation is larger, or ``start``.

    Each step goes along the gradient of the extreme weights if there is one, and in a random direction otherwise; a
    step is kept if the violation has grown, and steps shrink where it has not.
    """
    best, value, size = start, measure(rule, Case(start)), 0.5
    for number in range(n_moves):
        move = _gradient(rule, best) if number % 2 == 0 else None
        trial = _moved(best, move, size, generator)
        reached = measure(rule, Case(trial))
        if reached > value:
            best, value, size = trial, reached, size * 1.5
            if value > 0:
                break
        else:
            size *= 0.7
    return best


def _gradient(rule: WeightOperator, world: World) -> dict[str, torch.Tensor] | None:
    """Return the direction in which the least weight falls, by cause; None if autograd sees none."""
    leaves = {name: getattr(world, name).detach().clone().requires_grad_(True) for name in CONTINUOUS}
    if not all(bool(leaf.isfinite().all()) for leaf in leaves.values()):
        return None
    with torch.enable_grad():
        try:
            said = rule(replace(world, **leaves).evidence(needs_of(rule)))
            if not said.requires_grad:
                return None
            found = torch.autograd.grad(-said.min(), list(leaves.values()), allow_unused=True)
        except RuntimeError:  # evidence or rule without a derivative
            return None
    directions = {
        name: gradient / gradient.norm().clamp_min(1e-12)
        for name, gradient in zip(leaves, found, strict=True)
        if gradient is not None and bool(gradient.isfinite().all())
    }
    return directions or None


def _moved(world: World, directions: dict[str, torch.Tensor] | None, size: float, generator: torch.Generator) -> World:
    changes = {}
    for name in CONTINUOUS:
        value = getattr(world, name)
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        direction = noise if directions is None else directions.get(name, torch.zeros_like(value))
        moved = value + size * direction
        if name in ("skill", "variance"):
            moved = moved.clamp(0, 1)
        elif name == "losses":
            moved = moved.clamp_min(0)
        else:
            moved = torch.where(value.isfinite(), moved.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT), value)
        changes[name] = moved
    return replace(world, **changes)
