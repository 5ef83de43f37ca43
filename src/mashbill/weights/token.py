"""Rules at the token scale: how sure each teacher is of this position."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise


@dataclass(frozen=True)
class EntropySoftmax:
    """Trust the teacher that is surer of the position: ``w = softmax_k(-beta H_k / ln V)``.

    Certified, before any guard: range ``[1/(1+(K-1)e^beta), 1/(1+(K-1)e^-beta)]``, because ``H / ln V`` is in
    ``[0, 1]``; Lipschitz constant ``beta L_H(V) / (2 ln V)`` in the teachers' logits (sup norm), which is largest at
    ``V = 2`` (``0.323 beta``) and ``0.252 beta`` at ``V = 50257``. Entropy is not Lipschitz in probabilities.

    Attributes:
        beta: Log-odds between a teacher of no and a teacher of full uncertainty. Not negative.
        normalise: Divide entropies by ``ln V``. Without it ``beta`` is per nat, and range and constant depend on
            ``V``: nothing is certified.

    Raises:
        ValueError: ``beta`` is negative or not finite.

    Source:
        arXiv 2601.17910, Theorem V.2, family A (token scale); the division by ``ln V`` is ours.

    >>> round(EntropySoftmax(beta=2.0).declared(2).lowest, 4)
    0.1192
    """

    beta: Number = 1.0
    normalise: bool = True

    scale: ClassVar[Literal["token"]] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:  # also catches NaN
            raise ValueError(f"beta={self.beta!r} must be finite and not negative")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        per_unit = numerics.entropy_ceiling(evidence.n_entries) if self.normalise else 1.0
        entropy = evidence.statistics.entropy
        return log_normalise(-self.beta / per_unit * entropy.to(numerics.reduction_dtype(entropy.dtype)), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size."""
        source = "arXiv 2601.17910, Theorem V.2, family A: softmax of scores in a range of beta"
        if not self.normalise:
            return Declared(0.0, 1.0, None, "teacher logits, sup", source)
        low, high = softmax_range(self.beta, n_teachers)
        score = self.beta * entropy_lipschitz(2) / math.log(2)
        return Declared(low, high, score / 2, "teacher logits, sup", source, score_lipschitz=score)


@dataclass(frozen=True)
class InverseVariance:
    """Weigh teachers by the inverse of their Gini variance: ``w_k ~ (1 - sum p_k^2 + epsilon)^-exponent``.

    Certified, before any guard: the ratio of two weights is at most ``((1 + epsilon)/epsilon)^exponent``; Lipschitz
    constant ``exponent / (2 epsilon)`` in the teachers' probabilities (l1).

    Attributes:
        exponent: How steeply variance counts. Not negative.
        epsilon: Variance added to every teacher's, a probability. Positive.

    Raises:
        ValueError: An attribute is out of range.

    Source:
        arXiv 2601.17910, Theorem V.2, family B (token scale), with the Gini variance of the categorical distribution.

    >>> round(InverseVariance(epsilon=0.01).declared(2).lipschitz)
    50
    """

    exponent: Number = 1.0
    epsilon: Number = 1e-2

    scale: ClassVar[Literal["token"]] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"gini"})

    def __post_init__(self) -> None:
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"exponent={self.exponent!r} must be finite and not negative")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon={self.epsilon!r} must be positive: it bounds the weight of a certain teacher")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        gini = evidence.statistics.gini
        variance = gini.to(numerics.reduction_dtype(gini.dtype)) + self.epsilon
        return log_normalise(-self.exponent * variance.log(), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size."""
        low, high = softmax_range(self.exponent * math.log1p(1 / self.epsilon), n_teachers)
        score = self.exponent / self.epsilon
        source = "arXiv 2601.17910, Theorem V.2, family B: Gini is 1-Lipschitz in l1 and within [0, 1]"
        return Declared(low, high, score / 2, "teacher probabilities, l1", source, score_lipschitz=score)


def softmax_range(score_range: float, n_teachers: int) -> tuple[float, float]:
    """Return the least and largest softmax weight of ``K`` scores that differ by at most ``score_range``.

    ``[1/(1 + (K-1) e^R), 1/(1 + (K-1) e^-R)]``.

    >>> softmax_range(0.0, 4)
    (0.25, 0.25)
    """
    # e^-R first: it underflows to 0 where e^R would overflow.
    shrink = math.exp(-score_range)
    return shrink / (shrink + (n_teachers - 1)), 1 / (1 + (n_teachers - 1) * shrink)


def entropy_lipschitz(n_entries: int) -> float:
    """Return ``L_H(V) = max_a 2a(1-a) |ln(a(V-1)/(1-a))|``: entropy's Lipschitz constant in logits (sup norm), nats.

    The maximiser is a two-level distribution: one entry of probability ``a``, the others alike.

    >>> round(entropy_lipschitz(50257), 6)
    5.458119
    """
    if n_entries < 2:
        return 0.0
    log_others = math.log(n_entries - 1)

    def slope(logit: float) -> float:  # a = sigmoid(logit); log(a/(1-a)) = logit
        a = 1 / (1 + math.exp(-logit))
        return 2 * a * (1 - a) * abs(logit + log_others)

    low, high = -log_others, 40.0  # a from 1/V, where the slope is 0, to 1; one hump between
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if slope(left) < slope(right) else (low, right)
    return slope((low + high) / 2)
