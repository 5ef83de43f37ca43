"""Chunks of rows by the compiled loops, and by PyTorch where numbers are too extreme for them."""

import functools
import math
from collections.abc import Callable

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits
from mashbill.losses import native_rows, sums, whole
from mashbill.losses.job import Job, Solve
from mashbill.losses.rows import Rows
from mashbill.shapes import Float, Tensor

N_KEPT = 2**20
"""Exponentials of teachers that a thread keeps between reading and mixing: 4 MiB."""


def rows_at_once(job: Job, n_entries: int) -> int:
    """Return how many rows to do together."""
    return max(1, N_KEPT // (len(job.teachers) * n_entries))


def start(logits: Float[Tensor, "B T V"], job: Job, grad: Float[Tensor, "B T V"] | None, n_each: int) -> Solve:
    """Return what does up to ``n_each`` rows at a time, with buffers of its own."""
    weighing, n_entries = job.weighing, logits.shape[-1]
    wide = numerics.reduction_dtype(logits.dtype)
    worker = native_rows.Worker(
        n_each,
        n_entries,
        len(job.teachers),
        job.objective,
        classes=weighing.classes if weighing.needs_statistics else None,
        n_classes=weighing.n_classes,
        gini=weighing.reads("gini"),
        # Weights that are given have been looked at.
        slack=math.inf if weighing.rule is None else sums.SLACK,
    )
    spare = logits.new_empty(n_each, n_entries)  # touched only if it is written to

    labels = None if job.labels is None else job.labels.long()
    views = [rows_of(native_rows.values_of(one)) for one in job.teachers if isinstance(one, Dense | Logits)]
    student = rows_of(logits)

    @functools.cache
    def listening(n_rows: int) -> tuple[native_rows.Numbers | None, Callable[[Rows], Tensor]]:
        """Return where statistics go, and who answers for what is there: made once, since chunks are many."""
        numbers = worker.numbers(n_rows) if weighing.needs_statistics else None
        return numbers, weighing.over(None if numbers is None else numbers.statistics, dtype=wide)

    def solve(rows: Rows) -> tuple[Tensor, Tensor]:
        here, room = student(rows), spare[: len(rows)]
        out = whole.made_in_place(grad, rows, spare=room)
        wanted = None if labels is None else rows.select(labels)
        numbers, weigh = listening(len(rows))
        worker.read([view(rows) for view in views], wanted, into=numbers)
        log_weights = weigh(rows)
        done = worker.mix(here, log_weights, wanted, out=out, measures=weighing.report is not None)
        if weighing.report is not None and numbers is not None:
            weighing.tell(rows, teachers=numbers.statistics, student=done.student, log_weights=log_weights)
        if done.left is not None:
            if weighing.rule is not None:
                weighing.require_whole(rows, log_weights)
            found = {"divergence": done.divergence, "cross_entropy": done.cross_entropy, "out": out}
            whole.again(here.index_select(0, done.left), done.left, rows, job, log_weights, **found)
        if grad is not None and out is room:
            rows.store(out, into=grad.view(-1, n_entries))
        return done.divergence, done.cross_entropy

    return solve


def rows_of(values: Float[Tensor, "B T V"]) -> Callable[[Rows], Float[Tensor, "R V"]]:
    """Return what gives some rows with their entries side by side: a view wherever there is one."""
    values = values.detach()
    if not values.is_contiguous():
        return lambda rows: rows.select(values).contiguous()
    flat = values.flatten(0, 1)

    def view(rows: Rows) -> Tensor:
        return flat[rows.span[0] : rows.span[1]] if rows.span is not None else flat.index_select(0, rows.index)

    return view
