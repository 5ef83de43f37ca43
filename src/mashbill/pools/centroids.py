"""Bregman centroids: the distribution whose summed Bregman divergence to the teachers is least.

``D(p, q) = phi(p) - phi(q) - <grad phi(q), p - q>`` is not symmetric, so there are two centroids:

* right, ``argmin_q sum_k w_k D(p_k, q)``: the weighted mean, whatever ``phi`` is (Banerjee et al.);
* left, ``argmin_q sum_k w_k D(q, p_k)`` on the simplex: ``grad phi(q) = sum_k w_k grad phi(p_k) + multiplier``.

==================  ====================  ===========================  ====================================
``divergence``      ``phi``               ``D(p, q)``                  left centroid
==================  ====================  ===========================  ====================================
``negentropy``      ``sum p log p``       ``KL(p || q)``               geometric mean, normalised
``euclid``          ``sum p^2 / 2``       ``|p - q|^2 / 2``            weighted mean; the multiplier is 0
``itakura_saito``   ``-sum log p``        ``sum (p/q - log p/q - 1)``  ``1/q = sum_k w_k/p_k + multiplier``
==================  ====================  ===========================  ====================================
"""

from typing import Any, Literal

import torch
from torch.autograd.function import FunctionCtx

from mashbill import numerics
from mashbill.pools.arithmetic import linear
from mashbill.pools.geometric import log_linear
from mashbill.pools.precision import widest
from mashbill.shapes import Bool, Float, Tensor

Potential = Literal["negentropy", "itakura_saito", "euclid"]
Side = Literal["left", "right"]

_STEPS = 16  # twice what any of 10^4 problems over 20 orders of magnitude needed for the last digit
_STEEPEST = 1e30  # a gradient beyond this is a jump; it must not become inf * 0


def bregman(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "K *#batch"],
    *,
    divergence: Potential,
    side: Side = "left",
    log_counts: Float[Tensor, "*#batch V"] | None = None,
) -> Float[Tensor, "*batch V"]:
    """Bregman centroid of the teachers: ``argmin_q sum_k w_k D(q, p_k)`` (left) or ``argmin_q sum_k w_k D(p_k, q)``.

    The right centroid is :func:`linear` for every divergence, the left one :func:`log_linear` for ``negentropy`` and
    :func:`linear` for ``euclid``. For ``itakura_saito`` the left one is ``1/q = sum_k w_k/p_k + multiplier``; see
    Zeros there. Its multiplier is the root of an increasing concave function, reached by Newton's method from the left
    in a fixed number of steps, to machine precision; the gradient is that of the root, not of the steps.

    Zeros (``itakura_saito``, left): a zero under a teacher with weight is a veto. If the teachers leave no common
    entry, the entries vetoed with the least weight remain, and of the teachers only those that allow an entry speak
    about it: the limit of equally small probabilities.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.
        divergence: ``"negentropy"``, ``"itakura_saito"`` or ``"euclid"``.
        side: Which argument of the divergence the centroid is.
        log_counts: Log of how many vocabulary entries each column stands for; one each by default.

    Returns:
        Log-probabilities in nats, normalised over ``V``; float32 at least.

    Raises:
        ValueError: An unknown ``divergence`` or ``side``.

    Source:
        Banerjee, Merugu, Dhillon & Ghosh, *Clustering with Bregman Divergences*, JMLR 6, 2005; Nielsen & Nock,
        *Sided and Symmetrized Bregman Centroids*, IEEE Trans. Inf. Theory 55(6), 2009; here on the simplex.

    >>> teachers = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    >>> even = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    >>> bregman(teachers, even, divergence="itakura_saito", side="left").exp().round(decimals=6).tolist()
    [0.689898, 0.155051, 0.155051]
    """
    if divergence not in ("negentropy", "itakura_saito", "euclid"):
        raise ValueError(f"divergence={divergence!r} must be 'negentropy', 'itakura_saito' or 'euclid'")
    if side not in ("left", "right"):
        raise ValueError(f"side={side!r} must be 'left' or 'right': which argument of the divergence the centroid is")
    if side == "right" or divergence == "euclid":
        return linear(logprobs, log_weights, log_counts=log_counts)
    if divergence == "negentropy":
        return log_linear(logprobs, log_weights, log_counts=log_counts)
    return _itakura_saito(logprobs, log_weights, log_counts).to(numerics.reduction_dtype(logprobs.dtype))


def _itakura_saito(logprobs: Tensor, log_weights: Tensor, log_counts: Tensor | None) -> Tensor:
    # A solved multiplier is only as good as its terms, and 1/p spans more than float32 holds.
    inside = widest(logprobs)
    wide, log_w = logprobs.to(inside), log_weights.to(inside).unsqueeze(-1)
    zero, absent = wide <= numerics.LOG_ZERO, log_w <= numerics.LOG_ZERO
    counts = torch.ones_like(wide[0]) if log_counts is None else log_counts.to(inside).exp().expand_as(wide[0])
    with torch.no_grad():
        tie = 4 * len(logprobs) * torch.finfo(log_weights.dtype).eps
        vetoed = torch.where(zero & ~absent, log_w.exp(), 0).sum(dim=0).masked_fill(counts <= 0, torch.inf)
        out = vetoed > vetoed.amin(dim=-1, keepdim=True) + tie
    # An entry that is out takes no value from the sum, but the sum must stay finite for autograd.
    terms = (log_w - wide).masked_fill(zero | absent, -torch.inf).masked_fill(out, 0)
    log_q = _Reciprocal.apply(terms.logsumexp(dim=0), counts, out)
    assert isinstance(log_q, Tensor)
    return log_q


class _Reciprocal(torch.autograd.Function):
    """``log q`` with ``1/q = a + multiplier`` and ``sum_v n_v q_v = 1``, from ``log a``.

    With ``c = a q`` the root's gradient is ``d log q = -c dl + q <n q c dl> / <n q q>``, where ``l = log a``.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        log_a: Float[Tensor, "*batch V"],
        counts: Float[Tensor, "*batch V"],
        out: Bool[Tensor, "*batch V"],
    ) -> Float[Tensor, "*batch V"]:
        given = log_a  # saved as it came in: a second derivative goes through it
        log_a = log_a.masked_fill(out, torch.inf)
        least = log_a.amin(dim=-1, keepdim=True)
        # Relative to the least a, so that nothing large cancels: 1/q = s + u with u >= 0 and 1 <= s <= sum n.
        log_u = log_a + (-torch.expm1(least - log_a)).log()
        u = log_u.exp()
        s = torch.ones_like(least)
        for _ in range(_STEPS):
            # The harmonic 1 / sum n/(s + u) is increasing and concave in s: tangents from the left never overshoot,
            # and if all u are 0 the first one is exact.
            terms = counts / (s + u)
            total, slope = terms.sum(dim=-1, keepdim=True), (terms / (s + u)).sum(dim=-1, keepdim=True)
            s = s + (total - 1) * total / slope
        log_q = -torch.logaddexp(s.log(), log_u)
        log_q = log_q - (counts.log() + log_q).logsumexp(dim=-1, keepdim=True)
        log_q = log_q.clamp_min(numerics.LOG_ZERO)
        ctx.save_for_backward(given, counts, out, log_q)
        return log_q

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Tensor, None, None]:
        log_a, counts, out, log_q = ctx.saved_tensors
        q = log_q.exp()
        c = (log_a + log_q).exp().clamp(max=_STEEPEST).masked_fill(out, 0)
        spread = (outer[0] * q).sum(dim=-1, keepdim=True) / (counts * q * q).sum(dim=-1, keepdim=True)
        return c * (counts * q * spread - outer[0]), None, None
