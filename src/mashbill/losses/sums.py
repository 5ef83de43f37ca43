"""Whether the weights of the teachers sum to 1, and what is said if not."""

import math

import torch

from mashbill import numerics
from mashbill.shapes import Bool, Float, Tensor

SLACK = 1e-3
"""By how much a sum may be off: more than rounding in 32 bits leaves, and far less than a forgotten log."""


def off(log_weights: Float[Tensor, "..."], *, axis: int) -> Bool[Tensor, "..."] | None:
    """Return where weights do not sum to 1; None if they do, or if looking would stop a device. NaN is left to show."""
    if log_weights.device.type != "cpu" or log_weights.numel() == 0:
        return None
    n_teachers, rounding = log_weights.shape[axis], torch.finfo(log_weights.dtype).eps
    # Rounding moves each log by its size times eps / 2, so their sum by the entropy of the weights times that.
    slack = max(SLACK, rounding * (1 + math.log(n_teachers)))
    total = numerics.widen(log_weights.detach()).exp().sum(dim=axis)
    low, high = (float(one) for one in total.aminmax())
    if 1 - slack <= low and high <= 1 + slack:  # A rule is asked often, and this takes half as long as looking at each.
        return None
    where = (total - 1).abs() > slack
    return where if bool(where.any()) else None


def refuse(what: str, log_weights: Float[Tensor, " K"], *, axis: int) -> None:
    """Raise ``ValueError`` about ``what``, weights that are off, and say what was probably meant."""
    values = log_weights.detach().double()
    total = float(values.exp().sum())
    if total == 0:
        help = "leave a position that nobody teaches out by mask="
    elif bool((values >= 0).all()) and abs(float(values.sum()) - 1) < 0.01:
        help = "pass log_weights.log(), for these are probabilities"
    else:
        help = f"pass log_weights.log_softmax(dim={axis})"
    raise ValueError(f"{what} logs of weights that sum to {total:.6g} over the teachers, but must sum to 1; {help}")


def whole(log_weights: Float[Tensor, "..."], dtype: torch.dtype, *, axis: int = -3) -> Float[Tensor, "..."]:
    """Return weights in 16 bits normalised again in ``dtype``, over the axis of the teachers, and others as they are.

    What 16 bits round away is up to a per cent of a teacher, and from a mixture that lacks some mass a divergence
    can be negative.
    """
    return log_weights if log_weights.dtype.itemsize >= 4 else log_weights.log_softmax(dim=axis, dtype=dtype)
