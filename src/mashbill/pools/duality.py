"""Which pool a loss against several teachers aims at.

Minimising ``sum_k w_k D(p_k, s)`` over students ``s`` is minimising against one pooled target, and the divergence
chooses the pool: the mixture for ``KL(p_k || s)``, the geometric mean for ``KL(s || p_k)``, a power mean between and
beyond. What the two losses differ by does not depend on the student, so it has no gradient; it does depend on the
weights, which matters where those are learned.
"""

from functools import partial
from typing import Literal

import torch

from mashbill import numerics
from mashbill.pools.arithmetic import linear
from mashbill.pools.centroids import bregman
from mashbill.pools.geometric import log_linear
from mashbill.pools.power_mean import power
from mashbill.pools.sparse import Pool
from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number

Divergence = Literal[
    "forward_kl", "reverse_kl", "alpha", "hellinger", "euclid", "itakura_saito", "reverse_itakura_saito"
]
_KNOWN = ("forward_kl", "reverse_kl", "alpha", "hellinger", "euclid", "itakura_saito", "reverse_itakura_saito")


def pool_for(divergence: Divergence, *, alpha: Number | None = None) -> Pool:
    """Return the pool that minimises ``sum_k w_k D(p_k, q)`` over all distributions ``q``.

    =========================  ==============================================  ==========================
    ``divergence``             ``D(p, q)``                                     pool
    =========================  ==============================================  ==========================
    ``forward_kl``             ``sum p log p/q``                               :func:`linear`
    ``reverse_kl``             ``sum q log q/p``                               :func:`log_linear`
    ``alpha``                  ``(1 - sum p^a q^(1-a)) / (a (1 - a))``         :func:`power` with ``r = a``
    ``hellinger``              ``sum (sqrt p - sqrt q)^2``                     :func:`power` with ``r = 1/2``
    ``euclid``                 ``sum (p - q)^2 / 2``                           :func:`linear`
    ``itakura_saito``          ``sum (p/q - log p/q - 1)``                     :func:`linear`
    ``reverse_itakura_saito``  ``sum (q/p - log q/p - 1)``                     :func:`bregman`, left
    =========================  ==============================================  ==========================

    The alpha-divergence of order 1 is forward KL, of order 0 reverse KL, of order 2 half of ``sum (p - q)^2 / q``, of
    order -1 half of ``sum (p - q)^2 / p``. Total variation and Jensen-Shannon have no pool in closed form.

    Args:
        divergence: One of the names above.
        alpha: The order, for ``"alpha"`` alone.

    Raises:
        ValueError: An unknown divergence, or ``alpha`` missing or out of place.

    Source:
        arXiv 2601.17910, Remark VI.8, which leaves the aggregator open; here from the gradient on the simplex, e.g.
        ``sum_k w_k p_k^a q^-a`` constant for ``alpha``.

    >>> pool_for("hellinger").keywords
    {'r': 0.5}
    """
    _check(divergence, alpha)
    if divergence == "alpha":
        assert alpha is not None, "checked above"
        return partial(power, r=alpha)
    pools: dict[str, Pool] = {
        "forward_kl": linear,
        "reverse_kl": log_linear,
        "hellinger": partial(power, r=0.5),
        "euclid": linear,
        "itakura_saito": linear,
        "reverse_itakura_saito": partial(bregman, divergence="itakura_saito", side="left"),
    }
    return pools[divergence]


def divergence_between(
    p: Float[Tensor, "*#batch V"],
    q: Float[Tensor, "*#batch V"],
    *,
    divergence: Divergence,
    alpha: Number | None = None,
) -> Float[Tensor, "..."]:
    """Return ``D(p, q)`` as :func:`pool_for` defines it; batch axes broadcast.

    Args:
        p: Log-probabilities in nats.
        q: Log-probabilities in nats.
        divergence: A name that :func:`pool_for` knows.
        alpha: The order, for ``"alpha"`` alone.

    Returns:
        Nats for the two KL; 0 if and only if ``p = q``. A zero that makes it infinite counts as ``LOG_ZERO``: large
        for KL, and infinite where a quotient overflows.

    Raises:
        ValueError: An unknown divergence, or ``alpha`` missing or out of place.
    """
    _check(divergence, alpha)
    log_p, log_q = numerics.widen(p), numerics.widen(q)
    match divergence:
        case "reverse_kl" | "reverse_itakura_saito":
            log_p, log_q = log_q, log_p
        case "hellinger":
            return ((log_p / 2).exp() - (log_q / 2).exp()).square().sum(dim=-1)
        case "euclid":
            return (log_p.exp() - log_q.exp()).square().sum(dim=-1) / 2
    if divergence.endswith("itakura_saito"):
        return (torch.expm1(log_p - log_q) - (log_p - log_q)).sum(dim=-1)
    if divergence == "alpha" and alpha not in (0, 1):
        assert alpha is not None, "checked above"
        return -torch.expm1((alpha * log_p + (1 - alpha) * log_q).logsumexp(dim=-1)) / (alpha * (1 - alpha))
    if alpha == 0:
        log_p, log_q = log_q, log_p
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def divergence_gap(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "K *#batch"],
    student: Float[Tensor, "*batch V"] | None = None,
    *,
    divergence: Divergence = "forward_kl",
    alpha: Number | None = None,
) -> Float[Tensor, "*batch"]:
    """``sum_k w_k D(p_k, s) - D(q, s)`` with ``q`` the pool for ``D``: what the loss against ``q`` leaves out.

    The same for every student ``s`` for KL either way and for every Bregman divergence: with ``forward_kl`` the
    generalised Jensen-Shannon divergence ``H(q) - sum_k w_k H(p_k)``, with ``reverse_kl`` ``-log sum_v prod_k
    p_k(v)^w_k``. For ``alpha`` other than 0 and 1 it is not constant; there ``sum_k w_k D(p_k, s) = Z^a D(q, s) +
    (1 - Z^a)/(a (1 - a))`` with ``Z`` the sum of the power mean, so the minimiser is ``q`` all the same.

    Args:
        logprobs: Teacher log-probabilities in nats.
        log_weights: Log-weights, normalised over ``K``.
        student: Log-probabilities in nats; the pool itself by default, which gives ``sum_k w_k D(p_k, q)``.
        divergence: A name that :func:`pool_for` knows.
        alpha: The order, for ``"alpha"`` alone.

    Raises:
        ValueError: An unknown divergence, or ``alpha`` missing or out of place.

    Source:
        arXiv 2601.17910, Remark VI.8; Lin, *Divergence Measures Based on the Shannon Entropy*, IEEE Trans. Inf. Theory
        37(1), 1991.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    >>> round(divergence_gap(teachers, torch.tensor([0.69, 0.31], dtype=torch.float64).log()).item(), 7)
    0.0808971
    """
    q = pool_for(divergence, alpha=alpha)(logprobs, log_weights)
    s = q if student is None else student
    each = divergence_between(logprobs, s.unsqueeze(0), divergence=divergence, alpha=alpha)
    weighted = (log_weights.to(each.dtype).exp() * each).sum(dim=0)
    return weighted if student is None else weighted - divergence_between(q, s, divergence=divergence, alpha=alpha)


def _check(divergence: str, alpha: Number | None) -> None:
    if divergence not in _KNOWN:
        raise ValueError(f"divergence={divergence!r} has no pool in closed form; there are {', '.join(_KNOWN)}")
    if (alpha is not None) != (divergence == "alpha"):
        raise ValueError(f"alpha={alpha!r} with divergence={divergence!r}: give the order with 'alpha', and only there")
