"""Chunks of rows whose teachers all are lists: never laid out over ``V``, but for rows that lists alone cannot do."""

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.losses import topk, whole
from mashbill.losses.job import Job, Solve
from mashbill.losses.rows import Rows
from mashbill.shapes import Float, Tensor


def start(logits: Float[Tensor, "B T V"], job: Job, grad: Float[Tensor, "B T V"] | None, n_each: int) -> Solve:
    """Return what does up to ``n_each`` rows at a time, with buffers of its own."""
    n_entries = logits.shape[-1]
    wide = numerics.reduction_dtype(logits.dtype)
    n_buffers = 1 + topk.needs_spare(job.objective, has_labels=job.labels is not None)
    buffers = torch.empty(n_buffers, n_each, n_entries, dtype=wide, device=logits.device)

    def solve(rows: Rows) -> tuple[Tensor, Tensor]:
        spare, *more = buffers[:, : len(rows)]
        out = whole.made_in_place(grad, rows, spare=spare)
        found = _chunk(rows.select(logits), rows, job, out, more)
        if grad is not None and out is spare:
            rows.store(out, into=grad.view(-1, n_entries))
        return found

    return solve


def _chunk(logits: Tensor, rows: Rows, job: Job, out: Tensor, more: list[Tensor]) -> tuple[Tensor, Tensor]:
    teachers = [here for here in (rows.take(one, like=out) for one in job.teachers) if isinstance(here, TopK)]
    labels = None if job.labels is None else rows.select(job.labels)
    log_weights = job.weighing.decide(rows, logits, teachers, labels, dtype=out.dtype)
    done = topk.chunk(
        logits, teachers, log_weights, labels, objective=job.objective, out=out, spare=next(iter(more), None)
    )
    if len(done.hard) > 0:
        found = {"divergence": done.divergence, "cross_entropy": done.cross_entropy, "out": out}
        whole.again(done.logits, done.hard, rows, job, log_weights, **found)
    return done.divergence, done.cross_entropy
