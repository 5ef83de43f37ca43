"""The distillation loss on a GPU, by kernels written in Triton.

Each teacher and the student are read once for their norms; then all of them are read together, block by block, and
the gradient by the student's logits is written as the mixture comes. Nothing of size ``N V`` exists beside the inputs
and that gradient; top-k teachers are never spread out. The reverse KL and Jensen-Shannon divergence need their value
before their gradient and read everything a third time. Values and gradients are those of the reference up to
rounding, and the same bits every time.

Not covered, and refused: pools other than the linear one, float64, heads' products (``Projected``), teachers on another
device, gradients by the weights. Rows are a program each, so a few rows leave most of a GPU idle.
"""

import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits, Projected
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.losses import triton_topk
from mashbill.losses.chunked import refuse_second_derivative
from mashbill.losses.objective import LossOutput, Objective
from mashbill.losses.rows import rows_at_once
from mashbill.losses.triton_scope import require_covered, require_matrix, values_of
from mashbill.losses.weighing import Weighing
from mashbill.shapes import Bool, Float, Int, Tensor

READ_BLOCK = 2048  # entries a program works on together
MIX_BLOCK = 1024
N_FIELDS = 7  # of a record; see triton_language
READ_OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}
# Without a limit of its own, the assembler aims for more programs at a time and spills a few bytes for it.
MIX_OPTIONS = READ_OPTIONS | {"maxnreg": 128}


def is_available(device: torch.device) -> bool:
    """Whether the kernels can run there: Triton is installed, and it is an NVIDIA GPU or Triton's interpreter is on.

    >>> is_available(torch.device("meta"))
    False
    """
    could_run = (device.type == "cuda" and torch.version.hip is None) or (
        device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    )
    return could_run and _is_installed()


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None  # which looks through folders


def distillation_loss(
    student_logits: Float[Tensor, "B T V"],
    teachers: Sequence[Dense | Logits | Projected | TopK],
    weighing: Weighing,
    *,
    mask: Bool[Tensor, "B T"],
    labels: Int[Tensor, "B T"] | None,
    objective: Objective,
    in_place: bool = False,
) -> LossOutput:
    """Return the loss of :func:`mashbill.losses.distillation_loss`; a gradient reaches the logits only.

    Args:
        student_logits: As there; float32, bfloat16 or float16.
        teachers: As there, on the device of the logits, each in any of these dtypes.
        weighing: Weights, or a rule that is asked about all positions at once.
        mask: As there.
        labels: As there.
        objective: As there.
        in_place: Write the gradient over the logits, which nobody must read any more. They must want a gradient.

    Raises:
        ValueError: The kernels do not cover an argument; the message names it.
        ModuleNotFoundError: Triton is not installed.
    """
    require_covered(student_logits, teachers, objective)
    if weighing.n_kinds is not None:
        raise ValueError("log_weights by class have no GPU kernel; use impl='chunked'")
    n_each = rows_at_once(student_logits.shape[-1], student_logits.device)
    weights = weighing.settled(student_logits, teachers, labels, mask, n_each=n_each).detach()
    # In the order of the kernels: first what lies there in full, then what is listed.
    pairs = list(zip(teachers, weights, strict=True))
    pairs = [(one, w) for one, w in pairs if isinstance(one, Dense | Logits)] + [
        (one, w) for one, w in pairs if isinstance(one, TopK)
    ]
    ordered = torch.stack([weight for _, weight in pairs])
    job = _Job([one for one, _ in pairs], ordered, mask, labels, objective, in_place)
    return LossOutput(*_Loss.apply(student_logits, job))


def statistics(logits: Float[Tensor, "*batch V"], *, labels: Int[Tensor, "*batch"] | None = None) -> Statistics:
    """Compute the statistics of ``softmax(logits)`` in one pass, without gradient and without token classes.

    Equal to :func:`mashbill.distributions.measure_logits` up to rounding.

    Raises:
        ValueError: The dtype of ``logits`` is none of float32, bfloat16 and float16.
        ModuleNotFoundError: Triton is not installed.
    """
    require_matrix("logits", logits, logits.device)
    *batch, n_entries = logits.shape
    rows = logits.detach().reshape(-1, n_entries)
    out = torch.empty(5, len(rows), dtype=torch.float32, device=logits.device)
    wanted = None if labels is None else labels.reshape(-1).long().contiguous()
    kernels, grid = _kernels("triton_rows"), (len(rows),)
    with torch.cuda.device_of(logits):
        _ = len(rows) > 0 and kernels.measure_rows[grid](
            *(rows, 0, rows.stride(0), wanted, out, len(rows), len(rows), n_entries),
            HAS_LABELS=wanted is not None,
            BLOCK=_block(READ_BLOCK, n_entries),
            **READ_OPTIONS,
        )
    entropy, gini, margin, max_logprob, label_logprob = out.view(5, *batch)
    entropy = entropy.clamp_min(0)
    blank = entropy.new_zeros(*batch, 0)
    return Statistics(entropy, entropy, gini.clamp(0, 1), margin, max_logprob, label_logprob, blank)


@dataclass(frozen=True)
class _Job:
    """Everything but the logits; dense teachers stand before top-k teachers, in ``log_weights`` too."""

    teachers: Sequence[Dense | Logits | TopK]
    log_weights: Float[Tensor, "K N"]
    mask: Bool[Tensor, "B T"]
    labels: Int[Tensor, "B T"] | None
    objective: Objective
    in_place: bool


class _Loss(torch.autograd.Function):
    """Gradient in the forward pass; the backward pass only scales it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, job: _Job) -> tuple[Tensor, Tensor, Tensor]:
        with torch.cuda.device_of(logits):
            divergence, cross_entropy, grad = _launch(logits, job, wants_gradient=ctx.needs_input_grad[0])
        objective = job.objective
        total = objective.divergence_weight * divergence.sum() + objective.cross_entropy_weight * cross_entropy.sum()
        ctx.mark_non_differentiable(divergence, cross_entropy)
        ctx.set_materialize_grads(False)
        if grad is not None:
            ctx.save_for_backward(grad)
        ctx.in_place, ctx.is_spent = job.in_place, False
        return total, divergence, cross_entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, None]:
        refuse_second_derivative()
        return _scaled(ctx, grad_outputs[0])


@once_differentiable
def _scaled(ctx: Any, outer: Tensor | None) -> tuple[Tensor | None, None]:
    """Multiply the stored gradient, never in place: the graph may be kept and walked again."""
    if outer is None:
        return None, None
    (saved,) = ctx.saved_tensors
    if not ctx.in_place:
        return saved * outer, None
    if ctx.is_spent:
        raise RuntimeError("in_place=True lets backward run once: its gradient is scaled where it lies")
    ctx.is_spent = True
    # The factor is looked at where it is: nothing is moved if it is 1, and the device does not stop.
    kernels, n_entries = _kernels("triton_mix"), saved.shape[-1]
    with torch.cuda.device_of(saved):
        kernels.scale_rows[(saved.shape[:2].numel(),)](
            *(saved, *saved.stride()[:2], outer.float(), saved.shape[1], n_entries),
            BLOCK=_block(READ_BLOCK, n_entries),
            **READ_OPTIONS,
        )
    return saved, None


def _launch(logits: Tensor, job: _Job, *, wants_gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return divergence and cross-entropy ``[B T]`` and the gradient of the total, if it is wanted."""
    objective, device, n_entries = job.objective, logits.device, logits.shape[-1]
    logits = logits.detach()
    n_rows, n_positions = job.mask.numel(), job.mask.shape[1]
    dense = [values_of(one) for one in job.teachers if not isinstance(one, TopK)]
    packed = triton_topk.pack(
        [one for one in job.teachers if isinstance(one, TopK)], block=_block(MIX_BLOCK, n_entries), device=device
    )
    n_topk = len(packed.log_tails)
    divergence = torch.zeros(job.mask.shape, dtype=torch.float32, device=device)
    cross_entropy = torch.zeros_like(divergence)
    gradient = _blank_gradient(logits, job) if wants_gradient else None
    if n_rows > 0:
        counted = job.mask.contiguous().view(torch.uint8)
        records = _normalise(logits, job, counted, dense=dense, packed=packed)
        inv_temperature = 1 / objective.temperature
        rest = (0.0, 0.0) if objective.kind != "js" else (math.log(objective.beta), math.log1p(-objective.beta))
        target = logits if gradient is None else gradient
        some = dense or [logits]  # a launch takes no empty tuple
        _kernels("triton_mix").mix_rows[(n_rows,)](
            *(logits, *logits.stride()[:2], target, *target.stride()[:2], counted, _flat(job.labels)),
            *(divergence, cross_entropy, tuple(some)),
            *(tuple(one.stride(0) for one in some), tuple(one.stride(1) for one in some)),
            *(packed.ids, packed.logprobs, packed.starts, records, job.log_weights.float().contiguous()),
            *(n_rows, n_positions, n_entries, packed.n_slots),
            *(inv_temperature, objective.divergence_weight * inv_temperature, objective.cross_entropy_weight),
            *(float(objective.beta), *rest),
            KIND=objective.kind,
            N_DENSE=len(dense),
            N_TOPK=n_topk,
            HAS_LABELS=job.labels is not None,
            HAS_LABEL_WEIGHT=objective.cross_entropy > 0,
            WANTS_GRADIENT=wants_gradient,
            BLOCK=_block(MIX_BLOCK, n_entries),
            **MIX_OPTIONS,
        )
        if job.in_place and gradient is not None:
            torch.autograd.graph.increment_version(gradient)  # kernels write past PyTorch
    return divergence, cross_entropy, gradient


def _normalise(
    logits: Tensor, job: _Job, counted: Tensor, *, dense: Sequence[Tensor], packed: triton_topk.Packed
) -> Tensor:
    """Return the records ``[1 + K, F, N]``: the student's, the dense teachers', the top-k teachers'."""
    kernels = _kernels("triton_rows")
    n_rows, n_positions, n_entries = job.mask.numel(), job.mask.shape[1], logits.shape[-1]
    n_topk = len(packed.log_tails)
    inv_temperature = 1 / job.objective.temperature
    records = torch.empty(1 + len(job.teachers), N_FIELDS, n_rows, dtype=torch.float32, device=logits.device)
    for index, matrix in enumerate((logits, *dense)):
        kernels.normalise_rows[(n_rows,)](
            *(matrix, *matrix.stride()[:2], counted, records[index], packed.ids, packed.starts),
            *(n_rows, n_positions, n_entries, packed.n_slots, inv_temperature),
            IS_LOGPROB=index > 0 and isinstance(job.teachers[index - 1], Dense),
            IS_SOFT=inv_temperature != 1,
            N_TOPK=n_topk if index == 0 else 0,
            BLOCK=_block(MIX_BLOCK if n_topk > 0 and index == 0 else READ_BLOCK, n_entries),
            **READ_OPTIONS,
        )
    if n_topk > 0:
        kernels.complete_rows[(n_rows,)](
            *(logits, *logits.stride()[:2], counted, packed.ids, packed.logprobs, packed.log_tails, records),
            *(n_rows, n_positions, n_entries, len(dense), n_topk, packed.n_slots, inv_temperature),
            IS_SHAPED=job.objective.tail == "student",
            CHUNK=32,
            **MIX_OPTIONS,
        )
    return records


def _blank_gradient(logits: Tensor, job: _Job) -> Tensor:
    return logits if job.in_place else torch.empty_like(logits, memory_format=torch.contiguous_format)


def _block(most: int, n_entries: int) -> int:
    return min(most, max(16, 1 << (n_entries - 1).bit_length()))


def _flat(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else labels.flatten().long().contiguous()


def _kernels(name: str) -> Any:
    """Import a module of kernels, which needs Triton.

    Raises:
        ModuleNotFoundError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise ModuleNotFoundError("impl='triton' needs Triton: pip install 'mashbill[triton]', or use impl='auto'")
    return importlib.import_module(f"mashbill.losses.{name}")
