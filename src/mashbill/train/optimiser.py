"""One move of the optimiser: gradients of all micro-batches added up, checked, clipped, applied."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from mashbill.errors import MashbillError, NumericError
from mashbill.shapes import Int, Tensor
from mashbill.train import recipe
from mashbill.train.step import Lesson, Outcome, explain_fault, step


def make_optimiser(module: nn.Module, train: recipe.Train) -> torch.optim.AdamW:
    """Return AdamW; weights with fewer than two axes (biases, norms) do not decay."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (train.adam_beta1, train.adam_beta2)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=train.learning_rate, betas=betas, fused=True
    )


def optimiser_step(
    lesson: Lesson,
    rows: Int[Tensor, " B"],
    optimiser: torch.optim.Optimizer,
    *,
    micro_batch: int,
    max_norm: float,
    watch: Callable[[Outcome, int], None] | None = None,
) -> tuple[Outcome, Tensor]:
    """Move the student once on ``rows``, in micro-batches whose gradients add up.

    Args:
        lesson: What a step needs.
        rows: All rows of the step.
        optimiser: Moves the student's parameters.
        micro_batch: Rows at a time.
        max_norm: Gradients beyond this norm are scaled down to it.
        watch: Is shown each micro-batch's outcome and the step's number of positions.

    Returns:
        The last micro-batch's outcome, and the gradient's norm before scaling.

    Raises:
        NumericError: Something is not finite. The parameters have not moved.
    """
    n_counted = int(lesson.corpus.n_counted[rows].sum())
    optimiser.zero_grad(set_to_none=True)
    parts = rows.split(micro_batch)
    faults, outcome = [], None
    for part in parts:
        outcome = step(lesson, part, n_counted=n_counted)
        outcome.total.backward()
        faults.append(outcome.is_faulty)
        if watch is not None:
            watch(outcome, n_counted)
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    # The one moment of a step at which the host waits for the device.
    if bool(torch.stack([*faults, ~norm.isfinite()]).any()):
        optimiser.zero_grad(set_to_none=True)
        raise _fault(lesson, parts, n_counted)
    optimiser.step()
    assert outcome is not None, "a step has at least one row"
    return outcome, norm


def _fault(lesson: Lesson, parts: Sequence[Tensor], n_counted: int) -> MashbillError:
    for part in parts:
        found = explain_fault(lesson, part, step(lesson, part, n_counted=n_counted))
        if found is not None:
            return found
    return NumericError(
        "the gradient is not finite, although the loss is",
        why="the optimiser has not moved; the last checkpoint is as it was",
        help="lower train.learning_rate, or turn train.bf16 off",
    )
