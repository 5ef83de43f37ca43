"""The loss of a few rows with everything laid out over ``V``, in buffers that are used again and again."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.losses import gradient, mixture, student, target, teacher
from mashbill.losses.job import Job, Solve
from mashbill.losses.rows import Rows
from mashbill.shapes import Float, Int, Tensor

_LOST = 1e-24
# Student mass on entries whose pooled probability underflowed; less than this cannot move a reverse KL.
_FAINT = 1e-30
# Mass of a mixture by class below which float32 holds too few of its digits.

_N_KEPT = 4
# Buffers of teachers' probabilities beside which a chunk stays as long as without them.


def rows_at_once(job: Job, n_each: int) -> int:
    """Return how many rows to do together where it would be ``n_each`` without rules."""
    return n_each if job.n_kept <= _N_KEPT else max(1, n_each * _N_KEPT // job.n_kept)


def start(logits: Float[Tensor, "B T V"], job: Job, grad: Float[Tensor, "B T V"] | None, n_each: int) -> Solve:
    """Return what does up to ``n_each`` rows at a time, with buffers of its own."""
    n_entries = logits.shape[-1]
    wide = numerics.reduction_dtype(logits.dtype)
    buffers = torch.empty(job.n_buffers + job.n_kept, n_each, n_entries, dtype=wide, device=logits.device)

    def solve(rows: Rows) -> tuple[Tensor, Tensor]:
        here = buffers[:, : len(rows)]
        spare, room = here[0], here[1:]
        # In place, the logits are there, and they are read until the end.
        out = spare if job.is_in_place else made_in_place(grad, rows, spare=spare)
        found = chunk(rows.select(logits), rows, job, out, room)
        if grad is not None and out is spare:
            rows.store(out, into=grad.view(-1, n_entries))
        return found

    return solve


def made_in_place(grad: Float[Tensor, "B T V"] | None, rows: Rows, *, spare: Float[Tensor, "R V"]) -> Tensor:
    """Return where a chunk's gradient is made: in its own place if that can serve as a buffer, which saves a copy."""
    if grad is None or rows.span is None or grad.dtype != spare.dtype:
        return spare
    return grad.view(-1, grad.shape[-1])[rows.span[0] : rows.span[1]]


def chunk(
    logits: Float[Tensor, "R V"],
    rows: Rows,
    job: Job,
    out: Float[Tensor, "R V"],
    room: Float[Tensor, "n R V"],
    *,
    log_weights: Float[Tensor, "*classes K R"] | None = None,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Return divergence and cross-entropy of some rows; the gradient by their logits goes to ``out``.

    Args:
        logits: The student's; read to the end, so that they can be no buffer.
        rows: Which they are.
        job: What is to be done.
        out: One buffer, overwritten.
        room: ``job.n_buffers - 1`` more, and ``job.n_kept`` if the job's weighing is asked; overwritten.
        log_weights: Nats; None to ask the job's weighing.
    """
    log_q, objective, n_needed = out, job.objective, job.n_buffers - 1
    q, logprobs, probs, *more = room[:n_needed]
    labels = None if job.labels is None else rows.select(job.labels)
    if log_weights is None:
        heard = _hear(logits, rows, job, labels, room[1:3], kept=room[n_needed:])
    else:
        heard = _Heard(log_weights, {})
    reading = student.read(
        logits,
        labels,
        temperature=objective.temperature,
        logprobs=logprobs,
        probs=probs,
        plain=more.pop() if job.needs_plain else None,
    )
    if objective.reads_teachers:
        value = _divergence(logits, rows, job, reading, heard, q=q, log_q=log_q, more=more)
    else:
        value = torch.zeros_like(log_q.zero_()[:, 0])
    if labels is None or reading.label_logprob is None:
        return value, torch.zeros_like(value)
    if objective.cross_entropy > 0:
        gradient.add_cross_entropy(log_q, reading, labels, weight=objective.cross_entropy_weight)
    return value, torch.where(labels >= 0, -reading.label_logprob, 0)


def again(
    logits: Float[Tensor, "H V"],
    where: Int[Tensor, " H"],
    rows: Rows,
    job: Job,
    log_weights: Float[Tensor, "K R"],
    *,
    divergence: Float[Tensor, " R"],
    cross_entropy: Float[Tensor, " R"],
    out: Float[Tensor, "R V"],
) -> None:
    """Do rows again that another way could not do: ``where`` they are among ``rows``; the last three are mended."""
    part = Rows(rows.index[where], None, rows.n_positions)
    wide = numerics.reduction_dtype(logits.dtype)
    found, *_ = room = logits.new_empty(job.n_buffers, *logits.shape, dtype=wide)
    value, label_loss = chunk(logits, part, job, found, room[1:], log_weights=log_weights.index_select(-1, where))
    divergence.index_copy_(0, where, value.to(divergence.dtype))
    cross_entropy.index_copy_(0, where, label_loss.to(cross_entropy.dtype))
    out.index_copy_(0, where, found.to(out.dtype))


@dataclass(frozen=True)
class _Heard:
    """What the teachers count for, and the probabilities of those, by number, that were kept."""

    log_weights: Float[Tensor, "*classes K R"]
    softened: Mapping[int, mixture.Softened]


def _hear(logits: Tensor, rows: Rows, job: Job, labels: Tensor | None, work: Tensor, *, kept: Tensor) -> _Heard:
    """Ask for weights; teachers and student are measured and reported where somebody wants that."""
    weighing, statistics, own, softened = job.weighing, None, None, {}
    if weighing.needs_statistics:
        reader = teacher.Reader(weighing, labels, job.objective.temperature, work)
        statistics, softened = reader.teachers((rows.take(one, like=work) for one in job.teachers), kept=kept)
        own = None if weighing.report is None else reader.student(logits)
    log_weights = weighing.at(rows, statistics, dtype=work.dtype)
    weighing.tell(rows, teachers=statistics, student=own, log_weights=log_weights)
    return _Heard(log_weights, softened)


def _divergence(
    logits: Tensor,
    rows: Rows,
    job: Job,
    reading: student.StudentRows,
    heard: _Heard,
    *,
    q: Tensor,
    log_q: Tensor,
    more: list[Tensor],
) -> Tensor:
    """Return the divergence from the pooled teachers; its gradient goes to ``log_q``."""
    objective, log_weights = job.objective, heard.log_weights
    if objective.pool == "linear" and not (log_weights.ndim == 3 and any(isinstance(t, TopK) for t in job.teachers)):
        _mix(logits, rows, job, reading, heard, q=q, log_q=log_q)
    else:
        log_q.copy_(_log_space(logits, rows, job, log_weights))
        torch.exp(log_q, out=q)
    # The chain rule takes one 1/T of the T^2.
    weight = objective.divergence_weight / objective.temperature
    return gradient.of(objective, reading, q, log_q, weight=weight, more=more)


def _mix(
    logits: Tensor,
    rows: Rows,
    job: Job,
    reading: student.StudentRows,
    heard: _Heard,
    *,
    q: Tensor,
    log_q: Tensor,
) -> None:
    """Fill ``q`` with the mixture of the teachers, and ``log_q`` with its logs if the divergence reads them."""
    objective, log_weights, tiny = job.objective, heard.log_weights, torch.finfo(q.dtype).tiny
    lost = torch.zeros(len(rows), dtype=torch.bool, device=q.device)
    q.zero_()
    for k, one in enumerate(job.teachers):
        log_weight = log_weights[..., k, :]
        if k in heard.softened:
            heard.softened[k].add(q, target.by_entry(log_weight, job.weighing.classes).exp())
            continue
        here = rows.take(one, like=q)
        if isinstance(here, TopK):
            lost |= mixture.add_topk(
                q, here, log_weight, reading, temperature=objective.temperature, tail=objective.tail
            )
        else:
            by_entry = target.by_entry(log_weight, job.weighing.classes).exp()
            mixture.add_dense(q, here, by_entry, temperature=objective.temperature, work=log_q)
    if log_weights.ndim == 3:
        total = q.sum(dim=-1, keepdim=True)
        lost |= (total < _FAINT).squeeze(-1)  # Each class may hear only those who deny it.
        q.div_(total)
    if gradient.feels_underflow(objective) and bool(q.amin() < tiny):
        # A shared mask leaves zeros in every row; they matter where the student has mass.
        lost |= (q < tiny).mul(reading.probs).sum(dim=-1) > _LOST
    if gradient.reads_logs(objective):
        torch.clamp(q, min=tiny, out=log_q).log_()
    again = lost.nonzero().squeeze(1)
    if len(again) > 0:
        part = Rows(rows.index[again], None, rows.n_positions)
        exact = _log_space(logits.index_select(0, again), part, job, log_weights.index_select(-1, again))
        log_q.index_copy_(0, again, exact)
        q.index_copy_(0, again, exact.exp())


def _log_space(logits: Tensor, rows: Rows, job: Job, log_weights: Tensor) -> Tensor:
    """Return the pooled log-probabilities without underflow, by the plain functions."""
    plain, objective = numerics.log_softmax(logits), job.objective
    each = (
        target.softened(rows.take(one, like=plain), plain, temperature=objective.temperature, tail=objective.tail)
        for one in job.teachers
    )
    return target.pooled(each, log_weights.to(plain.dtype), pool=objective.pool, classes=job.weighing.classes)
