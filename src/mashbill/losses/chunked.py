"""The distillation loss a few rows at a time, with its gradient computed on the way.

For each chunk of rows: the student's distribution once, the teachers added up one after the other in place, the
divergence and its gradient by logits. Memory above the inputs is the gradient, in the dtype of the logits, and a
handful of chunks a thread; never ``K`` distributions. The weights are constants here. Values and gradients are those of
the reference up to rounding, and the same bit for bit with any number of threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits
from mashbill.distributions.topk import TopK
from mashbill.losses import gradient, mixture, parallel, student, target, topk
from mashbill.losses.objective import LossOutput, Objective
from mashbill.losses.rows import Answers, Rows, counted, rows_at_once
from mashbill.shapes import Bool, Float, Int, LogWeights, Tensor

_LOST = 1e-24
# Student mass on entries whose pooled probability underflowed; less than this cannot move a reverse KL.


@dataclass(frozen=True)
class Job:
    """Everything but the logits; ``log_weights`` has an entry for every position, ``N = B T``."""

    teachers: Sequence[Answers]
    log_weights: Float[Tensor, "K N"]
    mask: Bool[Tensor, "B T"]
    labels: Int[Tensor, "B T"] | None
    objective: Objective
    is_in_place: bool

    @cached_property
    def has_lists_alone(self) -> bool:
        """Whether the loss over lists can do it."""
        return topk.fits(self.teachers, self.objective, self.mask.device)


def distillation_loss(
    student_logits: Float[Tensor, "B T V"],
    teachers: Sequence[Answers],
    log_weights: LogWeights,
    *,
    mask: Bool[Tensor, "B T"],
    labels: Int[Tensor, "B T"] | None,
    objective: Objective,
    in_place: bool = False,
) -> LossOutput:
    """Return the loss of :func:`mashbill.losses.distillation_loss`; a gradient reaches the logits only."""
    each = log_weights.detach().expand(-1, *mask.shape).flatten(1)
    job = Job(teachers, each, mask, labels, objective, in_place)
    return LossOutput(*_Loss.apply(student_logits, job))


class _Loss(torch.autograd.Function):
    """Gradient in the forward pass; the backward pass only scales it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, job: Job) -> tuple[Tensor, Tensor, Tensor]:
        value, divergence, cross_entropy, grad = compute(logits, job, wants_gradient=ctx.needs_input_grad[0])
        ctx.mark_non_differentiable(divergence, cross_entropy)
        ctx.set_materialize_grads(False)
        ctx.taken = grad if job.is_in_place else None
        if grad is not None and not job.is_in_place:
            ctx.save_for_backward(grad)
        return value, divergence, cross_entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, None]:
        return _scaled(ctx, grad_outputs[0])


@once_differentiable
def _scaled(ctx: Any, outer: Tensor | None) -> tuple[Tensor | None, None]:
    """Multiply the stored gradient; a second derivative is refused, for the stored one would make it zero."""
    if outer is None:
        return None, None
    if not ctx.saved_tensors:
        taken, ctx.taken = ctx.taken, None
        if taken is None:
            raise RuntimeError("in_place=True keeps one gradient for one backward pass; use in_place=False for more")
        return taken if _is_one(outer) else taken.mul_(outer), None
    return scaled(ctx.saved_tensors, outer)[0], None


def scaled(stored: Sequence[Tensor | None], outer: Tensor | None) -> list[Tensor | None]:
    """Return stored gradients times a factor, never in place: the graph may be kept and walked again."""
    if outer is None:
        return [None] * len(stored)
    return list(stored) if _is_one(outer) else [None if one is None else one * outer for one in stored]


def _is_one(factor: Tensor) -> bool:
    """Whether a factor can be left out: on the CPU a look costs nothing, elsewhere it would stop the device."""
    return factor.device.type == "cpu" and factor.item() == 1


def compute(logits: Tensor, job: Job, *, wants_gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return total, divergence, cross-entropy and the gradient, over the logits if the job is in place."""
    wide, n_entries = numerics.reduction_dtype(logits.dtype), logits.shape[-1]
    n_positions, objective = job.mask.numel(), job.objective
    n_each = rows_at_once(n_entries, logits.device) * (topk.N_CHUNKS if job.has_lists_alone else 1)
    n_each = max(1, min(n_each, n_positions))
    divergence = torch.zeros(n_positions, dtype=wide, device=logits.device)
    cross_entropy = torch.zeros_like(divergence)
    grad = None
    if wants_gradient:
        grad = logits.detach() if job.is_in_place else _blank_gradient(logits, job.mask)

    def start() -> Callable[[Rows], None]:
        buffers = torch.empty(_n_buffers(job), n_each, n_entries, dtype=wide, device=logits.device)

        def work(rows: Rows) -> None:
            first, *more = buffers[:, : len(rows)]
            out = first if grad is None else _destination(grad, rows, job, spare=first)
            distance, label_loss = _chunk(rows.select(logits), rows, job, [out, *more])
            rows.store(distance, into=divergence)
            rows.store(label_loss, into=cross_entropy)
            if grad is not None and out is first:
                rows.store(out, into=grad.view(-1, n_entries))

        return work

    parallel.spread(list(counted(job.mask, n_each=n_each)), start, device=logits.device)
    if grad is not None and job.is_in_place and not bool(job.mask.all()):
        grad.view(-1, n_entries)[~job.mask.flatten()] = 0
    each = divergence.view(job.mask.shape), cross_entropy.view(job.mask.shape)
    return total(divergence, cross_entropy, objective), *each, grad


def total(divergence: Float[Tensor, " N"], cross_entropy: Float[Tensor, " N"], objective: Objective) -> Tensor:
    """Return the weighted sum, the same bit for bit with any number of threads."""
    return objective.divergence_weight * _sum(divergence) + objective.cross_entropy_weight * _sum(cross_entropy)


def _destination(grad: Tensor, rows: Rows, job: Job, *, spare: Tensor) -> Tensor:
    """Return where a chunk's gradient is made: in its place if it can serve as a buffer, which saves a copy."""
    is_taken = job.is_in_place and not job.has_lists_alone  # by the logits, which are read until the end
    if rows.span is None or grad.dtype != spare.dtype or is_taken:
        return spare
    return grad.view(-1, grad.shape[-1])[rows.span[0] : rows.span[1]]


def _sum(values: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Add up in an order that does not depend on the number of threads: each part by one of them."""
    n_missing = -len(values) % _PART
    return torch.nn.functional.pad(values, (0, n_missing)).view(-1, _PART).sum(dim=1).sum()


_PART = 1024


def _blank_gradient(logits: Tensor, mask: Tensor) -> Tensor:
    # Clearing what is written in full anyway would be a pass over fresh memory, the slowest kind.
    blank = torch.empty_like if bool(mask.all()) else torch.zeros_like
    return blank(logits, memory_format=torch.contiguous_format)


_GRADIENT = 0


def _n_buffers(job: Job) -> int:
    if job.has_lists_alone:
        return 1 + topk.needs_spare(job.objective, has_labels=job.labels is not None)
    return _n_whole(job)


def _n_whole(job: Job) -> int:
    return 4 + gradient.n_spare(job.objective) + _needs_plain(job)


def _needs_plain(job: Job) -> bool:
    shaped = job.objective.tail == "student" and any(isinstance(one, TopK) for one in job.teachers)
    return job.objective.temperature != 1 and (shaped or job.labels is not None)


def _chunk(logits: Tensor, rows: Rows, job: Job, buffers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return divergence and cross-entropy of a chunk; its gradient is in ``buffers[_GRADIENT]``."""
    if job.has_lists_alone:
        return _captured(logits, rows, job, buffers)
    return _whole(logits, rows, job, buffers)


def _captured(logits: Tensor, rows: Rows, job: Job, buffers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Do a chunk of teachers who all are lists, and again in whole what lists alone cannot do."""
    out, *more = buffers
    teachers = [here for here in (rows.take(one, like=out) for one in job.teachers) if isinstance(here, TopK)]
    weights = job.log_weights.index_select(1, rows.index)
    labels = None if job.labels is None else rows.select(job.labels)
    done = topk.chunk(logits, teachers, weights, labels, objective=job.objective, out=out, spare=next(iter(more), None))
    if len(done.hard) > 0:
        part = Rows(rows.index[done.hard], None, rows.n_positions)
        again = torch.empty(_n_whole(job), *done.logits.shape, dtype=out.dtype, device=out.device)
        value, label_loss = _whole(done.logits, part, job, list(again))
        done.divergence.index_copy_(0, done.hard, value)
        done.cross_entropy.index_copy_(0, done.hard, label_loss)
        out.index_copy_(0, done.hard, again[_GRADIENT])
    return done.divergence, done.cross_entropy


def _whole(logits: Tensor, rows: Rows, job: Job, buffers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Do a chunk with everything laid out over ``V``."""
    log_q, q, logprobs, probs, *more = buffers
    objective = job.objective
    labels = None if job.labels is None else rows.select(job.labels)
    reading = student.read(
        logits,
        labels,
        temperature=objective.temperature,
        logprobs=logprobs,
        probs=probs,
        plain=more.pop() if _needs_plain(job) else None,
    )
    if objective.reads_teachers:
        value = _divergence(logits, rows, job, reading, q=q, log_q=log_q, more=more)
    else:
        value = torch.zeros_like(log_q.zero_()[:, 0])
    if labels is None or reading.label_logprob is None:
        return value, torch.zeros_like(value)
    if objective.cross_entropy > 0:
        gradient.add_cross_entropy(log_q, reading, labels, weight=objective.cross_entropy_weight)
    return value, torch.where(labels >= 0, -reading.label_logprob, 0)


def _divergence(
    logits: Tensor,
    rows: Rows,
    job: Job,
    reading: student.StudentRows,
    *,
    q: Tensor,
    log_q: Tensor,
    more: list[Tensor],
) -> Tensor:
    """Return the divergence from the pooled teachers; its gradient goes to ``log_q``."""
    objective = job.objective
    _pool(logits, rows, job, reading, q=q, log_q=log_q)
    # The chain rule takes one 1/T of the T^2.
    weight = objective.divergence_weight / objective.temperature
    return gradient.of(objective, reading, q, log_q, weight=weight, more=more)


def _pool(logits: Tensor, rows: Rows, job: Job, reading: student.StudentRows, *, q: Tensor, log_q: Tensor) -> None:
    """Fill ``q`` and ``log_q`` with the pooled teachers."""
    if job.objective.pool == "log_linear":
        log_q.copy_(_log_space(logits, rows, job))
        torch.exp(log_q, out=q)
        return
    q.zero_()
    weights = job.log_weights.index_select(1, rows.index).to(q.dtype)
    lost = torch.zeros(len(rows), dtype=torch.bool, device=q.device)
    temperature = job.objective.temperature
    for teacher, log_weight in zip(job.teachers, weights, strict=True):
        here = rows.take(teacher, like=q)
        if isinstance(here, Dense | Logits):
            mixture.add_dense(q, here, log_weight, temperature=temperature, work=log_q)
        else:
            lost |= mixture.add_topk(q, here, log_weight, reading, temperature=temperature, tail=job.objective.tail)
    tiny = torch.finfo(q.dtype).tiny
    if gradient.feels_underflow(job.objective) and bool(q.amin() < tiny):
        # A shared mask leaves zeros in every row; they matter where the student has mass.
        lost |= (q < tiny).mul(reading.probs).sum(dim=-1) > _LOST
    torch.clamp(q, min=tiny, out=log_q).log_()
    again = lost.nonzero().squeeze(1)
    if len(again) > 0:
        part = Rows(rows.index[again], None, rows.n_positions)
        exact = _log_space(logits.index_select(0, again), part, job)
        log_q.index_copy_(0, again, exact)
        q.index_copy_(0, again, exact.exp())


def _log_space(logits: Tensor, rows: Rows, job: Job) -> Tensor:
    """Return the pooled log-probabilities without underflow, by the plain functions."""
    plain = numerics.log_softmax(logits)
    each = (
        target.softened(
            rows.take(teacher, like=plain), plain, temperature=job.objective.temperature, tail=job.objective.tail
        )
        for teacher in job.teachers
    )
    return target.pooled(each, job.log_weights.index_select(1, rows.index).to(plain.dtype), pool=job.objective.pool)
