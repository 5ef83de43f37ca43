"""Divergences between a target ``q`` and a student ``p_S``, position by position: the plain definitions.

All take log-probabilities in nats, finite (an impossible entry is ``LOG_ZERO``), and are differentiable in both
arguments. All are 0 for equal arguments and at least 0 otherwise, up to rounding: a value is a sum of terms of either
sign, and near 0 it may come out below by some units of ``eps`` nats, :func:`alpha_divergence` by ``1 / (alpha (1 -
alpha))`` times that. The fast path is held to these.

Four are families between or beside the KL divergences:

* :func:`js`: ``beta`` is the share of ``q`` in the middle; by name, 0 is the forward KL and 1 the reverse KL.
* :func:`skew_kl`: ``skew`` is the share of ``q`` beside the student; 0 is the forward KL, 1 would be 0 everywhere.
* :func:`reverse_skew_kl`: ``skew`` is the share of the student beside ``q``; 0 is the reverse KL.
* :func:`alpha_divergence`: ``alpha`` is the exponent of ``q``; 1 is the forward KL, 0 the reverse KL.
"""

import math

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor

NEAR = 0.1
"""Distance of ``beta`` from 0 and 1 below which a plain difference of logs would lose more than a digit."""

_MUCH = 30.0
# Log of a ratio whose exponential float32 holds.

TIE = 8.0
"""Rounding of a probability, in units of its last place, to which that of its logarithm adds twice its nats."""


def forward_kl(target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """``KL(q || p_S) = sum q (log q - log p_S)`` in nats: the student must cover what the target does.

    >>> p = torch.tensor([0.5, 0.5]).log()
    >>> forward_kl(p, p).item()
    0.0
    """
    return (target.exp() * (target - student)).sum(dim=-1)


def reverse_kl(target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """``KL(p_S || q) = sum p_S (log p_S - log q)`` in nats: the student must stay where the target is."""
    return forward_kl(student, target)


def js(
    target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"], *, beta: float = 0.5
) -> Float[Tensor, "*batch"]:
    """Generalised Jensen-Shannon divergence ``beta KL(q || m) + (1 - beta) KL(p_S || m)`` in nats.

    The middle is ``m = beta q + (1 - beta) p_S``. The ends are named as in TRL: ``beta = 0`` is the forward KL and
    ``beta = 1`` the reverse KL, the limits of ``JS / beta`` and ``JS / (1 - beta)``; between them the value is at
    most ``ln 2``.

    Raises:
        ValueError: ``beta`` is outside ``[0, 1]``.

    Source:
        Agarwal et al., arXiv:2306.13649, equation 3, with ``P`` the teacher.
    """
    check_beta(beta)
    if beta == 0:
        return forward_kl(target, student)
    if beta == 1:
        return reverse_kl(target, student)
    middle = torch.logaddexp(target + math.log(beta), student + math.log1p(-beta)).clamp_min(numerics.LOG_ZERO)
    of_target, of_student = forward_kl(target, middle), forward_kl(student, middle)
    # There the one is next to the middle, and a difference of their logs would lose digits like 1/beta.
    if beta < NEAR:
        of_student = -(student.exp() * _log_mixture(target - student, share=beta)).sum(dim=-1)
    elif 1 - beta < NEAR:
        of_target = -(target.exp() * _log_mixture(student - target, share=1 - beta)).sum(dim=-1)
    return beta * of_target + (1 - beta) * of_student


def _log_mixture(log_ratio: Float[Tensor, "*shape"], *, share: float) -> Float[Tensor, "*shape"]:
    """Return ``log(1 + share (r - 1))`` of ``log r``, exact however little ``share`` or the logarithm is."""
    by_little = torch.log1p(share * torch.expm1(log_ratio.clamp_max(_MUCH)))
    by_much = torch.logaddexp(log_ratio + math.log(share), torch.full_like(log_ratio, math.log1p(-share)))
    return torch.where(log_ratio < _MUCH, by_little, by_much)


def skew_kl(
    target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"], *, skew: float = 0.1
) -> Float[Tensor, "*batch"]:
    """Skew KL divergence ``KL(q || skew q + (1 - skew) p_S)`` in nats.

    At most ``-ln skew``, whatever the student misses.

    Raises:
        ValueError: ``skew`` is outside ``[0, 1)``.

    Source:
        Ko et al., *DistiLLM*, arXiv:2402.03898, their SKL with ``p`` the teacher; ``skew`` is their ``alpha``
        (``lam`` in their code), 0.1 by their choice. After Lee, *On the Effectiveness of the Skew Divergence for
        Statistical Language Analysis*, AISTATS 2001.
    """
    check_skew(skew)
    if skew == 0:
        return forward_kl(target, student)
    mixed = torch.logaddexp(target + math.log(skew), student + math.log1p(-skew)).clamp_min(numerics.LOG_ZERO)
    return forward_kl(target, mixed)


def reverse_skew_kl(
    target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"], *, skew: float = 0.1
) -> Float[Tensor, "*batch"]:
    """Skew reverse KL divergence ``KL(p_S || skew p_S + (1 - skew) q)`` in nats, at most ``-ln skew``.

    Raises:
        ValueError: ``skew`` is outside ``[0, 1)``.

    Source:
        Ko et al., *DistiLLM*, arXiv:2402.03898, their SRKL; see :func:`skew_kl`.
    """
    return skew_kl(student, target, skew=skew)


def alpha_divergence(
    target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"], *, alpha: float = 0.5
) -> Float[Tensor, "*batch"]:
    """Alpha-divergence ``(1 - sum q^alpha p_S^(1 - alpha)) / (alpha (1 - alpha))`` in nats.

    Its limits are the forward KL for ``alpha`` to 1 and the reverse KL for ``alpha`` to 0. At 1/2 it is ``4 (1 - sum
    sqrt(q p_S)) = 2 sum (sqrt q - sqrt p_S)^2``, four times the squared Hellinger distance. Between 0 and 1 it is at
    most ``1 / (alpha (1 - alpha))``, and this plain form loses digits in proportion to that bound. Orders outside
    ``[0, 1]`` are refused: they have no bound where one of the two is zero.

    Raises:
        ValueError: ``alpha`` is outside ``[0, 1]``.

    Source:
        Cichocki and Amari, *Families of Alpha- Beta- and Gamma-Divergences*, Entropy 12(6), 2010; Amari's
        older parameter is ``2 alpha - 1`` or its negative. The same as in :func:`mashbill.pools.pool_for`.
    """
    check_alpha(alpha)
    if alpha == 1:
        return forward_kl(target, student)
    if alpha == 0:
        return reverse_kl(target, student)
    # The 1 is written as a mean of both sums, so that no term is negative and rounding of the sums has no weight.
    overlap = (alpha * target + (1 - alpha) * student).exp()
    return (alpha * target.exp() + (1 - alpha) * student.exp() - overlap).sum(dim=-1) / (alpha * (1 - alpha))


def total_variation(target: Float[Tensor, "*batch V"], student: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Total variation distance ``sum |q - p_S| / 2``: a probability, not nats.

    Where ``q = p_S`` it has a corner; of the derivatives of ``|q - p_S|`` there, between -1 and 1, 0 is taken. It is
    taken as well where the two differ by less than rounding, ``p_S eps (8 - 2 log p_S)``, with ``eps`` that of the
    dtype: rounding would choose the sign.

    Source:
        Wen et al., *f-Divergence Minimization for Sequence-Level Knowledge Distillation*, arXiv:2307.15190.
    """
    of_student = student.exp()
    difference = target.exp() - of_student
    distance = difference.detach()
    slack = of_student.detach() * (TIE - 2 * student.detach()) * torch.finfo(student.dtype).eps
    # The sign of NaN is 0, but a distance that is no number has no gradient that is one.
    sign = torch.where(distance.abs() <= slack, 0, distance.sign()) + 0 * distance
    value = distance.abs().sum(dim=-1) / 2
    slope = (sign * (difference - distance)).sum(dim=-1) / 2
    return value + slope


def check_beta(beta: float) -> None:
    """Raise ``ValueError`` unless ``beta`` is one of :func:`js`."""
    if not 0 <= beta <= 1:
        raise ValueError(f"beta={beta!r} must lie in [0, 1]: 0 is the forward KL, 1 the reverse KL")


def check_skew(skew: float) -> None:
    """Raise ``ValueError`` unless ``skew`` is one of :func:`skew_kl`."""
    if not 0 <= skew < 1:
        raise ValueError(
            f"skew={skew!r} must lie in [0, 1): 0 is the KL divergence itself, and at 1 all students are equal"
        )


def check_alpha(alpha: float) -> None:
    """Raise ``ValueError`` unless ``alpha`` is one of :func:`alpha_divergence`."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha!r} must lie in [0, 1]: 1 is the forward KL, 0 the reverse KL")
