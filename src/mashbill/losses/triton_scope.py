"""What the GPU kernels of the loss cover, and the sentence for what they do not."""

from collections.abc import Sequence

import torch

from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits, Projected
from mashbill.distributions.topk import TopK
from mashbill.losses.objective import Objective
from mashbill.shapes import Float, Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = ("forward_kl", "reverse_kl", "js")
END = 0.01
"""Distance of ``beta`` from 0 and 1 below which float32 would lose more than two digits of the divergence."""


def covers(logits: Tensor, teachers: Sequence[Dense | Logits | Projected | TopK], objective: Objective) -> bool:
    """Whether the kernels cover a call; what they do not, :func:`require_covered` refuses by name."""
    try:
        require_covered(logits, teachers, objective)
    except ValueError:
        return False
    return True


def is_near_an_end(objective: Objective) -> bool:
    """Whether a Jensen-Shannon divergence is a difference of numbers so near each other that float32 cannot take it."""
    return objective.kind == "js" and min(objective.beta, 1 - objective.beta) < END


def require_covered(
    logits: Tensor, teachers: Sequence[Dense | Logits | Projected | TopK], objective: Objective
) -> None:
    """Raise ``ValueError`` for what the kernels do not cover."""
    if objective.kind not in KINDS:
        raise ValueError(f"divergence={objective.divergence!r} has no GPU kernel, only {', '.join(KINDS)} have")
    if is_near_an_end(objective):
        raise ValueError(f"beta={objective.beta!r} has no GPU kernel, only {END:g} to {1 - END:g} has")
    if objective.pool != "linear":
        raise ValueError(f"pool={objective.pool!r} has no GPU kernel, only 'linear' has")
    if not objective.reads_teachers:
        raise ValueError(f"cross_entropy={objective.cross_entropy!r} reads no teacher, and has no GPU kernel")
    require_matrix("student_logits", logits, logits.device)
    for k, one in enumerate(teachers):
        if isinstance(one, Projected):
            raise ValueError(f"teachers[{k}] is Projected, which has no GPU kernel; pass Logits")  # noqa: TRY004  # a choice, not a mistake
        if not isinstance(one, TopK):
            require_matrix(f"teachers[{k}]", values_of(one), logits.device)
        elif one.ids.device != logits.device:
            raise ValueError(f"teachers[{k}] is on {one.ids.device}, but the GPU kernels need it on {logits.device}")


def require_matrix(name: str, values: Tensor, device: torch.device) -> None:
    """Raise ``ValueError`` unless a kernel can read some scores where they lie."""
    if values.dtype not in DTYPES:
        raise ValueError(f"{name} is {values.dtype}, but the GPU kernels read float32, bfloat16 and float16")
    if values.device != device:
        raise ValueError(f"{name} is on {values.device}, but the GPU kernels need it on {device}")
    if values.stride(-1) != 1 and values.shape[-1] > 1:
        raise ValueError(f"{name} does not hold the entries of a position side by side; call .contiguous()")


def values_of(teacher: Dense | Logits) -> Float[Tensor, "B T V"]:
    """Return a teacher's scores, ``[B T V]``."""
    return (teacher.logprobs if isinstance(teacher, Dense) else teacher.values).detach()
