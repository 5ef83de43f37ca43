"""The audit of a weight rule: attack every axiom that applies, then see what can be proved of what survived."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from mashbill.audit import certificates
from mashbill.audit.axioms import AXIOMS, Axiom
from mashbill.audit.climbing import climb
from mashbill.audit.moods import Stage, make_world
from mashbill.audit.pathways import find_jump
from mashbill.audit.reducing import shrink
from mashbill.audit.situations import Case
from mashbill.audit.slopes import steepest
from mashbill.audit.supply import Budget, Effort, require_budget, worlds
from mashbill.audit.verdicts import Certificate, CheckResult, Witness
from mashbill.audit.violations import (
    VIOLATIONS,
    declared_by,
    disorder,
    jump,
    out_of_bounds,
    out_of_range,
    silenced,
    sum_off,
    weights_of,
)
from mashbill.audit.worlds import World
from mashbill.weights.evidence import Declared, WeightOperator, needs_of

KINDS = ("weights", "composition", "contract")
REPLAY = """from mashbill.audit import replay
inputs = ...  # the `inputs` of this witness
print(replay(inputs, operator))  # above 0: still violated"""
_OF_BOUNDS = ("composition.box", "composition.feasible")
_Found = tuple[Case, str] | None


def check_weights(
    rule: WeightOperator,
    *,
    name: str,
    axioms: Collection[str] | None = None,
    stage: Stage | None = None,
    budget: Budget = "quick",
    seed: int = 0,
) -> Iterator[CheckResult]:
    """Yield a verdict for each axiom of weight rules, compositions and the contract, as it is reached.

    Args:
        rule: The operator.
        name: What to call it.
        axioms: Only these ids.
        stage: The names that the operator was made for.
        budget: How hard to try.
        seed: Of every search.
    """
    audit = _Audit(rule, name, stage or Stage(), require_budget(budget), seed)
    for axiom in AXIOMS.values():
        if axiom.kind in KINDS and (axioms is None or axiom.id in axioms):
            yield audit.verdict(axiom)


@dataclass(frozen=True)
class _Audit:
    rule: WeightOperator
    name: str
    stage: Stage
    effort: Effort
    seed: int

    # What is known of the operator

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
        return declared_by(self.rule, self.sizes[-1])

    @cached_property
    def scale(self) -> str:
        """The scale whose axioms apply; a composition and a plain function answer at every position."""
        return getattr(self.rule, "scale", "token")

    @cached_property
    def is_composition(self) -> bool:
        return certificates.structure_of(self.rule, self.sizes[0]) is not None

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
        return [(mood, world) for mood, world in self.supply if not _raises(self.rule, world)]

    def applies(self, axiom: Axiom) -> str:
        """Return why an axiom does not apply, or nothing."""
        asked = (
            (axiom.kind == "weights" and axiom.scale != self.scale, f"the rule works at the {self.scale} scale"),
            (axiom.kind == "composition" and not self.is_composition, "the operator is no composition of scales"),
            (axiom.id == "contract.range" and self.promise is None, "the rule declares nothing"),
            (axiom.id == "contract.lipschitz" and self._slope is None, "the rule declares no constant"),
            (axiom.id == "composition.order" and not self._has_order, "the composition states no order"),
            (axiom.id in _OF_BOUNDS and self._bounds is None, "the composition states no bounds"),
        )
        return next((reason for is_so, reason in asked if is_so), "")

    @property
    def _slope(self) -> float | None:
        return None if self.promise is None else self.promise.lipschitz

    @cached_property
    def _structure(self) -> Any:
        return certificates.structure_of(self.rule, self.sizes[-1]) or {}

    @property
    def _has_order(self) -> bool:
        return bool(self._structure.get("ordered"))

    @property
    def _bounds(self) -> tuple[float, float] | None:
        bounds = self._structure.get("bounds")
        return None if bounds is None else (bounds[0], bounds[1])

    # Verdicts

    def verdict(self, axiom: Axiom) -> CheckResult:
        """Attack, then prove."""
        tell = replace
        result = CheckResult(self.name, axiom.id, "not applicable", self.applies(axiom), seed=self.seed)
        if result.reason:
            return result
        try:
            found, attempts, searches = self._attack(axiom)
            result = tell(result, attempts=attempts, searches=searches)
            if found is not None:
                return self._falsified(result, axiom, *found)
            certificate = self._prove(axiom)
        except Exception as error:  # whatever the operator's own code raises
            told = str(error).strip().splitlines()
            reason = f"the operator raised {type(error).__name__}: {told[0] if told else ''}"
            return tell(result, verdict="error", reason=reason[:300])
        if certificate is not None:
            return tell(result, verdict="certified", reason=certificate.claim, certificate=certificate)
        if attempts == 0:
            return tell(result, verdict="error", reason="the operator raised in every situation")
        reason = f"{attempts} situations, {', '.join(searches)}: no violation found"
        return tell(result, verdict="survived", reason=reason)

    def _falsified(self, result: CheckResult, axiom: Axiom, case: Case, search: str) -> CheckResult:
        measure = VIOLATIONS.get(axiom.id, _steepness)
        case = shrink(case, lambda smaller: _exceeds(measure, self.rule, smaller), self.stage)
        violation = measure(self.rule, case)
        told = tell_case(self.rule, axiom, case)
        inputs = {"axiom": axiom.id, **case.to_json()}
        witness = Witness(told, inputs, violation, search, REPLAY)
        return replace(result, verdict="falsified", reason=told, witness=witness)

    # Attacks

    def _attack(self, axiom: Axiom) -> tuple[_Found, int, tuple[str, ...]]:
        """Return the first violation with its search, how many situations were tried, and by which searches."""
        attempts, names = 0, []
        for search, cases in self._searches(axiom):
            names.append(search)
            for case in cases():
                if case is None:
                    attempts += 1
                    continue
                attempts += case.world.logits.shape[1]
                if _exceeds(VIOLATIONS.get(axiom.id, _steepness), self.rule, case):
                    return (case, search), attempts, tuple(names)
        return None, attempts, tuple(names)

    def _searches(self, axiom: Axiom) -> list[tuple[str, Callable[[], Iterator[Case | None]]]]:
        specific: dict[str, tuple[str, Callable[[], Iterator[Case | None]]]] = {
            "contract.answer": ("random", self._everything),
            "contract.shape": ("random", self._everything),
            "contract.rows": ("batches", self._batches),
            "contract.permutation": ("permutation", self._permutations),
            "contract.state": ("repetition", self._repetitions),
            "contract.gradient": ("gradient", self._plain),
            "contract.precision": ("precision", self._plain),
            "contract.lipschitz": ("steepest slope", self._slopes),
            "composition.feasible": ("bounds", self._nothing),
        }
        if axiom.id in specific:
            return [specific[axiom.id]]
        if VIOLATIONS[axiom.id] is jump:
            return [("bisection", self._paths)]
        if VIOLATIONS[axiom.id] in (VIOLATIONS["task.III.14"], VIOLATIONS["composition.student"]):
            return [("another student", self._students)]
        searches: list[tuple[str, Callable[[], Iterator[Case | None]]]] = [("random", self._plain)]
        if axiom.id not in ("contract.finite",):
            searches.append(("ascent", lambda: self._climbs(axiom)))
        return searches

    def _everything(self) -> Iterator[Case]:
        yield from (Case(world) for _, world in self.supply)

    def _plain(self) -> Iterator[Case]:
        yield from (Case(world) for _, world in self.usable)

    def _nothing(self) -> Iterator[None]:
        yield None

    def _batches(self) -> Iterator[Case]:
        for _, world in self.usable:
            n_rows = world.logits.shape[1]
            yield Case(world, choice=(0,))
            yield Case(world, choice=(n_rows - 1, 0) if n_rows > 1 else (0,))

    def _permutations(self) -> Iterator[Case]:
        for _, world in self.usable:
            yield Case(world, choice=tuple(reversed(range(world.n_teachers))))
            yield Case(world, choice=(*range(1, world.n_teachers), 0))

    def _repetitions(self) -> Iterator[Case]:
        previous = None
        for _, world in self.usable[:: max(1, len(self.usable) // (12 * self.effort.n_rounds))]:
            yield Case(world, previous)
            previous = world

    def _students(self) -> Iterator[Case]:
        for _, world in self.usable:
            yield Case(world, replace(world, student=world.student.flip(-1) + 1.0 * world.student.roll(1, -1)))

    def _paths(self) -> Iterator[Case | None]:
        generator = torch.Generator().manual_seed(self.seed + 1)
        moods = ("plain", "tied", "sure", "mixed", "alike", "skewed", "flat")
        for number in range(self.effort.n_paths):
            size = {"n_teachers": 2 + number % 2, "n_rows": 1, "n_positions": 1, "n_entries": 2 + number % 3}
            start = make_world(self.stage, generator, mood=moods[number % len(moods)], **size)
            end = make_world(self.stage, generator, mood=moods[(number // 3) % len(moods)], **size)
            if _raises(self.rule, start) or _raises(self.rule, end):
                continue
            yield find_jump(self.rule, start, end, n_points=self.effort.n_points)

    def _climbs(self, axiom: Axiom) -> Iterator[Case]:
        measure = VIOLATIONS[axiom.id]
        generator = torch.Generator().manual_seed(self.seed + 2)
        ranked = sorted(
            (world for _, world in self.usable if world.n_teachers in (2, 3, len(self.stage.teachers or ()))),
            key=lambda world: -measure(self.rule, Case(world)),
        )
        for world in ranked[: self.effort.n_climbs]:
            yield Case(climb(self.rule, measure, world, generator, n_moves=self.effort.n_moves))

    def _slopes(self) -> Iterator[Case | None]:
        assert self.promise is not None, "the caller looked"
        generator = torch.Generator().manual_seed(self.seed + 3)
        for number in range(2 * self.effort.n_climbs):
            size = {"n_teachers": 2 + number % 2, "n_rows": 1, "n_positions": 1, "n_entries": 2 + number % 4}
            world = make_world(self.stage, generator, mood=("plain", "sure", "flat", "tied")[number % 4], **size)
            if not _raises(self.rule, world):
                yield steepest(self.rule, world, self.promise.metric, generator, n_moves=self.effort.n_moves)

    # Proofs

    def _prove(self, axiom: Axiom) -> Certificate | None:
        if axiom.id == "composition.feasible":
            return certificates.certify_feasible(self._bounds or (0.0, 1.0), self.sizes)
        if axiom.id in ("task.III.14", "composition.student"):
            reads = bool(certificates.OF_THE_STUDENT & needs_of(self.rule))
            return None if reads else certificates.certify_student_free(self.rule)
        if self.promise is None:
            return None
        return self._prove_by_structure(axiom.id, self.promise)

    def _prove_by_structure(self, axiom: str, promise: Declared) -> Certificate | None:
        kind, largest = VIOLATIONS.get(axiom), self.sizes[-1]
        if kind is sum_off:
            return certificates.certify_last_step(self.rule, [_one(self.rule, w) for _, w in self.usable[:5]], largest)
        if kind in (silenced, out_of_bounds, out_of_range):
            return certificates.certify_range(self.rule, promise, self.sizes)
        if kind is jump or axiom == "contract.lipschitz":
            return certificates.certify_slope(self.rule, promise, largest)
        if kind is disorder:
            return certificates.certify_order(self.rule, list(self._ordered_answers()), largest)
        return None

    def _ordered_answers(self) -> Iterator[dict[str, Any]]:
        for _, world in self.usable[:5]:
            pairs = world.orders.get(world.contexts[int(world.context[0])], ())
            yield {"weights": _one(self.rule, world), "pairs": [list(pair) for pair in pairs]}


def tell_case(rule: WeightOperator, axiom: Axiom, case: Case) -> str:
    """Return a counter-example in one line: what the rule read, and what it answered."""
    from mashbill.audit.scan import describe

    said = _shown(rule, case.world)
    read = describe(rule, case.world)
    if case.other is not None and axiom.id not in ("contract.state",):
        return f"{read} gives {said}; {describe(rule, case.other)} gives {_shown(rule, case.other)}"
    if case.choice:
        return f"{read} gives {said}; rows or teachers {list(case.choice)} get others"
    return f"{read} gives {said}"


def _shown(rule: WeightOperator, world: World) -> str:
    try:
        weights = weights_of(rule, world, normalise=False)
    except Exception as error:  # the axiom may be that there is an answer
        return f"{type(error).__name__}: {error}"[:120]
    row = weights[:, 0, 0] if weights.ndim == 3 else weights.flatten()[:6]
    return "(" + ", ".join(f"{x:.6g}" for x in row[:6].tolist()) + (", ..." if len(row) > 6 else "") + ")"


def _one(rule: WeightOperator, world: World) -> list[float]:
    return weights_of(rule, world, normalise=False)[:, 0, 0].tolist()


def _raises(rule: WeightOperator, world: World) -> bool:
    return VIOLATIONS["contract.answer"](rule, Case(world)) > 0


def _exceeds(measure: Callable[[WeightOperator, Case], float], rule: WeightOperator, case: Case) -> bool:
    violation = measure(rule, case)
    return violation > 0 or math.isnan(violation)


def _steepness(rule: WeightOperator, case: Case) -> float:
    from mashbill.audit.slopes import excess

    return excess(rule, case)
