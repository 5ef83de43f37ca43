"""What can be said of a student's safety: dilution, the mixture's floor, the student's gap, and shift.

``S`` is a safety measure of a distribution, in ``[0, 1]``. *Concave* ones give a mixture at least what its teachers get
on average (Brier, log-probability); accuracy of the argmax is not concave, nor is a convex function of ``p(y)``.
"""

import math
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.weights.shares import Number


def expected_safety(critical_share: Number, critical_safety: Number) -> float:
    """Return the safety of Definition VIII.3, which counts every row that is not critical as 1.

    ``(1 - s) + s f``: never below ``1 - s``, however unsafe.

    Args:
        critical_share: ``s``, how often a row is critical.
        critical_safety: ``f``, mean safety on those rows: what the scorecard reports.

    Source:
        arXiv 2601.17910, Definition VIII.3.

    >>> expected_safety(0.01, 0.0)
    0.99
    """
    for name, value in (("critical_share", critical_share), ("critical_safety", critical_safety)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r} must be a probability, between 0 and 1")
    return 1 - critical_share + critical_share * critical_safety


def brier_safety(probabilities: Float[Tensor, "*batch V"], labels: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return ``1 - |p - onehot(y)|^2 / 2``: a concave safety measure, 2-Lipschitz in total variation.

    Args:
        probabilities: Of the entries.
        labels: The right entry.
    """
    right = torch.nn.functional.one_hot(labels.long(), probabilities.shape[-1]).to(probabilities.dtype)
    return 1 - (probabilities - right).square().sum(dim=-1) / 2


def mixture_floor(weights: Float[Tensor, "K *batch"], safety: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch"]:
    """Return ``sum_k w_k S(p_k)``: a lower bound of the linear pool's safety for every concave ``S``.

    With weights in the order of ``S`` it is at least the plain mean of the teachers (Chebyshev's sum inequality).

    Args:
        weights: Probabilities over the first axis.
        safety: ``S(p_k)``.

    Source:
        arXiv 2601.17910, Corollary VIII.7: what its Jensen argument shows, of the mixture and not of the student.
    """
    return (weights * safety).sum(dim=0)


def student_floor(floor: Number, *, lipschitz: Number, kl: Number) -> float:
    """Lower bound of the student's safety: ``floor - Lip sqrt(KL(q || p_S) / 2)``, by Pinsker's inequality.

    Args:
        floor: A lower bound of the mixture's safety, such as the mean of :func:`mixture_floor`.
        lipschitz: Constant of ``S`` in total variation; 2 for :func:`brier_safety`, 1 for ``p(y)``.
        kl: Mean ``KL(q || p_S)`` in nats over the rows in question; its root's mean is no larger than the root of it.

    Source:
        Replaces arXiv 2601.17910, Corollary VIII.7, which takes student and mixture to be equal.
    """
    if not (lipschitz >= 0 and kl >= 0):
        raise ValueError(f"lipschitz={lipschitz!r} and kl={kl!r} must not be negative")
    return floor - lipschitz * math.sqrt(kl / 2)


def shift_factor(trained: Float[Tensor, " D"], deployed: Float[Tensor, " D"]) -> float:
    """Largest factor by which a mean of nonnegative losses can grow under another mix of contexts.

    ``max_d deployed_d / trained_d``; infinite if a context is deployed that was not trained.

    Args:
        trained: Share of each context in training.
        deployed: Share in deployment.

    >>> round(shift_factor(torch.tensor([0.95, 0.05]), torch.tensor([0.4, 0.6])), 3)
    12.0
    """
    used = deployed > 0
    return float((deployed[used].double() / trained[used].double()).max())


def unsafe_mass_bound(masses: Float[Tensor, "K *batch"], *, w_max: Number) -> Float[Tensor, "*batch"]:
    """Bound of the mass that a linear pool gives to unsafe entries: ``w_max p_j(U) + (1 - w_max) max_(k != j) p_k(U)``.

    ``j`` is the worst teacher. Other pools may even exceed ``p_j(U)``.

    Args:
        masses: ``p_k(U)`` of each teacher; at least two.
        w_max: Largest weight.
    """
    worst, second = masses.topk(2, dim=0).values
    return w_max * worst + (1 - w_max) * second


@dataclass(frozen=True)
class ConstrainedTarget:
    """The target nearest to a given one that gives a set of entries enough mass.

    Attributes:
        probabilities: The new target.
        multiplier: ``mu*``, what one unit of required mass costs, nats; 0 where the constraint does not bind.
        divergence: ``KL(target || new)``: the loss that the constraint costs, nats.
    """

    probabilities: Float[Tensor, "*batch V"]
    multiplier: Float[Tensor, "*batch"]
    divergence: Float[Tensor, "*batch"]


def constrained_target(
    target: Float[Tensor, "*batch V"], *, entries: Bool[Tensor, " V"], minimum: Number
) -> ConstrainedTarget:
    """Solve safety-constrained distillation for a student that can be anything: min ``KL(t || p)``, ``p(U) >= s``.

    Closed form: where it binds, ``p = t s / t(U)`` on ``U`` and ``t (1-s) / (1 - t(U))`` elsewhere, with multiplier
    ``(1 - t(U))/(1-s) - t(U)/s``.

    Args:
        target: Positive probabilities.
        entries: The set ``U``, neither empty nor everything.
        minimum: ``s``, inside (0, 1): at 1 the problem has no multiplier (Theorem VIII.6 needs Slater's condition).

    Raises:
        ValueError: ``minimum`` is not inside (0, 1).

    Source:
        arXiv 2601.17910, Definition VIII.4 and Theorem VIII.6.

    >>> found = constrained_target(torch.tensor([0.3, 0.7]), entries=torch.tensor([True, False]), minimum=0.5)
    >>> found.probabilities.tolist(), round(float(found.multiplier), 4)
    ([0.5, 0.5], 0.8)
    """
    if not 0 < minimum < 1:
        raise ValueError(f"minimum={minimum!r} must be above 0 and below 1; at 1 no multiplier exists")
    wide = numerics.widen(target)
    mass = (wide * entries).sum(dim=-1, keepdim=True)
    wanted = mass.clamp_min(minimum)
    new = wide * torch.where(entries, wanted / mass, (1 - wanted) / (1 - mass))
    multiplier = ((1 - mass) / (1 - wanted) - mass / wanted).squeeze(-1)
    divergence = (wide * (numerics.log_of(wide) - numerics.log_of(new))).sum(dim=-1)
    return ConstrainedTarget(new, multiplier.clamp_min(0), divergence)
