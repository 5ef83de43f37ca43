"""Asking everyone about every row of a set, and keeping four numbers a position."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mashbill.shapes import Int, Tensor
from mashbill.train.answers import Answers, Panel, first_rows, mark, source_rows
from mashbill.train.metrics import Marks


@dataclass(frozen=True)
class Judged:
    """One evaluation set after everyone was asked.

    Attributes:
        marks: By candidate: ``"student"``, ``"teacher:<id>"``, ``"pool"``; rows are source rows.
        n_rows: Source rows.
        groups: Which source rows belong to each ``(by, name)``.
        is_critical: Critical source rows; None if the recipe declares none.
        disagreement: Mean disagreement of the teachers in each row of the corpus, in nats.
        success: Share of right answers of the student in each row of the corpus; NaN without labels.
    """

    marks: Mapping[str, Marks]
    n_rows: int
    groups: Mapping[tuple[str, str], NDArray[np.bool_]]
    is_critical: NDArray[np.bool_] | None
    disagreement: NDArray[np.float64]
    success: NDArray[np.float64]


def judge(panel: Panel, teachers: Sequence[str], *, is_critical_declared: bool, batch_size: int) -> Judged:
    """Ask everyone about every row of a set, batch by batch, and keep four numbers a position."""
    corpus = panel.corpus
    n_rows = len(corpus.rows)
    source = source_rows(corpus)
    parts: dict[str, list[Marks]] = {}
    disagreement, asked = torch.zeros(n_rows, dtype=torch.float64), torch.zeros(n_rows, dtype=torch.float64)
    right, known = torch.zeros(n_rows, dtype=torch.float64), torch.zeros(n_rows, dtype=torch.float64)
    for answers in panel.answers(torch.arange(n_rows), batch_size=batch_size):
        for who, marks in _marks(answers, source[answers.row], teachers, pool=panel.pool):
            parts.setdefault(who, []).append(marks)
        disagreement.index_add_(0, answers.row, answers.disagreement.double())
        asked.index_add_(0, answers.row, torch.ones_like(answers.row, dtype=torch.float64))
        has_label = answers.labels >= 0
        is_right = (answers.student.logprobs.argmax(dim=-1) == answers.labels) & has_label
        right.index_add_(0, answers.row, is_right.double())
        known.index_add_(0, answers.row, has_label.double())
    first = first_rows(source)
    return Judged(
        marks={who: Marks.join(some) for who, some in parts.items()},
        n_rows=int(first.sum()),
        groups=groups(corpus.tasks, corpus.task[first].numpy(), corpus.contexts, corpus.context[first].numpy()),
        is_critical=corpus.critical[first].numpy() if is_critical_declared else None,
        disagreement=(disagreement / asked.clamp_min(1)).numpy(),
        success=(right / known).numpy(),
    )


def groups(
    tasks: Sequence[str], task: NDArray[np.int64], contexts: Sequence[str], context: NDArray[np.int64]
) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Return which rows make up the whole set, each task and each context; names without rows are left out."""
    found = {("all", "all"): np.ones(task.shape[0], dtype=bool)}
    for by, names, index in (("task", tasks, task), ("context", contexts, context)):
        if tuple(names) != ("all",):
            found |= {(by, name): index == place for place, name in enumerate(names) if (index == place).any()}
    return found


def _marks(
    answers: Answers, rows: Int[Tensor, " P"], teachers: Sequence[str], *, pool: str
) -> Iterator[tuple[str, Marks]]:
    yield "student", mark(answers.student, answers.labels, rows)
    for k, teacher in enumerate(teachers):
        yield (
            f"teacher:{teacher}",
            mark(answers.teachers[k], answers.labels, rows, label_logprobs=answers.label_logprobs[k]),
        )
    # The linear pool needs the teachers' label probabilities only, and those are exact even for stored top entries.
    exact = torch.logsumexp(answers.label_logprobs + answers.log_weights, dim=0) if pool == "linear" else None
    yield "pool", mark(answers.pool, answers.labels, rows, label_logprobs=exact)
