"""The distillation loss of a student that is given by its hidden states and its head: logits never exist in full.

For some rows at a time, as many as fit into a fixed amount of memory: one product for the student's scores, one for
those of each teacher that is given likewise, the loss over those scores with its gradient in their place, and two
products for the gradients by hidden states and head. So ``3 + K`` products of the head's size in all, and above the
inputs the head's own gradient and that fixed amount, whatever the number of positions, entries and teachers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits, Projected, narrow_product
from mashbill.distributions.topk import TopK
from mashbill.losses import chunked
from mashbill.losses.job import Job
from mashbill.losses.objective import LossOutput, Objective
from mashbill.losses.rows import Answers, Rows, counted
from mashbill.losses.weighing import Weighing
from mashbill.shapes import Bool, Int, Tensor

MEMORY = 72 * 2**20
"""Bytes for scores on the CPU; other devices take ``MEMORY_ELSEWHERE``, because small products leave them idle."""
MEMORY_ELSEWHERE = 2**30


@dataclass(frozen=True)
class _Job:
    """All but the tensors that get a gradient."""

    scale: float
    softcap: float | None
    teachers: Sequence[Answers]
    weighing: Weighing
    mask: Bool[Tensor, "B T"]
    labels: Int[Tensor, "B T"] | None
    objective: Objective
    native: bool


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
    job = _Job(student.scale, student.softcap, teachers, weighing, mask, labels, objective, native)
    return LossOutput(*_Loss.apply(student.hidden, student.weight, student.bias, job))


class _Loss(torch.autograd.Function):
    """Gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradients = _Gradients.blank(hidden, weight, bias, wanted=ctx.needs_input_grad)
        total, divergence, cross_entropy = _compute(
            Projected(hidden, weight, bias, job.scale, job.softcap), job, gradients
        )
        ctx.mark_non_differentiable(divergence, cross_entropy)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients.cast(hidden, weight, bias))
        return total, divergence, cross_entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
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
            return torch.zeros(like.shape, dtype=numerics.reduction_dtype(like.dtype), device=like.device)

        by_hidden = zeros(hidden, wanted[0])
        flat = None if by_hidden is None else by_hidden.view(-1, hidden.shape[-1])
        return cls(flat, zeros(weight, wanted[1]), zeros(bias, wanted[2]))

    @property
    def are_wanted(self) -> bool:
        return not (self.hidden is None and self.weight is None and self.bias is None)

    def cast(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor | None]:
        each = (None if self.hidden is None else self.hidden.view(hidden.shape), self.weight, self.bias)
        like = (hidden, weight, bias)
        return [None if g is None or of is None else g.to(of.dtype) for g, of in zip(each, like, strict=True)]

    def add(self, scores: Tensor, states: Tensor, weight: Tensor, rows: Rows) -> None:
        """Add what a chunk's gradient by its scores gives: two products of the head's size."""
        if self.hidden is not None:
            rows.store(narrow_product(scores, weight), into=self.hidden)
        if self.weight is not None:
            self.weight.addmm_(scores.T, states.to(scores.dtype))
        if self.bias is not None:
            self.bias.add_(scores.sum(dim=0))


def _compute(student: Projected, job: _Job, gradients: _Gradients) -> tuple[Tensor, Tensor, Tensor]:
    wide, device = numerics.reduction_dtype(student.hidden.dtype), student.hidden.device
    n_positions, n_entries, objective = job.mask.numel(), student.n_entries, job.objective
    divergence = torch.zeros(n_positions, dtype=wide, device=device)
    cross_entropy = torch.zeros_like(divergence)
    n_kept = 1 + sum(isinstance(one, Projected) for one in job.teachers) + (student.softcap is not None)
    memory = MEMORY if device.type == "cpu" else MEMORY_ELSEWHERE
    n_each = max(1, min(memory // (n_kept * n_entries * divergence.element_size()), n_positions))
    kept = torch.empty(n_kept, n_each, n_entries, dtype=wide, device=device)
    for rows in counted(job.mask, n_each=n_each):
        own, *others = kept[:, : len(rows)]
        states = rows.select(student.hidden)
        student.at(states, out=own)
        slope = None if student.softcap is None else _cap_slope(own, student.softcap, out=others.pop())
        part = Job(
            [_answers(one, rows, others, like=own) for one in job.teachers],
            job.weighing.part(rows),
            torch.ones(1, len(rows), dtype=torch.bool, device=device),
            None if job.labels is None else rows.select(job.labels).unsqueeze(0),
            objective,
            is_in_place=gradients.are_wanted,
            allows_native=job.native,
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


def _answers(teacher: Answers, rows: Rows, spare: list[Tensor], *, like: Tensor) -> Dense | Logits | TopK:
    """Return what a teacher says at some rows, as a batch of one row; scores go to the next of the spare buffers."""
    if isinstance(teacher, Projected):
        out = spare.pop()
        states = rows.select(teacher.hidden).to(out.device)
        return Logits(teacher.at(states, out=out).unsqueeze(0))
    here = rows.take(teacher, like=like)
    if isinstance(here, TopK):
        return TopK(here.ids[None], here.logprobs[None], here.log_tail[None], here.n_entries)
    return Dense(here.logprobs[None]) if isinstance(here, Dense) else Logits(here.values[None])


def _cap_slope(scores: Tensor, softcap: float, *, out: Tensor) -> Tensor:
    """Return the derivative of capped scores by those below the cap, ``1 - (z / c)^2``."""
    return torch.mul(scores, 1 / softcap, out=out).square_().neg_().add_(1)
