"""Divergences between a target ``q`` and a student ``p_S``, position by position: the plain definitions.

All take log-probabilities in nats, finite (an impossible entry is ``LOG_ZERO``), and are differentiable in both
arguments. All are 0 for equal arguments. The fast path is held to these.
"""

import math

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor


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
    if not 0 <= beta <= 1:
        raise ValueError(f"beta={beta!r} must lie in [0, 1]: 0 is the forward KL, 1 the reverse KL")
    if beta == 0:
        return forward_kl(target, student)
    if beta == 1:
        return reverse_kl(target, student)
    middle = torch.logaddexp(target + math.log(beta), student + math.log1p(-beta)).clamp_min(numerics.LOG_ZERO)
    return beta * forward_kl(target, middle) + (1 - beta) * forward_kl(student, middle)
