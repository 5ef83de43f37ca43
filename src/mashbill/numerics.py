"""Numbers that every floor agrees on: the floor of a log-probability and the dtype of a reduction."""

import math

import torch

from mashbill.shapes import Float, Tensor

LOG_ZERO = -1e4
"""Log-probability, in nats, that stands for zero. ``exp`` of it is 0 in every dtype, and it stays finite in sums and
gradients, where ``-inf`` turns a masked entry into NaN for all its neighbours."""


def reduction_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which to reduce over ``V`` or ``K``: float64 stays, everything else becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``values`` in their reduction dtype; no copy if they already are."""
    return values.to(reduction_dtype(values.dtype))


def log_softmax(logits: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """Log-probabilities in nats from logits: reduced in float32 at least, floored at ``LOG_ZERO``.

    ``-inf`` logits (masked or padded entries) come out as ``LOG_ZERO``. A row without one finite logit, or with a
    NaN or ``+inf``, comes out as NaN: it has no distribution, and the caller names who sent it.

    Args:
        logits: Any real dtype.

    Returns:
        Same shape, float32 or float64.
    """
    wide = widen(logits)
    # The shift cancels in the result, so its gradient is zero and need not be computed.
    shifted = wide - wide.detach().amax(dim=-1, keepdim=True)
    log_norm = shifted.exp().sum(dim=-1, keepdim=True).log()
    return (shifted - log_norm).clamp_min(LOG_ZERO)


def log_of(probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Natural logarithm with ``log 0 = LOG_ZERO``; the gradient at 0 is 0, not infinite.

    Rounding may leave a probability a little below 0: that is 0. NaN stays NaN.
    """
    wide = widen(probabilities)
    return wide.clamp_min(torch.finfo(wide.dtype).tiny).log().masked_fill(wide <= 0, LOG_ZERO)


def entropy_ceiling(n: int) -> float:
    """Return ``ln n`` in nats, the entropy of ``n`` equal probabilities; 1.0 for ``n = 1`` so that it can divide."""
    return math.log(n) if n > 1 else 1.0
