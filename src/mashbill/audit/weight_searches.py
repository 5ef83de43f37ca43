"""The searches of a weight rule's audit: which cases are tried for which axiom."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from mashbill.audit.axioms import Axiom
from mashbill.audit.climbing import climb
from mashbill.audit.moods import make_world
from mashbill.audit.pathways import find_jump
from mashbill.audit.situations import Case
from mashbill.audit.slopes import steepest
from mashbill.audit.subject import Subject, raises
from mashbill.audit.violations import VIOLATIONS, jump

Search = tuple[str, Callable[[], Iterator[Case | None]]]
"""A name, and what yields cases; None stands for an attempt that found nothing to look at."""


def searches_for(subject: Subject, axiom: Axiom) -> list[Search]:
    """Return the searches that can refute an axiom."""
    return _Searches(subject).of(axiom)


class _Searches:
    """Iterators of cases, all of one subject."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def of(self, axiom: Axiom) -> list[Search]:
        specific: dict[str, Search] = {
            "contract.answer": ("random", self._everything),
            "contract.shape": ("random", self._everything),
            "contract.rows": ("batches", self._batches),
            "contract.permutation": ("permutation", self._permutations),
            "contract.state": ("repetition", self._repetitions),
            "contract.gradient": ("gradient", self._plain),
            "contract.precision": ("precision", self._plain),
            "contract.lipschitz": ("steepest slope", self._slopes),
            "composition.feasible": ("bounds", self._numbers_of_teachers),
        }
        if axiom.id in specific:
            return [specific[axiom.id]]
        if VIOLATIONS[axiom.id] is jump:
            return [("bisection", self._paths)]
        if VIOLATIONS[axiom.id] in (VIOLATIONS["task.III.14"], VIOLATIONS["composition.student"]):
            return [("another student", self._students)]
        searches: list[Search] = [("random", self._plain)]
        if axiom.id not in ("contract.finite",):
            searches.append(("ascent", lambda: self._climbs(axiom)))
        return searches

    def _everything(self) -> Iterator[Case]:
        yield from (Case(world) for _, world in self.subject.supply)

    def _plain(self) -> Iterator[Case]:
        yield from (Case(world) for _, world in self.subject.usable)

    def _numbers_of_teachers(self) -> Iterator[Case]:
        generator = torch.Generator().manual_seed(self.subject.seed)
        for n_teachers in self.subject.sizes:
            yield Case(make_world(self.subject.stage, generator, n_teachers=n_teachers, n_rows=1, n_positions=1))

    def _batches(self) -> Iterator[Case]:
        for _, world in self.subject.usable:
            n_rows = world.logits.shape[1]
            yield Case(world, choice=(0,))
            yield Case(world, choice=(n_rows - 1, 0) if n_rows > 1 else (0,))

    def _permutations(self) -> Iterator[Case]:
        for _, world in self.subject.usable:
            yield Case(world, choice=tuple(reversed(range(world.n_teachers))))
            yield Case(world, choice=(*range(1, world.n_teachers), 0))

    def _repetitions(self) -> Iterator[Case]:
        previous = None
        for _, world in self.subject.usable[:: max(1, len(self.subject.usable) // (12 * self.subject.effort.n_rounds))]:
            yield Case(world, previous)
            previous = world

    def _students(self) -> Iterator[Case]:
        for _, world in self.subject.usable:
            yield Case(world, replace(world, student=world.student.flip(-1) + 1.0 * world.student.roll(1, -1)))

    def _paths(self) -> Iterator[Case | None]:
        generator = torch.Generator().manual_seed(self.subject.seed + 1)
        moods = ("plain", "tied", "sure", "mixed", "alike", "skewed", "flat")
        for number in range(self.subject.effort.n_paths):
            size = {"n_teachers": 2 + number % 2, "n_rows": 1, "n_positions": 1, "n_entries": 2 + number % 3}
            start = make_world(self.subject.stage, generator, mood=moods[number % len(moods)], **size)
            end = make_world(self.subject.stage, generator, mood=moods[(number // 3) % len(moods)], **size)
            if raises(self.subject.rule, start) or raises(self.subject.rule, end):
                continue
            yield find_jump(self.subject.rule, start, end, n_points=self.subject.effort.n_points)

    def _climbs(self, axiom: Axiom) -> Iterator[Case]:
        measure = VIOLATIONS[axiom.id]
        generator = torch.Generator().manual_seed(self.subject.seed + 2)
        ranked = sorted(
            (
                world
                for _, world in self.subject.usable
                if world.n_teachers in (2, 3, len(self.subject.stage.teachers or ()))
            ),
            key=lambda world: -measure(self.subject.rule, Case(world)),
        )
        for world in ranked[: self.subject.effort.n_climbs]:
            yield Case(climb(self.subject.rule, measure, world, generator, n_moves=self.subject.effort.n_moves))

    def _slopes(self) -> Iterator[Case | None]:
        assert self.subject.promise is not None, "the caller looked"
        generator = torch.Generator().manual_seed(self.subject.seed + 3)
        rule, metric, effort = self.subject.rule, self.subject.promise.metric, self.subject.effort
        for number in range(2 * effort.n_climbs):
            # Slopes are steepest among few who doubt, so that comes first; later rounds pair moods with other sizes.
            turn = number + number // 4
            size = {"n_teachers": 2 + turn % 2, "n_rows": 1, "n_positions": 1, "n_entries": 2 + turn % 4}
            mood = ("flat", "sure", "tied", "plain")[number % 4]
            world = make_world(self.subject.stage, generator, mood=mood, **size)
            if not raises(rule, world):
                yield steepest(rule, world, metric, generator, n_moves=effort.n_moves)
