"""Where student and teachers stand apart: measured now and then, at temperature 1, without gradient.

Not part of the loss and not differentiable; a few rows at a time, so that it never needs more memory than the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.losses import arguments, sums, target
from mashbill.losses.divergence import forward_kl
from mashbill.losses.objective import PoolName, Tail
from mashbill.losses.rows import Answers, Rows, counted, rows_at_once
from mashbill.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Diagnostics:
    """Distances at each position, in nats; 0 where masked.

    Attributes:
        kl_to_teacher: ``KL(p_k || p_S)``: what the student has yet to learn from each teacher.
        disagreement: ``sum_k w_k KL(p_k || q)``: how far the teachers are from their pool, hence from one another.
            Under the linear pool the weighted sum of ``kl_to_teacher`` is never below it.
        label_logprob: Log-probability of the label in the pool; NaN where masked or without a label.
    """

    kl_to_teacher: Float[Tensor, "K B T"]
    disagreement: Float[Tensor, "B T"]
    label_logprob: Float[Tensor, "B T"]


@torch.no_grad()
def diagnose(
    student_logits: Float[Tensor, "B T V"],
    teachers: Sequence[Answers],
    log_weights: Float[Tensor, "_ _ _"],
    *,
    mask: Bool[Tensor, "_ _"],
    labels: Int[Tensor, "_ _"] | None = None,
    pool: PoolName = "linear",
    tail: Tail = "student",
) -> Diagnostics:
    """Measure student, teachers and pool against one another; arguments as in the loss.

    Raises:
        ValueError: Sizes do not fit together, or weights do not sum to 1.
    """
    arguments.check(student_logits, teachers, log_weights, mask=mask, labels=labels)
    wide = numerics.reduction_dtype(student_logits.dtype)
    weights = sums.whole(log_weights, wide).expand(-1, *mask.shape).flatten(1).to(wide)
    kl_to_teacher = torch.zeros(mask.numel(), len(teachers), dtype=wide, device=student_logits.device)
    disagreement = kl_to_teacher.new_zeros(mask.numel())
    label_logprob = torch.full_like(disagreement, torch.nan)
    n_entries = student_logits.shape[-1]
    # Plain functions with a handful of temporaries each, hence fewer rows than the loss takes.
    for rows in counted(mask, n_each=max(1, rows_at_once(n_entries, student_logits.device) // 4)):
        here = weights.index_select(1, rows.index)
        student = numerics.log_softmax(rows.select(student_logits))
        mixture = target.pooled((_one(t, rows, student, tail) for t in teachers), here, pool=pool)
        apart = torch.zeros_like(mixture[:, 0])
        distances = []
        for teacher, log_weight in zip(teachers, here, strict=True):
            # Read a second time: keeping K of them would cost K chunks.
            logprobs = _one(teacher, rows, student, tail)
            distances.append(forward_kl(logprobs, student))
            apart += log_weight.exp() * forward_kl(logprobs, mixture)
        rows.store(torch.stack(distances, dim=-1), into=kl_to_teacher)
        rows.store(apart, into=disagreement)
        if labels is not None:
            rows.store(_label_logprob(mixture, rows.select(labels)), into=label_logprob)
    return Diagnostics(
        kl_to_teacher.T.reshape(-1, *mask.shape), disagreement.view(mask.shape), label_logprob.view(mask.shape)
    )


def _one(teacher: Answers, rows: Rows, student: Tensor, tail: Tail) -> Tensor:
    return target.softened(rows.take(teacher, like=student), student, temperature=1.0, tail=tail)


def _label_logprob(logprobs: Tensor, labels: Tensor) -> Tensor:
    found = logprobs.gather(-1, labels.clamp_min(0).long().unsqueeze(-1)).squeeze(-1)
    return torch.where(labels >= 0, found, torch.nan)
