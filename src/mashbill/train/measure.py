"""Measuring teachers on labelled rows before anyone learns from them: the scorecard of a recipe."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mashbill.errors import DataError, MashbillError
from mashbill.progress import Progress
from mashbill.train import metrics
from mashbill.train.answers import at, first_rows, mark, n_rows_at_once, source_rows
from mashbill.train.build import build_teachers
from mashbill.train.classes import declared_classes
from mashbill.train.corpus import Corpus, build_corpus
from mashbill.train.data import read_rows
from mashbill.train.evaluate import DEFAULT_CONFIDENCE, declares_critical
from mashbill.train.loading import Loaded
from mashbill.train.metrics import Marks, RowTotals
from mashbill.train.stores import without_refused
from mashbill.train.students import build_student
from mashbill.train.targets import Targets, collect, require_answers
from mashbill.weights.scorecard import Cell, Scorecard, certify_orders, orders_of


def measure_scorecard(loaded: Loaded, *, progress: Progress | None = None) -> Scorecard:
    """Ask every teacher about ``data.scorecard`` and measure it: pooled, by task, by context and by both.

    The teachers' answers are kept in the run's ``teachers`` folder. The student is built for its vocabulary only.

    Raises:
        MashbillError: The recipe names no such rows.
        DataError: Rows have no label.
    """
    recipe = loaded.recipe
    if recipe.data.scorecard is None:
        raise MashbillError(
            "the recipe has no rows to measure teachers on",
            where=loaded.where("data.scorecard"),
            help="name a file of labelled rows in `data.scorecard`; a few hundred for each task and context are enough",
        )
    critical_labels = recipe.critical.labels if recipe.critical else ()
    rows = read_rows(loaded.resolve(recipe.data.scorecard), recipe.data, critical_labels=critical_labels)
    base = loaded.path.parent
    student = build_student(recipe.student, base, recipe.train.seed)
    names = [teacher.id for teacher in recipe.teachers]
    corpus = build_corpus(student, rows, max_length=recipe.data.max_length, teachers=names)
    _require_labels(corpus, where=str(recipe.data.scorecard))
    directory = loaded.resolve(recipe.output) / "teachers"
    classes = declared_classes(loaded, student)
    teachers = build_teachers(recipe.teachers, student, base, data=recipe.data, classes=classes)
    corpus = without_refused(recipe.teachers, teachers, {"scorecard rows": corpus})[0]["scorecard rows"]
    if not directory.exists():
        require_answers(teachers, corpus)
    targets = []
    for teacher in teachers:
        targets.append(collect(teacher, corpus, directory, progress))
        getattr(teacher, "release", lambda: None)()  # one local model in memory at a time
    confidence = recipe.critical.confidence if recipe.critical else DEFAULT_CONFIDENCE
    return scorecard_of(corpus, targets, confidence=confidence, is_critical_declared=declares_critical(recipe))


def scorecard_of(
    corpus: Corpus, targets: Sequence[Targets], *, confidence: float, is_critical_declared: bool
) -> Scorecard:
    """Measure teachers whose answers to a labelled corpus are known.

    Args:
        corpus: Labelled rows; every text counts once, however many blocks it was cut into.
        targets: Each teacher's answers, in the order of ``corpus.teachers``.
        confidence: Coverage of each interval, and of all certified orders together.
        is_critical_declared: Whether safety is success on critical rows alone; otherwise every row counts.
    """
    source = source_rows(corpus)
    first = first_rows(source)
    task, context = corpus.task[first].numpy(), corpus.context[first].numpy()
    is_critical = corpus.critical[first].numpy() if is_critical_declared else None
    marks = [_marks(corpus, each, source) for each in targets]
    poolings = _poolings(corpus, task, context)
    cells = [
        _cell(teacher, each.of_rows(rows), pooling, is_critical, confidence=confidence)
        for teacher, each in zip(corpus.teachers, marks, strict=True)
        for pooling, rows in poolings.items()
    ]
    success = np.stack([RowTotals.of(each).success for each in marks])
    # Only rows with labelled positions have a success; they are the same for every teacher.
    counted = RowTotals.of(marks[0]).row
    kept = np.ones(counted.size, dtype=bool) if is_critical is None else is_critical[counted]
    tests = certify_orders(
        success[:, kept],
        teachers=corpus.teachers,
        context=context[counted][kept],
        contexts=corpus.contexts,
        confidence=confidence,
    )
    orders = orders_of(tests, contexts=corpus.contexts)
    return Scorecard(corpus.teachers, corpus.tasks, corpus.contexts, confidence, tuple(cells), orders, tests)


def require_measured(
    scorecard: Scorecard, *, tasks: Collection[str], contexts: Collection[str], needs: Collection[str]
) -> None:
    """Refuse a scorecard that says nothing about a task or context of the rows, if the weights read such figures.

    Args:
        scorecard: What was measured.
        tasks: Tasks of the rows to be weighed.
        contexts: Their contexts.
        needs: What the weight operator reads: ``"score:task:accuracy"``, ``"score:context:safety"``, ``"orders"``.

    Raises:
        MashbillError: Names the task or context.
    """
    for by, wanted, known in (("task", tasks, scorecard.tasks), ("context", contexts, scorecard.contexts)):
        is_read = any(
            need.startswith(f"score:{by}:") or (by == "context" and need.startswith("order")) for need in needs
        )
        missing = sorted(set(wanted) - set(known))
        if is_read and missing:
            raise MashbillError(
                f"the scorecard has no {by} `{missing[0]}`",
                why=f"the weights read measured skill by {by}, and it was measured for: {', '.join(known)}",
                help=f"add labelled rows of {by} {', '.join(f'`{name}`' for name in missing[:5])} to `data.scorecard` "
                "and run `mashbill scorecard` again",
            )


def _require_labels(corpus: Corpus, *, where: str) -> None:
    n_known = (corpus.labels.values >= 0).long()
    total = torch.cat([torch.zeros(1, dtype=torch.long), n_known.cumsum(0)])[corpus.labels.starts].diff()
    unlabelled = [corpus.rows[n].id for n in (total == 0).nonzero().flatten().tolist()]
    if unlabelled:
        raise DataError(
            f"row `{unlabelled[0]}` has no label ({len(unlabelled)} of {len(corpus)} rows have none)",
            where=where,
            why="teachers are measured against labels",
            help="add the labels, or leave those rows out of `data.scorecard`",
        )


def _marks(corpus: Corpus, targets: Targets, source: torch.Tensor) -> Marks:
    parts = []
    for index in torch.arange(len(corpus)).split(n_rows_at_once(corpus, targets.n_entries, 1024)):
        batch = corpus.batch(index)
        scored = targets.batch(index, batch.labels.shape[1])
        b, t = batch.mask.nonzero(as_tuple=True)
        rows = source[index[b]]
        exact = scored.statistics.label_logprob[b, t]
        parts.append(mark(at(scored.distribution, b, t), batch.labels[b, t], rows, label_logprobs=exact))
    return Marks.join(parts)


_Pooling = tuple[str | None, str | None]


def _poolings(
    corpus: Corpus, task: NDArray[np.int64], context: NDArray[np.int64]
) -> Mapping[_Pooling, NDArray[np.bool_]]:
    """Return the rows of every task and context, each also pooled over the other: None stands for all of them."""
    found: dict[_Pooling, NDArray[np.bool_]] = {}
    for m in (None, *range(len(corpus.tasks))):
        for d in (None, *range(len(corpus.contexts))):
            rows = (task == m if m is not None else task >= 0) & (context == d if d is not None else context >= 0)
            if rows.any():
                found[None if m is None else corpus.tasks[m], None if d is None else corpus.contexts[d]] = rows
    return found


def _cell(
    teacher: str, marks: Marks, pooling: _Pooling, is_critical: NDArray[np.bool_] | None, *, confidence: float
) -> Cell:
    counts_for_safety = np.ones(int(marks.row.max()) + 1, dtype=bool) if is_critical is None else is_critical
    summary = metrics.summarise(marks, confidence=confidence, is_critical=counts_for_safety)
    assert summary is not None, "every row has a label, and every pooling has a row"
    return Cell(
        teacher=teacher,
        task=pooling[0],
        context=pooling[1],
        n=summary.n,
        loss=summary.loss,
        accuracy=summary.accuracy,
        calibration_error=summary.calibration_error,
        safety=summary.safety,
        n_critical=0 if is_critical is None else summary.n_critical,
    )
