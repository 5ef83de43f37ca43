"""Normalised power means of the teachers, between and beyond the linear and the logarithmic pool."""

import math

import torch

from mashbill import numerics
from mashbill.forms import closed_form
from mashbill.pools.arithmetic import linear
from mashbill.pools.geometric import log_linear, normalise
from mashbill.pools.precision import widest
from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number

_NEAR_ZERO = 1e-2  # below, log-sum-exp over r loses digits to the division by r: float64 inside


@closed_form(mean="power", r=...)
def power(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "K *#batch"],
    *,
    r: Number,
    log_counts: Float[Tensor, "*#batch V"] | None = None,
) -> Float[Tensor, "*batch V"]:
    """Power mean ``(1/r) log sum_k w_k p_k^r - log Z``; ``r = 1`` is :func:`linear`, ``r = 0`` :func:`log_linear`.

    For ``0 <= r <= 1`` the pool's log-loss is at most the teachers' weighted one; outside it can be larger. For
    ``r >= 1`` no entry gets more than the largest teacher gives it, for ``r <= 1`` none less than the least: the means
    sum to at least, or at most, 1.

    Zeros: with ``r > 0`` an entry is possible if any teacher with weight finds it possible; with ``r < 0`` one zero is
    a veto, whatever the weight; a teacher of weight zero has no say. If the teachers leave no common entry, ``r < 0``
    shares out by ``z^(1/r)`` with ``z`` the weight that vetoed an entry: the limit of equally small probabilities.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.
        r: Exponent; 1/2 Hellinger, -1 harmonic.
        log_counts: Log of how many vocabulary entries each column stands for; one each by default.

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
        return linear(logprobs, log_weights, log_counts=log_counts)
    if r == 0:
        return log_linear(logprobs, log_weights, log_counts=log_counts)
    dtype = numerics.reduction_dtype(logprobs.dtype)
    inside = widest(logprobs) if abs(r) < _NEAR_ZERO else dtype
    log_w = log_weights.to(inside).unsqueeze(-1)
    terms = r * logprobs.to(inside) + log_w
    # With r < 0 a zero of a teacher that is switched off would otherwise outweigh LOG_ZERO.
    mean = terms.masked_fill(log_w <= numerics.LOG_ZERO, -torch.inf).logsumexp(dim=0) / r
    return normalise(mean, log_counts).to(dtype)


@closed_form(mean="power", r=-1.0)
def harmonic(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "K *#batch"],
    *,
    log_counts: Float[Tensor, "*#batch V"] | None = None,
) -> Float[Tensor, "*batch V"]:
    """Harmonic mean ``1 / sum_k w_k / p_k``, divided by its sum: :func:`power` with ``r = -1``.

    The minimiser of ``sum_k w_k chi2(q, p_k)`` with ``chi2(q, p) = sum (q - p)^2 / p``. One teacher's zero is a veto.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.
        log_counts: Log of how many vocabulary entries each column stands for; one each by default.

    Returns:
        Log-probabilities in nats, normalised over ``V``; float32 at least.

    >>> teachers = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    >>> harmonic(teachers, torch.tensor([0.5, 0.5], dtype=torch.float64).log()).exp().round(decimals=4).tolist()
    [0.6667, 0.1667, 0.1667]
    """
    return power(logprobs, log_weights, r=-1, log_counts=log_counts)
