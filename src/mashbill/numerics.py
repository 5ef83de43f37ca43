"""Numbers that every floor agrees on: the floor of a log-probability and the dtype of a reduction."""

import math

import torch

from mashbill.shapes import Float, Int, Tensor

LOG_ZERO = -1e4
"""Log-probability, in nats, that stands for zero. ``exp`` of it is 0 in every dtype, and it stays finite in sums and
gradients, where ``-inf`` turns a masked entry into NaN for all its neighbours."""
_DEPTH = 32
# Of how many values :func:`largest` looks at the maximum first.


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


def largest(values: Float[Tensor, "*batch N"], k: int) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """Return the ``k`` largest values, the largest first, and where they are, as ``values.topk(k)`` does.

    On a processor ``topk`` copies every value beside its place. The ``k`` largest lie in the ``k`` columns whose maxima
    are largest, so a pass that only looks for maxima leaves it a few thousand values to copy.
    """
    n, n_columns = values.shape[-1], values.shape[-1] // _DEPTH
    if values.device.type != "cpu" or n_columns < 4 * k:
        return values.topk(k, dim=-1)
    maxima = values[..., : _DEPTH * n_columns].unflatten(-1, (_DEPTH, n_columns)).amax(dim=-2)
    columns = maxima.topk(k, dim=-1).indices
    places = (columns.unsqueeze(-1) + n_columns * torch.arange(_DEPTH)).flatten(-2)
    rest = torch.arange(_DEPTH * n_columns, n).expand(*places.shape[:-1], -1)
    places = torch.cat([places, rest], dim=-1)
    found, slots = values.gather(-1, places).topk(k, dim=-1)
    return found, places.gather(-1, slots)


def log_of(probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Natural logarithm with ``log 0 = LOG_ZERO``; the gradient at 0 is 0, not infinite.

    Rounding may leave a probability a little below 0: that is 0. NaN stays NaN.
    """
    wide = widen(probabilities)
    return wide.clamp_min(torch.finfo(wide.dtype).tiny).log().masked_fill(wide <= 0, LOG_ZERO)


def entropy_ceiling(n: int) -> float:
    """Return ``ln n`` in nats, the entropy of ``n`` equal probabilities; 1.0 for ``n = 1`` so that it can divide."""
    return math.log(n) if n > 1 else 1.0
