"""Chunks of rows by the compiled loops, and by PyTorch where numbers are too extreme for them."""

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits
from mashbill.losses import native_rows, whole
from mashbill.losses.job import Job, Solve
from mashbill.losses.rows import Rows
from mashbill.shapes import Float, Tensor

N_KEPT = 3 * 2**18
"""Exponentials of teachers that a thread keeps between reading and mixing."""
N_KEPT_FOR_RULES = 2**21
"""The same where a rule is asked in between: a call of it should be little beside the rows that it is about."""


def rows_at_once(job: Job, n_entries: int) -> int:
    """Return how many rows to do together."""
    n_kept = N_KEPT if job.weighing.rule is None else N_KEPT_FOR_RULES
    return max(1, n_kept // (len(job.teachers) * n_entries))


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
    )
    spare = torch.empty(n_each, n_entries, dtype=logits.dtype)  # touched only if it is written to

    def solve(rows: Rows) -> tuple[Tensor, Tensor]:
        here, out = rows.select(logits), whole.made_in_place(grad, rows, spare=spare[: len(rows)])
        teachers = [
            one for one in (rows.take(one, like=here) for one in job.teachers) if isinstance(one, Dense | Logits)
        ]
        labels = None if job.labels is None else rows.select(job.labels)
        statistics = worker.read(teachers, labels, measures=weighing.needs_statistics)
        log_weights = weighing.at(rows, statistics, dtype=wide)
        done = worker.mix(here, log_weights, labels, out=out, measures=weighing.report is not None)
        weighing.tell(rows, teachers=statistics, student=done.student, log_weights=log_weights)
        left = (~done.done).nonzero().squeeze(1)
        if len(left) > 0:
            part = Rows(rows.index[left], None, rows.n_positions)
            again = torch.empty(job.n_buffers, len(left), n_entries, dtype=wide)
            weights = log_weights.index_select(-1, left)
            value, label_loss = whole.chunk(here.index_select(0, left), part, job, list(again), log_weights=weights)
            done.divergence.index_copy_(0, left, value)
            done.cross_entropy.index_copy_(0, left, label_loss)
            out.index_copy_(0, left, again[0].to(out.dtype))
        if grad is not None and out.data_ptr() == spare.data_ptr():
            rows.store(out, into=grad.view(-1, n_entries))
        return done.divergence, done.cross_entropy

    return solve
