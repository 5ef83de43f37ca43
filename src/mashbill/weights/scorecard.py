"""Measured skill and safety of each teacher, as values that outlive the measurement; needs no torch.

A scorecard is what task and context rules read instead of hopes: for every teacher its loss, accuracy, calibration
error and safety, pooled and by task and context, each with a confidence interval, and the pairs of teachers whose
safety order is certified in a context.

**Safety** is success on critical rows alone. The paper's measure (arXiv 2601.17910, VIII.3) is 1 on every other row,
so a teacher that fails on all critical rows still scores ``1 - P(critical)``: .99 if one row in a hundred is critical.

**A certified order.** Teachers answer the same rows. With success in [0, 1] the row differences lie in [-1, 1], and by
Hoeffding ``P(mean - E >= t) <= exp(-n t^2 / 2)``. All ``K (K-1)`` ordered pairs in all ``D`` contexts hold at once
with probability ``1 - delta`` if each gets ``delta / (K (K-1) D)``. Orders are kept for each context and not pooled:
an order on average safety would push weight to a teacher that is worse exactly where it matters.

Not covered: drift of a teacher after the measurement, and rows that are not a sample of what the student will meet.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mashbill.errors import MashbillError

MEASURES = ("accuracy", "loss", "calibration_error", "safety")
"""What :meth:`Scorecard.table` can be asked for."""

FORMAT_VERSION = 1

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
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    teachers: tuple[str, ...]
    tasks: tuple[str, ...]
    contexts: tuple[str, ...]
    confidence: float
    cells: tuple[Cell, ...]
    orders: Mapping[str, tuple[tuple[str, str], ...]]

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

    def cell(self, teacher: str, *, task: str | None = None, context: str | None = None) -> Cell | None:
        """Return one cell, or None if it had no rows."""
        wanted = (teacher, task, context)
        return next((cell for cell in self.cells if (cell.teacher, cell.task, cell.context) == wanted), None)

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
        with aside.open("w", encoding="utf-8") as file:
            json.dump(self.to_json(), file, indent=1, ensure_ascii=False, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)

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


def certify_orders(
    success: ArrayLike, *, context: ArrayLike, n_contexts: int, confidence: float
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return for each context the pairs ``(safer, less safe)`` of teachers that the sample certifies.

    A pair is certified if its mean difference exceeds ``sqrt(2 ln(K (K-1) D / delta) / n)`` on the context's ``n``
    rows.

    Args:
        success: Success of each teacher on each row, in [0, 1], teachers by rows.
        context: Index of each row's context.
        n_contexts: ``D``.
        confidence: ``1 - delta``: the probability that every pair returned is truly ordered.

    Raises:
        ValueError: ``success`` is not within [0, 1], or ``confidence`` not within (0, 1).
    """
    table, where = np.asarray(success, dtype=float), np.asarray(context)
    if table.ndim != 2 or not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"success of shape {table.shape} must be teachers by rows, within [0, 1]")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie strictly between 0 and 1")
    return tuple(
        _certified_pairs(table[:, where == index], n_contexts=n_contexts, confidence=confidence)
        for index in range(n_contexts)
    )


def _certified_pairs(success: np.ndarray, *, n_contexts: int, confidence: float) -> tuple[tuple[int, int], ...]:
    n_teachers, n_rows = success.shape
    if n_teachers < 2 or n_rows == 0:
        return ()
    least = math.sqrt(2 * math.log(_n_comparisons(n_teachers, n_contexts) / (1 - confidence)) / n_rows)
    mean = success.mean(axis=1)
    ranked = [int(k) for k in np.argsort(-mean, kind="stable")]
    pairs = tuple((k, j) for k in ranked for j in ranked if mean[k] - mean[j] > least)
    # No cycle can arise: every pair compares means over the same rows, so (k, j) needs mean_k > mean_j, and ">" on
    # numbers has no cycle. The pairs are transitive too: two gaps above `least` add up to one above `least`.
    assert all(ranked.index(k) < ranked.index(j) for k, j in pairs), "certified pairs follow the ranking of the means"
    return pairs


def rows_to_certify(gap: float, *, confidence: float = 0.95, n_teachers: int = 2, n_contexts: int = 1) -> int:
    """Return how many rows certify a gap of that size in the sample: ``2 ln(K (K-1) D / delta) / gap^2``.

    A true gap of that size shows smaller in about half of all samples, so plan with a smaller one.

    Raises:
        ValueError: ``gap`` is not within (0, 1], or there are fewer than two teachers.

    >>> rows_to_certify(0.05)
    2952
    """
    if not 0 < gap <= 1:
        raise ValueError(f"gap={gap!r} must lie in (0, 1]")
    if n_teachers < 2:
        raise ValueError(f"n_teachers={n_teachers} must be at least 2: an order needs two teachers")
    return math.ceil(2 * math.log(_n_comparisons(n_teachers, n_contexts) / (1 - confidence)) / gap**2)


def _n_comparisons(n_teachers: int, n_contexts: int) -> int:
    return n_teachers * (n_teachers - 1) * n_contexts


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
