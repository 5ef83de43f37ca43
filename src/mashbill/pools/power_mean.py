"""Normalised power means of the teachers, between and beyond the linear and the logarithmic pool."""

import math

import torch

from mashbill import numerics
from mashbill.pools.arithmetic import linear
from mashbill.pools.geometric import log_linear
from mashbill.shapes import Float, Tensor

_NEAR_ZERO = 1e-2  # below, log-sum-exp over r loses digits to the division by r: float64 inside


def power(
    logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "K *#batch"], *, r: float
) -> Float[Tensor, "*batch V"]:
    """Power mean ``(1/r) log sum_k w_k p_k^r - log Z``; ``r = 1`` is :func:`linear`, ``r = 0`` :func:`log_linear`.

    For ``0 <= r <= 1`` the pool's log-loss is at most the teachers' weighted one; outside it can be larger.

    Zeros: with ``r > 0`` an entry is possible if any teacher with weight finds it possible; with ``r < 0`` one zero is
    a veto, whatever the weight; a teacher of weight zero has no say.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.
        r: Exponent; 1/2 Hellinger, -1 harmonic.

    Returns:
        Log-probabilities in nats, normalised over ``V``; float32 at least.

    Raises:
        ValueError: ``r`` is not finite.

    Source:
        The minimiser of ``sum_k w_k D_r(p_k, q)`` for the alpha-divergence of order ``r``; Hardy, Littlewood & Pólya,
        *Inequalities*, 1934, for the mean.
    """
    if not math.isfinite(r):
        raise ValueError(f"r={r!r} must be finite; a large |r| approaches the largest or least teacher")
    if r == 1:
        return linear(logprobs, log_weights)
    if r == 0:
        return log_linear(logprobs, log_weights)
    dtype = numerics.reduction_dtype(logprobs.dtype)
    inside = torch.float64 if abs(r) < _NEAR_ZERO else dtype
    log_w = log_weights.to(inside).unsqueeze(-1)
    terms = r * logprobs.to(inside) + log_w
    # With r < 0 a zero of a teacher that is switched off would otherwise outweigh LOG_ZERO.
    mean = terms.masked_fill(log_w <= numerics.LOG_ZERO, -torch.inf).logsumexp(dim=0) / r
    return numerics.log_softmax(mean).to(dtype)
