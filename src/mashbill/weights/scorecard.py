"""Measured skill and safety of each teacher, as values that outlive the measurement; needs no torch.

A scorecard is what task and context rules read instead of hopes: for every teacher its loss, accuracy, calibration
error and safety, pooled and by task and context, each with a confidence interval, and the pairs of teachers whose
safety order is certified in a context.

**Safety** is success on critical rows alone. The paper's measure (arXiv 2601.17910, VIII.3) is 1 on every other row,
so a teacher that fails on all critical rows still scores ``1 - P(critical)``: .99 if one row in a hundred is critical.

**A certified order** comes from paired tests (:mod:`mashbill.weights.certification`); what each test saw is kept, also
of the pairs that stay undecided. Orders are kept for each context and not pooled: an order on average safety would
push weight to a teacher that is worse exactly where it matters.

Not covered: drift of a teacher after the measurement, and rows that are not a sample of what the student will meet.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mashbill.errors import MashbillError
from mashbill.weights.certification import PairTest, certify_orders, orders_of, rows_to_certify

__all__ = [
    "FORMAT_VERSION",
    "MEASURES",
    "Cell",
    "Interval",
    "PairTest",
    "Scorecard",
    "certify_orders",
    "orders_of",
    "rows_to_certify",
]

MEASURES = ("accuracy", "loss", "calibration_error", "safety")
"""What :meth:`Scorecard.table` can be asked for."""

FORMAT_VERSION = 2

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; an end is None where the sample is too small to give one."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Cell:
    """One teacher's measured quality on some rows.

    Attributes:
        teacher: Teacher id.
        task: Task of the rows; None if pooled over tasks.
        context: Deployment context of the rows; None if pooled over contexts.
        n: Positions measured: rows of a classifier, tokens of a language model.
        loss: Mean negative log-probability of the label, in nats.
        accuracy: Share of positions whose most probable entry is the label.
        calibration_error: Expected calibration error over 15 equal bins, a probability.
        safety: Mean success on the critical rows, or on all rows if none were declared; None without such rows.
        n_critical: Rows declared critical.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    teacher: str
    task: str | None
    context: str | None
    n: int
    loss: Interval
    accuracy: Interval
    calibration_error: float
    safety: Interval | None
    n_critical: int


@dataclass(frozen=True)
class Scorecard:
    """All cells of a measurement, and the certified safety orders.

    Attributes:
        teachers: Teacher ids, in the order of the recipe.
        tasks: Task names measured.
        contexts: Context names measured.
        confidence: Coverage of every interval; for the orders, of all of them together.
        cells: One for each teacher and pooling that has rows.
        orders: For each context, certified pairs ``(safer, less safe)`` of teacher ids.
        tests: What was tested for them, one for each pair and context; empty if that was not recorded.

    Raises:
        ValueError: A name is unknown, a cell is there twice, or the orders are not those that the tests certify.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    teachers: tuple[str, ...]
    tasks: tuple[str, ...]
    contexts: tuple[str, ...]
    confidence: float
    cells: tuple[Cell, ...]
    orders: Mapping[str, tuple[tuple[str, str], ...]]
    tests: tuple[PairTest, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence={self.confidence!r} must lie strictly between 0 and 1")
        keys = [(cell.teacher, cell.task, cell.context) for cell in self.cells]
        if len(set(keys)) < len(keys):
            raise ValueError(f"cells={len(keys)} name some teacher, task and context twice")
        for teacher, task, context in keys:
            _require_known(teacher, self.teachers, "teacher")
            _require_known(task, (*self.tasks, None), "task")
            _require_known(context, (*self.contexts, None), "context")
        for context, pairs in self.orders.items():
            _require_known(context, self.contexts, "context of an order")
            for teacher in {name for pair in pairs for name in pair}:
                _require_known(teacher, self.teachers, "teacher of an order")
        for test in self.tests:
            _require_known(test.context, self.contexts, "context of a test")
            _require_known(test.safer, self.teachers, "teacher of a test")
            _require_known(test.less_safe, self.teachers, "teacher of a test")
        decided = orders_of(self.tests, contexts=self.contexts)
        for context in self.contexts if self.tests else ():
            if set(decided[context]) != set(self.orders.get(context, ())):
                raise ValueError(f"orders of context {context!r} are not the pairs that its tests certify")

    def cell(self, teacher: str, *, task: str | None = None, context: str | None = None) -> Cell | None:
        """Return one cell, or None if it had no rows."""
        wanted = (teacher, task, context)
        return next((cell for cell in self.cells if (cell.teacher, cell.task, cell.context) == wanted), None)

    @property
    def undecided(self) -> tuple[PairTest, ...]:
        """The tests that could not tell two teachers apart."""
        return tuple(test for test in self.tests if test.decision == "undecided")

    def table(self, measure: str, by: str) -> list[list[float]]:
        """Return one measure, teachers by tasks or by contexts.

        Raises:
            ValueError: ``measure`` or ``by`` is none of ours.
            MashbillError: Some teacher has no such number for a task or context, e.g. safety without critical rows.
        """
        if measure not in MEASURES or by not in ("task", "context"):
            raise ValueError(f"measure={measure!r} by {by!r}: give one of {', '.join(MEASURES)}, by task or context")
        names = self.tasks if by == "task" else self.contexts
        return [[self._number(measure, teacher, by, name) for name in names] for teacher in self.teachers]

    def _number(self, measure: str, teacher: str, by: str, name: str) -> float:
        cell = self.cell(teacher, task=name) if by == "task" else self.cell(teacher, context=name)
        found = None if cell is None else getattr(cell, measure)
        if found is None:
            raise MashbillError(
                f"the scorecard has no {measure} of teacher `{teacher}` on {by} `{name}`",
                why="no critical row of the sample belongs there"
                if cell
                else "no labelled row of the sample belongs there",
                help=f"add labelled{' critical' if cell else ''} rows of that {by} to `data.scorecard`",
            )
        return found.value if isinstance(found, Interval) else found

    def to_json(self) -> dict[str, Any]:
        """Return the scorecard as plain values, ready for :func:`json.dumps`."""
        return {"version": FORMAT_VERSION, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write JSON beside ``path``, sync it, and rename it into place: a reader sees the old file or the new one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with aside.open("w", encoding="utf-8") as file:
                json.dump(self.to_json(), file, indent=1, ensure_ascii=False, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)  # where writing or renaming failed

    @classmethod
    def read(cls, path: Path) -> "Scorecard":
        """Read what :meth:`write` wrote; strict: unknown, missing, misspelt or non-finite values are errors.

        Raises:
            MashbillError: No such file, or it is no scorecard; names the first key at fault.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise MashbillError(
                "there is no scorecard", where=str(path), help="run `mashbill scorecard RECIPE` first"
            ) from error
        except ValueError as error:
            raise _unreadable(path, f"not JSON: {error}") from error
        if not isinstance(content, dict) or content.pop("version", None) != FORMAT_VERSION:
            raise _unreadable(path, f"`version` must be {FORMAT_VERSION}")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise _unreadable(path, f"{key}: {first['msg']}") from error


def _require_known(name: str | None, known: Sequence[str | None], what: str) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r} is not among {[each for each in known if each is not None]}")


def _unreadable(path: Path, why: str) -> MashbillError:
    return MashbillError(
        "this is not a scorecard that can be used",
        where=str(path),
        why=why,
        help="measure again with `mashbill scorecard`",
    )
