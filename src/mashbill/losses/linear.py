"""The distillation loss of a student that is given by its hidden states and its head: logits never exist in full.

For some rows at a time, as many as fit into a fixed amount of memory: one product for the student's scores, one for
those of each teacher that is given likewise, the loss over those scores with its gradient in their place, and two
products for the gradients by hidden states and head. So ``3 + K`` products of the head's size in all, and above the
inputs the head's own gradient and that fixed amount, whatever the number of positions, entries and teachers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits, Projected
from mashbill.distributions.topk import TopK
from mashbill.losses import chunked, gradient, mixture, native_rows, tiles
from mashbill.losses.job import Job
from mashbill.losses.objective import LossOutput, Objective
from mashbill.losses.pages import in_large_pages
from mashbill.losses.rows import Answers, Rows, counted, rows_at_once
from mashbill.losses.weighing import Weighing
from mashbill.shapes import Bool, Float, Int, Tensor

MEMORY = 84 * 2**20
"""Bytes for scores on the CPU; other devices take ``MEMORY_ELSEWHERE``, because small products leave them idle."""
MEMORY_ELSEWHERE = 2**30
_EVEN = 16  # Products of other numbers of rows are up to a fifth slower.
_AT_ONCE = 2**20  # Numbers to narrow at a time.


def distillation_loss(
    student: Projected,
    teachers: Sequence[Answers],
    weighing: Weighing,
    *,
    mask: Bool[Tensor, "B T"],
    labels: Int[Tensor, "B T"] | None,
    objective: Objective,
    native: bool = True,
) -> LossOutput:
    """Return the loss of :func:`mashbill.losses.distillation_loss`; gradients reach hidden states, head and bias."""
    job = Job(teachers, weighing, mask, labels, objective, is_in_place=False, allows_native=native)
    return LossOutput(*_Loss.apply(student.hidden, student.weight, student.bias, (student, job)))


class _Loss(torch.autograd.Function):
    """Gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: tuple[Projected, Job]
    ) -> tuple[Tensor, Tensor, Tensor]:
        student, job = call
        gradients = _Gradients.blank(hidden, weight, bias, wanted=ctx.needs_input_grad)
        total, divergence, cross_entropy = _compute(
            replace(student, hidden=hidden, weight=weight, bias=bias), job, gradients
        )
        ctx.mark_non_differentiable(divergence, cross_entropy)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients.cast(hidden, weight, bias))
        return total, divergence, cross_entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        chunked.refuse_second_derivative()
        return _scaled(ctx, grad_outputs[0])


@once_differentiable
def _scaled(ctx: Any, outer: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*chunked.scaled(ctx.saved_tensors, outer), None)


@dataclass(frozen=True)
class _Gradients:
    """Sums by hidden state, head and bias, in the reduction dtype; None where nobody asks.

    Attributes:
        hidden: ``[N D]``.
        weight: ``[V D]``.
        bias: ``[V]``.
    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def blank(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, *, wanted: Sequence[bool]) -> "_Gradients":
        def zeros(like: Tensor | None, is_wanted: bool) -> Tensor | None:
            if like is None or not is_wanted:
                return None
            wide = numerics.reduction_dtype(like.dtype)
            return in_large_pages(torch.empty(like.shape, dtype=wide, device=like.device)).zero_()

        by_hidden = zeros(hidden, wanted[0])
        flat = None if by_hidden is None else by_hidden.view(-1, hidden.shape[-1])
        return cls(flat, zeros(weight, wanted[1]), zeros(bias, wanted[2]))

    @property
    def are_wanted(self) -> bool:
        return not (self.hidden is None and self.weight is None and self.bias is None)

    def cast(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor | None]:
        each = (None if self.hidden is None else self.hidden.view(hidden.shape), self.weight, self.bias)
        like = (hidden, weight, bias)
        return [None if g is None or of is None else _narrowed(g, of.dtype) for g, of in zip(each, like, strict=True)]

    def add(self, scores: Tensor, states: Tensor, weight: Tensor, rows: Rows) -> None:
        """Add what a chunk's gradient by its scores gives: two products of the head's size."""
        narrow = scores
        if weight.dtype == torch.bfloat16:  # float16 would lose small gradients
            narrow = scores.to(torch.bfloat16)
        if self.hidden is not None:
            found = narrow.new_empty(len(rows), weight.shape[1])
            tiles.in_columns(found, lambda part: found[:, part].copy_(narrow @ weight[:, part].to(narrow.dtype)))
            rows.store(found, into=self.hidden)
        if self.weight is not None:
            total, states = self.weight, states.to(narrow.dtype)
            tiles.in_tiles(total, lambda tile: _add_product(total[tile], narrow[:, tile].T, states))
        if self.bias is not None:
            self.bias.add_(scores.sum(dim=0))


def _narrowed(total: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a sum in the dtype of its gradient, in the memory of the sum: a head is too large for a copy."""
    if total.dtype == dtype or total.numel() == 0:
        return total
    flat, narrow = total.view(-1), total.view(-1).view(dtype)[: total.numel()]
    for part in range(0, total.numel(), _AT_ONCE):
        here = slice(part, part + _AT_ONCE)
        narrow[here] = flat[here].to(dtype)  # Ahead of where it is written, all is still to be read.
    return narrow.view(total.shape)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _compute(student: Projected, job: Job, gradients: _Gradients) -> tuple[Tensor, Tensor, Tensor]:
    wide, device = numerics.reduction_dtype(student.hidden.dtype), student.hidden.device
    n_positions, n_entries, objective = job.mask.numel(), student.n_entries, job.objective
    divergence = torch.zeros(n_positions, dtype=wide, device=device)
    cross_entropy = torch.zeros_like(divergence)
    make = _pool_early if _pools_early(job) else _answer_apart
    dtypes = _dtypes(student, job, wide)
    memory = MEMORY if device.type == "cpu" else MEMORY_ELSEWHERE
    n_each = memory // (n_entries * sum(one.itemsize for one in dtypes))
    n_each = _even(max(1, n_each), int(job.mask.sum()))
    kept = [in_large_pages(torch.empty(n_each, n_entries, dtype=one, device=device)) for one in dtypes]
    for rows in counted(job.mask, n_each=n_each):
        scores, *others = (one[: len(rows)] for one in kept)
        slope = others.pop() if student.softcap is not None else None
        teachers, weighing = make(rows, job, scores, others, like=divergence)
        states = rows.select(student.hidden)
        own = tiles.scores(student, states, out=_as(scores, _dtype(student)))
        if slope is not None and student.softcap is not None:
            _cap_slope(own, student.softcap, out=slope)
        part = replace(
            job,
            teachers=teachers,
            weighing=weighing,
            mask=torch.ones(1, len(rows), dtype=torch.bool, device=device),
            labels=None if job.labels is None else rows.select(job.labels).unsqueeze(0),
            is_in_place=gradients.are_wanted,
        )
        _, distance, label_loss, _ = chunked.compute(own.unsqueeze(0), part, wants_gradient=gradients.are_wanted)
        rows.store(distance[0], into=divergence)
        rows.store(label_loss[0], into=cross_entropy)
        if gradients.are_wanted:
            if slope is not None:
                own.mul_(slope)
            gradients.add(own.mul_(student.scale) if student.scale != 1 else own, states, student.weight, rows)
    total = chunked.total(divergence, cross_entropy, objective)
    return total, divergence.view(job.mask.shape), cross_entropy.view(job.mask.shape)


def _even(most: int, n_rows: int) -> int:
    """Return how many rows to do at a time: where it can be, as many each time. Products of a few left are slow."""
    n_chunks = -(-n_rows // (most - most % _EVEN if most > _EVEN else most))
    n_each = -(-n_rows // max(1, n_chunks))
    return max(1, min(most, n_each + -n_each % _EVEN, n_rows))


def _pools_early(job: Job) -> bool:
    """Whether teachers can be added up one after the other, in one place: then more rows fit into the memory.

    Not if a rule must hear them all before any is weighed, nor where what underflows in a sum matters.
    """
    weighing, objective = job.weighing, job.objective
    return (
        len(job.teachers) > 1
        and not any(isinstance(one, TopK) for one in job.teachers)
        and not weighing.needs_statistics
        and weighing.n_kinds is None
        and objective.pool == "linear"
        and objective.reads_teachers
        and not gradient.feels_underflow(objective)
    )


def _dtypes(student: Projected, job: Job, wide: torch.dtype) -> list[torch.dtype]:
    """Return the dtypes of the buffers: the student's scores, then the pool or each teacher's scores, then a slope."""
    projected = [one for one in job.teachers if isinstance(one, Projected)]
    own, slope = _dtype(student), [wide] * (student.softcap is not None)
    if _pools_early(job):
        return [max([own, *map(_dtype, projected)], key=lambda one: one.itemsize), wide, *slope]
    return [own, *map(_dtype, projected), *slope]


def _dtype(projected: Projected) -> torch.dtype:
    """Return the dtype of the scores: that of the product, unless something is done to it afterwards."""
    is_bare = projected.bias is None and projected.scale == 1 and projected.softcap is None
    is_narrow = projected.hidden.dtype == projected.weight.dtype == torch.bfloat16
    # float16 has no room for what is done to logits of 1e5, nor for small gradients.
    return torch.bfloat16 if is_bare and is_narrow else numerics.reduction_dtype(projected.hidden.dtype)


def _as(buffer: Float[Tensor, "R V"], dtype: torch.dtype) -> Float[Tensor, "R V"]:
    """Return a buffer's memory as one of a dtype that takes no more room."""
    if buffer.dtype == dtype:
        return buffer
    return buffer.view(-1).view(dtype)[: buffer.numel()].view(buffer.shape)


def _pool_early(
    rows: Rows, job: Job, work: Tensor, spare: list[Tensor], *, like: Tensor
) -> tuple[list[Answers], Weighing]:
    """Return the pool of the softened teachers at some rows as the one teacher, and its weight."""
    (q,) = spare
    q.zero_()
    log_weights = job.weighing.at(rows, None, dtype=q.dtype)
    for teacher, log_weight in zip(job.teachers, log_weights, strict=True):
        here = _answer(teacher, rows, work, like=like)
        assert not isinstance(here, TopK), "lists are not pooled early"
        _add(q, here, log_weight, job)
    # Its log is softened once more by the loss, hence the factor, and normalised, hence the weight.
    tiles.in_rows(q, lambda: lambda part: q[part].log_().mul_(job.objective.temperature))
    return [Logits(q.unsqueeze(0))], Weighing(log_weights.logsumexp(dim=0, keepdim=True))


def _add(q: Tensor, teacher: Dense | Logits, log_weight: Float[Tensor, " R"], job: Job) -> None:
    """Add ``w softmax(z / T)`` of one teacher to ``q``."""
    values, weight = native_rows.values_of(teacher), log_weight.exp().unsqueeze(-1)
    pooling = replace(job.objective, divergence="forward_kl")  # that the loops have; here it is all the same
    compiled = job.allows_native and native_rows.covers(values, [teacher], None, pooling)

    def start() -> Callable[[slice], None]:
        if compiled:
            worker = native_rows.Worker(1, q.shape[-1], 1, pooling)
            return lambda part: worker.add(q[part], values[part], log_weight[part])
        work = torch.empty_like(q[: rows_at_once(q.shape[-1], q.device)])

        def add(part: slice) -> None:
            here, room = type(teacher)(values[part]), work[: len(q[part])]
            mixture.add_dense(q[part], here, weight[part], temperature=job.objective.temperature, work=room)

        return add

    tiles.in_rows(q, start)


def _answer_apart(
    rows: Rows, job: Job, work: Tensor, spare: list[Tensor], *, like: Tensor
) -> tuple[list[Answers], Weighing]:
    """Return what each teacher says at some rows, as a batch of one row, and their weighing."""
    teachers: list[Answers] = []
    for one in job.teachers:
        here = _answer(one, rows, spare.pop(0) if isinstance(one, Projected) else work, like=like)
        if isinstance(here, TopK):
            here = TopK(here.ids[None], here.logprobs[None], here.log_tail[None], here.n_entries)
        else:
            here = Dense(here.logprobs[None]) if isinstance(here, Dense) else Logits(here.values[None])
        teachers.append(here)
    return teachers, job.weighing.part(rows)


def _answer(teacher: Answers, rows: Rows, buffer: Tensor, *, like: Tensor) -> Dense | Logits | TopK:
    if isinstance(teacher, Projected):
        states = rows.select(teacher.hidden).to(buffer.device)
        return Logits(tiles.scores(teacher, states, out=_as(buffer, _dtype(teacher))))
    return rows.take(teacher, like=like)


def _cap_slope(scores: Tensor, softcap: float, *, out: Tensor) -> Tensor:
    """Return the derivative of capped scores by those below the cap, ``1 - (z / c)^2``."""
    return torch.mul(scores, 1 / softcap, out=out).square_().neg_().add_(1)
