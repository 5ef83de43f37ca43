"""The distillation loss a few rows at a time, with its gradient computed on the way.

For each chunk of rows: the student's distribution once, the teachers added up one after the other in place, the
divergence and its gradient by logits. Memory above the inputs is the gradient, in the dtype of the logits, and a
handful of chunks a thread; never ``K`` distributions. The weights are constants here. Values and gradients are those of
the reference up to rounding, and the same bit for bit with any number of threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.losses import captured, compiled, parallel, topk, whole
from mashbill.losses.job import Job, Solve
from mashbill.losses.objective import LossOutput, Objective
from mashbill.losses.pages import in_large_pages
from mashbill.losses.rows import Answers, Rows, counted, rows_at_once
from mashbill.losses.weighing import Weighing
from mashbill.shapes import Bool, Float, Int, Tensor

_SLOTS = 2**18
# Of lists that are measured at a time: the numbers on the way then take some MiB.


def distillation_loss(
    student_logits: Float[Tensor, "B T V"],
    teachers: Sequence[Answers],
    weighing: Weighing,
    *,
    mask: Bool[Tensor, "B T"],
    labels: Int[Tensor, "B T"] | None,
    objective: Objective,
    in_place: bool = False,
    native: bool = True,
) -> LossOutput:
    """Return the loss of :func:`mashbill.losses.distillation_loss`; a gradient reaches the logits only.

    ``native`` allows the compiled loops where they can do it.
    """
    job = Job(teachers, weighing, mask, labels, objective, is_in_place=in_place, allows_native=native)
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
        refuse_second_derivative()
        return _scaled(ctx, grad_outputs[0])


def refuse_second_derivative() -> None:
    """Raise ``RuntimeError`` if the gradient is itself to be differentiated: the stored one would make it zero."""
    if torch.is_grad_enabled():
        raise RuntimeError("the loss has no second derivative (create_graph=True); use impl='reference'")


@once_differentiable
def _scaled(ctx: Any, outer: Tensor | None) -> tuple[Tensor | None, None]:
    """Multiply the stored gradient."""
    if outer is None:
        return None, None
    stored = ctx.saved_tensors  # once: under gradient checkpointing a second look is refused
    if not stored:
        taken, ctx.taken = ctx.taken, None
        if taken is None:
            raise RuntimeError("in_place=True keeps one gradient for one backward pass; use in_place=False for more")
        return taken if _is_one(outer) else taken.mul_(outer), None
    return scaled(stored, outer)[0], None


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
    wide = numerics.reduction_dtype(logits.dtype)
    divergence = torch.zeros(job.mask.numel(), dtype=wide, device=logits.device)
    cross_entropy = torch.zeros_like(divergence)
    grad = None
    if wants_gradient:
        grad = logits.detach() if job.is_in_place else _blank_gradient(logits, job.mask)
    job = _settled(logits, job)
    make, n_each = _way(logits, job)
    n_each = max(1, min(n_each, job.mask.numel()))

    def start() -> Callable[[Rows], None]:
        solve = make(logits, job, grad, n_each)

        def work(rows: Rows) -> None:
            distance, label_loss = solve(rows)
            rows.store(distance, into=divergence)
            rows.store(label_loss, into=cross_entropy)

        return work

    parallel.spread(list(counted(job.mask, n_each=n_each)), start, device=logits.device)
    if grad is not None and job.is_in_place:
        torch.autograd.graph.increment_version(grad)  # compiled loops write past PyTorch
        if not bool(job.mask.all()):
            grad.view(-1, logits.shape[-1])[~job.mask.flatten()] = 0
    each = divergence.view(job.mask.shape), cross_entropy.view(job.mask.shape)
    return total(divergence, cross_entropy, job.objective), *each, grad


def _settled(logits: Tensor, job: Job) -> Job:
    """Ask a rule about all lists first: they are small, and small operations wait for each other between threads."""
    weighing = job.weighing
    if weighing.rule is None or weighing.report is not None or not job.has_lists_alone:
        return job
    n_slots = sum(one.ids.shape[-1] for one in job.teachers if isinstance(one, TopK))
    n_each = max(1, _SLOTS // n_slots)
    given = weighing.settled(logits, job.teachers, job.labels, job.mask, n_each=n_each)
    return replace(job, weighing=replace(weighing, given=given, rule=None))


def _way(logits: Tensor, job: Job) -> tuple[Callable[[Tensor, Job, Tensor | None, int], Solve], int]:
    """Choose who does the chunks, and how many rows at a time."""
    n_entries = logits.shape[-1]
    n_each = rows_at_once(n_entries, logits.device)
    if job.has_lists_alone:
        return captured.start, min(n_each * topk.N_CHUNKS, topk.rows_at_once(job.teachers))
    if job.is_compiled(logits):
        return compiled.start, compiled.rows_at_once(job, n_entries)
    return whole.start, whole.rows_at_once(job, n_each)


def total(divergence: Float[Tensor, " N"], cross_entropy: Float[Tensor, " N"], objective: Objective) -> Tensor:
    """Return the weighted sum, the same bit for bit with any number of threads."""
    found = objective.divergence_weight * _sum(divergence)
    # Short of a weight or of labels it is 0, and nothing to add up.
    return found + objective.cross_entropy_weight * _sum(cross_entropy) if objective.cross_entropy > 0 else found


def _sum(values: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Add up in an order that does not depend on the number of threads: each part by one of them."""
    if len(values) <= _PART:
        return values.sum()
    n_missing = -len(values) % _PART
    return torch.nn.functional.pad(values, (0, n_missing)).view(-1, _PART).sum(dim=1).sum()


_PART = 1024


def _blank_gradient(logits: Tensor, mask: Tensor) -> Tensor:
    blank = in_large_pages(torch.empty_like(logits, memory_format=torch.contiguous_format))
    # Clearing what is written in full anyway would be a pass over fresh memory, the slowest kind.
    return blank if bool(mask.all()) else blank.zero_()
