"""An operator under audit: what it declares, where its axioms apply, and the situations that it is put into."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mashbill.audit import range_certificates
from mashbill.audit.axioms import Axiom
from mashbill.audit.faults import FAULTS, copied, raised
from mashbill.audit.moods import Stage
from mashbill.audit.situations import Case
from mashbill.audit.supply import Effort, worlds
from mashbill.audit.violations import VIOLATIONS, answer, declared_by, shape
from mashbill.audit.worlds import World
from mashbill.weights.evidence import Declared, Evidence, WeightOperator

_OF_BOUNDS = ("composition.box", "composition.feasible")


@dataclass(frozen=True)
class Subject:
    """An operator under audit, and what is known of it.

    Attributes:
        rule: The operator.
        name: What it is called.
        stage: The names that it was made for.
        effort: How hard to try.
        seed: Of every search.
    """

    rule: WeightOperator
    name: str
    stage: Stage
    effort: Effort
    seed: int

    # What is known of the operator

    @cached_property
    def fresh(self) -> WeightOperator:
        """A copy from before any question, for the search for a memory; the operator itself if it has no copies."""
        return copied(self.rule)

    def __post_init__(self) -> None:
        assert self.fresh is not None, "made now, not when it is first used"

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of teachers for which things are proved: those that the operator accepts."""
        wanted = (2, 3, 5) if self.stage.teachers is None else (len(self.stage.teachers),)
        return tuple(n for n in wanted if self.accepts(n)) or wanted

    def accepts(self, n_teachers: int) -> bool:
        """Whether the operator's own promise can be made for a number of teachers: bounds may be infeasible."""
        try:
            declared_by(self.rule, n_teachers)
        except ValueError:
            return False
        return True

    @cached_property
    def promise(self) -> Declared | None:
        """What the operator declares for the largest number of teachers looked at."""
        return declared_by(self.rule, self.sizes[-1])

    @cached_property
    def scale(self) -> str:
        """The scale whose axioms apply; a composition and a plain function answer at every position."""
        return getattr(self.rule, "scale", "token")

    @cached_property
    def is_composition(self) -> bool:
        """Whether the operator tells how it is put together."""
        return range_certificates.structure_of(self.rule, self.sizes[0]) is not None

    @cached_property
    def supply(self) -> list[tuple[str, World]]:
        """The situations, those on which the rule raises left out: they are one axiom's affair."""
        generator = torch.Generator().manual_seed(self.seed)
        return [
            (mood, world)
            for mood, world in worlds(self.stage, self.effort, generator)
            if self.accepts(world.n_teachers)
        ]

    @cached_property
    def usable(self) -> list[tuple[str, World]]:
        """The situations in which it answers."""
        return [(mood, world) for mood, world in self.supply if not raises(self.rule, world)]

    @cached_property
    def unusable(self) -> str:
        """Why what the operator says of itself cannot be used, in one sentence; empty if it can."""
        if self.scale not in ("token", "task", "context"):
            return f"scale={self.scale!r} must be token, task or context"
        try:
            promises = [declared_by(self.rule, n) for n in self.sizes if self.accepts(n)]
        except FAULTS as error:
            return raised(error).replace("the operator", "`declared(n_teachers)`", 1)
        odd = [promise for promise in promises if not isinstance(promise, Declared | None)]
        return f"`declared(n_teachers)` answered a {type(odd[0]).__name__}, not a Declared" if odd else ""

    @cached_property
    def unreadable(self) -> str:
        """Why the operator's answers cannot be read at all, in one sentence; empty if they can."""
        world = next(world for _, world in self.supply)
        try:
            said = answer(self.rule, world)
        except FAULTS as error:
            return raised(error)
        if shape(self.rule, Case(world)) <= 0:
            return ""
        (k, b, t, _), what = world.logits.shape, f"is a {type(said).__name__}"
        if isinstance(said, torch.Tensor):
            what = f"has shape {tuple(said.shape)} in {str(said.dtype).removeprefix('torch.')}"
        right = f"({k}, {b}, 1)" if t == 1 or self.scale != "token" else f"({k}, {b}, {t}) or ({k}, {b}, 1)"
        return f"the answer {what}; log-weights are {right} in float32 or float64"

    def applies(self, axiom: Axiom) -> str:
        """Return why an axiom does not apply, or nothing."""
        asked = (
            (axiom.kind == "weights" and axiom.scale != self.scale, f"the rule works at the {self.scale} scale"),
            (_is_of_compositions(axiom) and not self.is_composition, "the operator is no composition of scales"),
            (axiom.id == "contract.range" and self.promise is None, "the rule declares nothing"),
            (axiom.id == "contract.lipschitz" and self._slope is None, "the rule declares no constant"),
            (axiom.id == "composition.order" and not self.has_order, "the composition states no order"),
            (axiom.id in _OF_BOUNDS and self.bounds is None, "the composition states no bounds"),
        )
        return next((reason for is_so, reason in asked if is_so), "")

    @property
    def _slope(self) -> float | None:
        return None if self.promise is None else self.promise.lipschitz

    @cached_property
    def structure(self) -> Any:
        """How it is put together; empty if it does not tell."""
        return range_certificates.structure_of(self.rule, self.sizes[-1]) or {}

    @property
    def has_order(self) -> bool:
        """Whether it enforces an order of safety."""
        return bool(self.structure.get("ordered"))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The box that it enforces."""
        bounds = self.structure.get("bounds")
        return None if bounds is None else (bounds[0], bounds[1])


def _is_of_compositions(axiom: Axiom) -> bool:
    """Whether an axiom is asked of compositions only; whether a rule follows the student is asked of all."""
    return axiom.kind == "composition" and axiom.id != "composition.student"


class Forgetful:
    """An operator with a memory, asked afresh each time, so that its other faults are seen apart from that one."""

    def __init__(self, rule: WeightOperator) -> None:
        self._rule = copied(rule)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._rule, name)

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        """Ask a copy that has not been asked before."""
        return copied(self._rule)(evidence)


def raises(rule: WeightOperator, world: World) -> bool:
    """Whether an operator raises in a situation."""
    return VIOLATIONS["contract.answer"](rule, Case(world)) > 0
