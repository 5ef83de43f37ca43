"""The distillation loss as it is written down, by autograd: slow, large, and right.

Holds ``K`` float32 distributions over ``V`` at every position. It alone gives the weights a gradient.
"""

from collections.abc import Sequence

import torch

from mashbill import numerics
from mashbill.losses import target
from mashbill.losses.objective import LossOutput, Objective
from mashbill.losses.rows import Answers, Rows
from mashbill.losses.weighing import Weighing
from mashbill.shapes import Bool, Float, Int, Tensor


def distillation_loss(
    student_logits: Float[Tensor, "B T V"],
    teachers: Sequence[Answers],
    weighing: Weighing,
    *,
    mask: Bool[Tensor, "B T"],
    labels: Int[Tensor, "B T"] | None,
    objective: Objective,
) -> LossOutput:
    """Return the loss of :func:`mashbill.losses.distillation_loss`; gradients reach logits and weights."""
    rows = Rows(mask.flatten().nonzero().squeeze(1), None, mask.shape[1])
    # Rows that do not count leave here: whatever they hold, even NaN, their gradient is zero.
    logits = numerics.widen(rows.select(student_logits))
    logprobs = numerics.log_softmax(logits)
    divergence = logprobs.new_zeros(len(logprobs))
    weights = weighing.settled(student_logits, teachers, labels, mask, n_each=max(1, len(logits)))
    if objective.reads_teachers:
        divergence = _divergence(
            logits,
            logprobs,
            rows,
            teachers,
            weights.index_select(-1, rows.index).to(logits.dtype),
            objective=objective,
            classes=weighing.classes,
        )
    cross_entropy = _cross_entropy(logprobs, None if labels is None else rows.select(labels))
    total = objective.divergence_weight * divergence.sum() + objective.cross_entropy_weight * cross_entropy.sum()
    return LossOutput(total, _spread(divergence, rows, mask), _spread(cross_entropy, rows, mask))


def _divergence(
    logits: Float[Tensor, "R V"],
    logprobs: Float[Tensor, "R V"],
    rows: Rows,
    teachers: Sequence[Answers],
    weights: Float[Tensor, "*classes K R"],
    *,
    objective: Objective,
    classes: Int[Tensor, " V"] | None,
) -> Float[Tensor, " R"]:
    with torch.no_grad():  # teachers are constants, here as elsewhere
        softened = [
            target.softened(
                rows.take(teacher, like=logits),
                logprobs.detach(),
                temperature=objective.temperature,
                tail=objective.tail,
            )
            for teacher in teachers
        ]
    mixture = target.pooled(softened, weights, pool=objective.pool, classes=classes)
    # Shifted before divided: what is rounded then is the distance to the largest entry, not the size of both.
    shifted = logits - logits.detach().amax(dim=-1, keepdim=True)
    return objective.distance(mixture, numerics.log_softmax(shifted / objective.temperature))


def _cross_entropy(logprobs: Float[Tensor, "R V"], labels: Int[Tensor, " R"] | None) -> Float[Tensor, " R"]:
    if labels is None:
        return logprobs.new_zeros(len(logprobs))
    found = logprobs.gather(-1, labels.clamp_min(0).long().unsqueeze(-1)).squeeze(-1)
    return torch.where(labels >= 0, -found, 0)


def _spread(values: Float[Tensor, " R"], rows: Rows, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    flat = values.new_zeros(mask.numel())
    return flat.index_copy(0, rows.index, values.detach()).view(mask.shape)
