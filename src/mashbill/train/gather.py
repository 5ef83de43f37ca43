"""Putting together what weight rules may look at, batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mashbill.distributions.statistics import Statistics
from mashbill.errors import MashbillError
from mashbill.shapes import Float, Tensor
from mashbill.teachers.protocol import Scored
from mashbill.train.corpus import Corpus
from mashbill.train.protocol import Batch
from mashbill.weights.evidence import Evidence, Scale
from mashbill.weights.scorecard import Cell, Interval, Scorecard

MEASURES = ("accuracy", "loss", "calibration_error", "safety")


@dataclass(frozen=True)
class Knowledge:
    """A scorecard in the order of a corpus: teachers, tasks and contexts by index.

    Attributes:
        scores: ``scores["task"]["accuracy"]`` is ``[K M]``; a measure that some teacher lacks is left out.
        orders: Certified pairs of teacher indices, by context.
    """

    scores: Mapping[Scale, Mapping[str, Float[Tensor, "K _"]]] = field(default_factory=dict)
    orders: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, scorecard: Scorecard, corpus: Corpus) -> "Knowledge":
        """Look up every teacher of the corpus; a task or context that was not measured takes the pooled figure.

        Raises:
            MashbillError: The scorecard lacks a teacher.
        """
        missing = [teacher for teacher in corpus.teachers if teacher not in scorecard.teachers]
        if missing:
            raise MashbillError(
                f"the scorecard does not know teacher `{missing[0]}`",
                why=f"it was measured for: {', '.join(scorecard.teachers)}",
                help="measure again with `mashbill scorecard`",
            )
        cells = {(cell.teacher, cell.task, cell.context): cell for cell in scorecard.cells}
        by_task = {
            measure: [[_value(cells, measure, (k, name, None)) for name in corpus.tasks] for k in corpus.teachers]
            for measure in MEASURES
        }
        by_context = {
            measure: [[_value(cells, measure, (k, None, name)) for name in corpus.contexts] for k in corpus.teachers]
            for measure in MEASURES
        }
        place = {teacher: n for n, teacher in enumerate(corpus.teachers)}
        orders = {
            context: tuple((place[safer], place[less]) for safer, less in pairs if safer in place and less in place)
            for context, pairs in scorecard.orders.items()
        }
        return cls({"task": _complete(by_task), "context": _complete(by_context)}, orders)


def gather(corpus: Corpus, batch: Batch, scored: Sequence[Scored], scorecard: Scorecard | Knowledge | None) -> Evidence:
    """Return the evidence for a batch.

    Args:
        corpus: Where the batch comes from.
        batch: Some of its rows.
        scored: Each teacher's answers to them, in the order of ``corpus.teachers``.
        scorecard: Measured skill; :class:`Knowledge` saves looking it up at every step.
    """
    known = Knowledge.of(scorecard, corpus) if isinstance(scorecard, Scorecard) else scorecard or Knowledge()
    return Evidence(
        teachers=corpus.teachers,
        statistics=Statistics.stack([each.statistics for each in scored]),
        mask=batch.mask,
        n_entries=scored[0].distribution.n_entries,
        tasks=corpus.tasks,
        task=corpus.task[batch.index],
        contexts=corpus.contexts,
        context=corpus.context[batch.index],
        features=corpus.features[batch.index],
        route=corpus.route[batch.index],
        scores=known.scores,
        orders=known.orders,
    )


_Key = tuple[str, str | None, str | None]


def _value(cells: Mapping[_Key, Cell], measure: str, key: _Key) -> float | None:
    for cell in (cells.get(key), cells.get((key[0], None, None))):
        found = None if cell is None else getattr(cell, measure)
        if found is not None:
            return found.value if isinstance(found, Interval) else found
    return None


def _complete(tables: Mapping[str, list[list[float | None]]]) -> dict[str, Tensor]:
    return {
        measure: torch.tensor(table, dtype=torch.float32)
        for measure, table in tables.items()
        if all(value is not None for row in table for value in row)
    }
