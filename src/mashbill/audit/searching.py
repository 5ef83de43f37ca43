"""Searches for a case in which an operator on distributions breaks what is asked of it.

All of them maximise one number, by how much the axiom is broken: over a grid of simple cases (``corners``), over random
unpleasant ones (``random``), and uphill from the worst of these through autograd (``gradient``). Jumps have a search of
their own in :mod:`mashbill.audit.jumps`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch

from mashbill.audit.cases import SIZES, Cases, grid, is_full, random_cases
from mashbill.shapes import Float, Tensor

Budget = Literal["quick", "standard", "deep"]
Operator = Callable[..., Any]
"""A pool, a softening or a recursion; which, the axiom's measure knows."""


@dataclass(frozen=True)
class Effort:
    """How hard to search.

    Attributes:
        n_each: Random cases of each size and mood.
        n_starts: Cases from which to climb.
        n_steps: Steps uphill.
        n_paths: Paths on which to look for jumps.
        n_points: Points on each of them.
    """

    n_each: int
    n_starts: int
    n_steps: int
    n_paths: int
    n_points: int


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(n_each=40, n_starts=24, n_steps=20, n_paths=48, n_points=192),
    "standard": Effort(n_each=500, n_starts=128, n_steps=150, n_paths=500, n_points=1024),
    "deep": Effort(n_each=3000, n_starts=512, n_steps=400, n_paths=1000, n_points=2048),
}


def effort_of(budget: str) -> Effort:
    """Return what a budget buys.

    Raises:
        ValueError: There is no such budget.
    """
    if budget not in EFFORTS:
        raise ValueError(f"budget={budget!r} must be one of {', '.join(EFFORTS)}")
    return EFFORTS[budget]


def _all(cases: Cases) -> Cases:
    return cases


@dataclass(frozen=True)
class Ask:
    """One axiom as a number to maximise.

    Attributes:
        axiom: Its id.
        measure: By how much each case breaks it, ``[N]``; NaN where a case asks nothing.
        show: For one broken case: what happened in words, and the expression that computes the violation again from
            ``p``, ``w`` and ``q``.
        tolerance: What rounding in float64 may cost; thirty times as much for an operator that rounds to float32.
        extras: Further numbers of a case, and their choices.
        prepare: Chooses the cases that it is about.
        climbs: Whether the number has a slope worth following.
    """

    axiom: str
    measure: Callable[[Operator, Cases], Tensor]
    show: Callable[[Operator, Cases], tuple[str, str]]
    tolerance: float = 1e-6
    extras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    prepare: Callable[[Cases], Cases] = _all
    climbs: bool = True


@dataclass(frozen=True)
class Found:
    """A broken case."""

    cases: Cases
    violation: float
    search: str


@dataclass
class Tally:
    """What was done so far; searches add to it."""

    attempts: int = 0
    searches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, search: str, attempts: int) -> None:
        """Count some attempts of one search."""
        self.attempts += attempts
        if search not in self.searches:
            self.searches.append(search)


@dataclass(frozen=True)
class Ground:
    """The cases that all axioms of one audit share: the same seed gives the same ones."""

    effort: Effort
    seed: int
    n_rows: int | None = None

    @cached_property
    def grids(self) -> tuple[Cases, ...]:
        """Grids of simple cases."""
        return tuple(grid(self.n_rows or 2, n_entries) for n_entries in (2, 3))

    @cached_property
    def random(self) -> tuple[Cases, ...]:
        """Random cases, one batch a size."""
        generator = self.generator()
        sizes = SIZES if self.n_rows is None else [(self.n_rows, v) for v in (2, 3, 5, 10)]
        return tuple(random_cases(generator, n_rows=k, n_entries=v, n_each=self.effort.n_each) for k, v in sizes)

    def generator(self) -> torch.Generator:
        """Return a fresh source of chance."""
        return torch.Generator().manual_seed(self.seed)


def find(ask: Ask, operator: Operator, ground: Ground, *, tolerance: float, tally: Tally) -> Found | None:
    """Return the worst case of the first batch that has a broken one, small sizes first; None if nothing is found."""
    generator = ground.generator()
    starts: list[Cases] = []
    for search, batches in (("corners", ground.grids), ("random", ground.random)):
        for batch in batches:
            cases = ask.prepare(batch.drawn(ask.extras, generator))
            if not len(cases):
                continue
            amounts = measured(ask, operator, cases)
            tally.add(search, len(cases))
            if float(amounts.max()) > tolerance:
                return found_in(cases, amounts, search, tolerance=tolerance)
            best = amounts.topk(min(ground.effort.n_starts, len(cases))).indices
            if search == "random" and cases.log_p.shape[0] <= 3:
                starts.append(cases.pick(best))
    for cases in starts if ask.climbs else ():
        climbed = climb(ask, operator, cases, n_steps=ground.effort.n_steps, tolerance=tolerance, tally=tally)
        if climbed is not None:
            return climbed
    return None


@torch.no_grad()
def measured(ask: Ask, operator: Operator, cases: Cases) -> Float[Tensor, " N"]:
    """Return by how much each case breaks the axiom; ``-inf`` where it asks nothing."""
    return _numbers(ask.measure(operator, cases))


def found_in(cases: Cases, amounts: Tensor, search: str, *, tolerance: float) -> Found:
    """Return the worst of some cases; of those with plain numbers, or without zeros, if one is broken clearly."""
    at = int(amounts.argmax())
    for least in (0.04, 1e-13):
        clear = torch.where(is_full(cases, least=least), amounts, -torch.inf)
        if float(clear.max()) > max(1e-2, 10 * tolerance):
            at = int(clear.argmax())
            break
    return Found(cases.pick([at]), float(amounts[at]), search)


def climb(ask: Ask, operator: Operator, cases: Cases, *, n_steps: int, tolerance: float, tally: Tally) -> Found | None:
    """Go uphill from some cases, by steps of equal length in the logits; stop at the first that is broken.

    An operator without a gradient is left alone.
    """
    moving = [cases.log_p.clamp_min(-30).clone(), cases.log_w.clamp_min(-30).clone()]
    for step in range(n_steps):
        leaves = [one.detach().requires_grad_() for one in moving]
        here = replace(cases, log_p=leaves[0].log_softmax(-1), log_w=leaves[1].log_softmax(0))
        amounts = ask.measure(operator, here)
        if not amounts.requires_grad:
            return None
        seen = _numbers(amounts.detach())
        tally.add("gradient", len(here))
        if float(seen.max()) > tolerance:
            plain = replace(here, log_p=here.log_p.detach(), log_w=here.log_w.detach())
            return found_in(plain, seen, "gradient", tolerance=tolerance)
        slopes = torch.autograd.grad(amounts.nan_to_num(0, 0, 0).sum(), leaves, allow_unused=True)
        length = 0.5 * (1 - step / n_steps) + 0.02
        moving = [leaf.detach() + length * _unit(slope, leaf) for leaf, slope in zip(leaves, slopes, strict=True)]
    return None


def _unit(slope: Tensor | None, leaf: Tensor) -> Tensor:
    """Return the direction of a gradient, of length 1 for each case; 0 where it is none."""
    if slope is None:
        return torch.zeros_like(leaf)
    slope = slope.nan_to_num(0, 0, 0)
    axes = (0, 2) if slope.ndim == 3 else (0,)
    return slope / slope.square().sum(dim=axes, keepdim=True).sqrt().clamp_min(1e-300)


def _numbers(amounts: Tensor) -> Tensor:
    return amounts.double().nan_to_num(nan=-torch.inf, posinf=1e6, neginf=-torch.inf)
