"""From a measured scorecard to rules and orders: skill and safety as measured, orders only where they are certain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch

from mashbill.errors import MashbillError
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.context import RankedSafety
from mashbill.weights.evidence import Declared, Evidence, Scale, WeightOperator
from mashbill.weights.order import SafetyOrder, order_of
from mashbill.weights.promises import declared_of
from mashbill.weights.scorecard import MEASURES, Cell, Interval, Scorecard
from mashbill.weights.shares import Number
from mashbill.weights.task import Performance


@dataclass(frozen=True)
class Measured:
    """A rule with a scorecard of its own: it reads measured skill and orders there and not in the evidence.

    Teachers, tasks and contexts are found by name. A task or context that was not measured takes the pooled figure,
    and no order. Everything else is as the rule's.

    Attributes:
        rule: A rule that reads scores or orders, or a product with ``order="scorecard"``.
        scorecard: What was measured.

    Raises:
        MashbillError: In a call: the scorecard does not know a teacher.
    """

    rule: WeightOperator
    scorecard: Scorecard

    @property
    def scale(self) -> str:
        """The rule's."""
        return getattr(self.rule, "scale", "context")

    @property
    def needs(self) -> frozenset[str]:
        """What the rule reads besides scores and orders."""
        return frozenset(n for n in getattr(self.rule, "needs", ()) if not n.startswith("score:") and n != "orders")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B #T]``."""
        names = (evidence.teachers, evidence.tasks, evidence.contexts)
        scores, orders = look_up(self.scorecard, teachers=names[0], tasks=names[1], contexts=names[2])
        return self.rule(replace(evidence, scores=scores, orders=orders))

    def declared(self, n_teachers: int) -> Declared:
        """Return the rule's promise."""
        return declared_of(self.rule, n_teachers)


@dataclass(frozen=True)
class Construction:
    """What a scorecard gives. Built by :func:`from_scorecard`.

    Attributes:
        performance: ``softmax(accuracy / temperature)`` of the row's task, at the task scale.
        ranked_safety: Weights by rank in the certified order of the row's context, at the context scale.
        orders: For each context, the certified pairs as indices of ``teachers``; without any, an order that imposes
            nothing.
        undecided: For each context, the pairs of teachers that are not ordered.
        teachers: Ids, in the order of the indices.
    """

    performance: Measured
    ranked_safety: Measured
    orders: Mapping[str, SafetyOrder]
    undecided: Mapping[str, tuple[tuple[str, str], ...]]
    teachers: tuple[str, ...]


def from_scorecard(
    scorecard: Scorecard,
    *,
    temperature: Number = 0.1,
    measure: Literal["accuracy", "safety"] = "accuracy",
    spread: Number = 0.5,
) -> Construction:
    """Build rules and orders from a scorecard.

    The rules work on any evidence of the same teachers, also ``Evidence.plain(...)``. For the certified order of each
    row's context after a product of rules, as ``order: scorecard`` in a recipe does it, write
    ``Measured(product(..., order="scorecard"), scorecard)``.

    Args:
        scorecard: As ``mashbill scorecard`` measures it, or put together by hand.
        temperature: Of :class:`~mashbill.weights.task.Performance`.
        measure: What performance is.
        spread: Of :class:`~mashbill.weights.context.RankedSafety`.

    Raises:
        ValueError: An option is out of range, or the orders have a cycle.
        MashbillError: The measure is missing for some teacher, as safety is without critical rows.
    """
    lacking = _lacking(scorecard, measure)
    if lacking is not None:
        raise MashbillError(
            f"the scorecard has no {measure} of teacher `{lacking}`",
            why="neither of each task nor pooled over all of them",
            help="measure it, or choose another measure",
        )
    orders = {name: _order(scorecard, name) for name in scorecard.contexts}
    return Construction(
        performance=Measured(Performance(temperature=temperature, measure=measure), scorecard),
        ranked_safety=Measured(RankedSafety(spread=spread), scorecard),
        orders=orders,
        undecided={name: _undecided(scorecard, order) for name, order in orders.items()},
        teachers=scorecard.teachers,
    )


def look_up(
    scorecard: Scorecard, *, teachers: Sequence[str], tasks: Sequence[str], contexts: Sequence[str]
) -> tuple[dict[Scale, dict[str, Float[Tensor, "K _"]]], dict[str, tuple[tuple[int, int], ...]]]:
    """Return ``scores`` and ``orders`` as :class:`~mashbill.weights.evidence.Evidence` has them.

    Args:
        scorecard: What was measured.
        teachers: In the order wanted.
        tasks: In the order wanted; one that was not measured takes the figures pooled over tasks.
        contexts: Likewise.

    Raises:
        MashbillError: The scorecard lacks a teacher.
    """
    missing = [teacher for teacher in teachers if teacher not in scorecard.teachers]
    if missing:
        raise MashbillError(
            f"the scorecard does not know teacher `{missing[0]}`",
            why=f"it was measured for: {', '.join(scorecard.teachers)}",
            help="measure again with `mashbill scorecard`",
        )
    by_task = _tables(scorecard, [[(teacher, name, None) for name in tasks] for teacher in teachers])
    by_context = _tables(scorecard, [[(teacher, None, name) for name in contexts] for teacher in teachers])
    place = {teacher: n for n, teacher in enumerate(teachers)}
    orders = {
        context: tuple((place[safer], place[less]) for safer, less in pairs if safer in place and less in place)
        for context, pairs in scorecard.orders.items()
    }
    return {"task": by_task, "context": by_context}, orders


_Key = tuple[str, str | None, str | None]


def _tables(scorecard: Scorecard, keys: Sequence[Sequence[_Key]]) -> dict[str, Tensor]:
    """Return each measure that all keys have."""
    cells = {(cell.teacher, cell.task, cell.context): cell for cell in scorecard.cells}
    tables = {measure: [[_value(cells, measure, key) for key in row] for row in keys] for measure in MEASURES}
    return {
        measure: torch.tensor(cast(list[list[float]], table), dtype=torch.float32)
        for measure, table in tables.items()
        if all(value is not None for row in table for value in row)
    }


def _value(cells: Mapping[_Key, Cell], measure: str, key: _Key) -> float | None:
    for cell in (cells.get(key), cells.get((key[0], None, None))):
        found = None if cell is None else getattr(cell, measure)
        if found is not None:
            return found.value if isinstance(found, Interval) else found
    return None


def _lacking(scorecard: Scorecard, measure: str) -> str | None:
    """Return the first teacher without the measure on some task."""
    cells = {(cell.teacher, cell.task, cell.context): cell for cell in scorecard.cells}
    for teacher in scorecard.teachers:
        if any(_value(cells, measure, (teacher, task, None)) is None for task in scorecard.tasks):
            return teacher
    return None


def _order(scorecard: Scorecard, context: str) -> SafetyOrder:
    place = {teacher: n for n, teacher in enumerate(scorecard.teachers)}
    pairs = scorecard.orders.get(context, ())
    return order_of(len(place), tuple((place[safer], place[less]) for safer, less in pairs))


def _undecided(scorecard: Scorecard, order: SafetyOrder) -> tuple[tuple[str, str], ...]:
    held, names = set(order.closure), scorecard.teachers
    pairs = [(k, j) for k in range(len(names)) for j in range(k + 1, len(names))]
    return tuple((names[k], names[j]) for k, j in pairs if (k, j) not in held and (j, k) not in held)
