"""Whether a competitor computes the same number, before its time means anything."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from harness.forms import Inputs, Shape, double, make, naive
from harness.variants import AbsentError, Variant, run

TOLERANCE = 1e-4
"""Largest relative error in float32 of value and gradient that still counts as the same number."""


@dataclass(frozen=True)
class Verdict:
    """What the check found.

    Attributes:
        status: ``same`` takes part; ``absent`` cannot; ``other`` computes something else, ``failed`` nothing at all.
        note: What was compared, or why the variant is left out.
        function: The loss, if it takes part.
        gradient_error: Relative, in the dtype that is timed, against float64 on the same rounded inputs.
    """

    status: str
    note: str
    function: Callable[[Inputs], Any] | None = None
    gradient_error: float | None = None


@dataclass(frozen=True)
class Truth:
    value: float
    spread: float
    gradients: list[torch.Tensor]


def truth_of(inputs: Inputs) -> Truth:
    """Compute value, gradients, and ``sum_k w_k KL(p_k || q)``, in float64 by autograd.

    The last is the constant by which K forward KLs exceed that of the mixture; for other divergences there is none.
    """
    wide = double(inputs)
    value = naive(wide)
    gradients = torch.autograd.grad(value, wide.leaves)
    with torch.no_grad():
        log_p = F.log_softmax(wide.scores(), dim=-1)
        each = torch.stack(list(wide.each_teacher(log_p)))
        weights = wide.log_weights.exp().unsqueeze(-1)
        q = (weights * each).sum(dim=0)
        spread = (weights * torch.xlogy(each, each / q)).sum() / wide.rows
    return Truth(value.item(), spread.item(), list(gradients))


def examine(variant: Variant, shape: Shape, *, divergence: str, device: str) -> Verdict:
    """Load one variant and compare it with the truth at a small size, in float32 and in the dtype that is timed."""
    try:
        function = variant.load()
    except AbsentError as reason:
        return Verdict("absent", str(reason))
    if variant.kind == "floor":
        return Verdict("same", "no loss: the least work", function)
    try:
        verdict = _compare(variant, function, shape.small(), divergence=divergence, device=device)
        if verdict.status == "same":
            error = _error(function, shape.small(shape.dtype), divergence=divergence, device=device)
            verdict = replace(verdict, gradient_error=error)
    except AbsentError as reason:
        return Verdict("absent", str(reason))
    except Exception as error:  # a competitor's trouble must not end everybody's run
        return Verdict("failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    if variant.compiled:
        # Otherwise the size that is timed would be compiled as one of several, which is slower.
        torch._dynamo.reset()
    gc.collect()
    return verdict


def _compare(
    variant: Variant, function: Callable[[Inputs], Any], shape: Shape, *, divergence: str, device: str
) -> Verdict:
    inputs = make(shape, divergence=divergence, device=device)
    truth = truth_of(inputs)
    value = function(inputs)
    found = torch.autograd.grad(value, inputs.leaves)
    several = variant.sums_teachers and shape.teachers > 1
    expected = truth.value + (truth.spread if several else 0)
    of_value = abs(value.item() - expected) / abs(expected)
    of_gradient = distance(found, truth.gradients)
    # A value that is not a number must count as wrong.
    if not (of_value <= TOLERANCE and of_gradient <= TOLERANCE):
        why = f"computes something else: value off by {of_value:.1e}, gradient by {of_gradient:.1e}"
        if several and divergence != "forward_kl":
            why += f"; {divergence} from each teacher is not {divergence} from their mixture"
        return Verdict("other", why)
    note = "gradient, and value up to the teachers' own spread" if several else "value and gradient"
    return Verdict("same", note, function)


def _error(function: Callable[[Inputs], Any], shape: Shape, *, divergence: str, device: str) -> float:
    inputs = make(shape, divergence=divergence, device=device)
    truth = truth_of(inputs)  # first: the loss may write over the student's logits
    return distance(run(function, inputs), truth.gradients)


def distance(found: Any, expected: list[torch.Tensor]) -> float:
    """Return the largest relative distance, in the Euclidean norm, of a gradient from the true one."""
    each = [float((one.double() - true).norm() / true.norm()) for one, true in zip(found, expected, strict=True)]
    # max() may drop a NaN.
    return float(torch.tensor(each).max())
