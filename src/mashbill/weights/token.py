"""Rules at the token scale that read one teacher's own doubt: its entropy, or a variance.

Both are softmax rules: normalised, positive, bounded and continuous, but not ordered. An order of safety comes from
``product(..., order=...)`` or ``conform``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.distributions.samples import EntropyEstimate
from mashbill.shapes import Bool, Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise
from mashbill.weights.softmax import entropy_lipschitz, softmax_error, softmax_interval, softmax_range

Ends = tuple[Float[Tensor, "K *batch"], Float[Tensor, "K *batch"]]
"""Least and largest values, teacher by teacher."""


@dataclass(frozen=True)
class SampledWeights:
    """Weights from sampled entropies, and how far to trust them.

    Attributes:
        log_weights: Of the estimates.
        standard_error: Of the weights, to first order, from the spread of the reads; infinite for a single read.
        low: Least weight, with the confidence asked for, whatever the distributions.
        high: Largest weight, likewise.
    """

    log_weights: Float[Tensor, "K *batch"]
    standard_error: Float[Tensor, "K *batch"]
    low: Float[Tensor, "K *batch"]
    high: Float[Tensor, "K *batch"]


@dataclass(frozen=True)
class EntropySoftmax:
    """Trust the teacher that is surer of the position: ``w = softmax_k(-beta H_k / ln V)``.

    Certified, before any guard: range ``[1/(1+(K-1)e^beta), 1/(1+(K-1)e^-beta)]``, because ``H / ln V`` is in
    ``[0, 1]``; Lipschitz constant ``beta L_H(V) / (2 ln V)`` in the teachers' logits (sup norm), which is largest at
    ``V = 2`` (``0.323 beta``) and ``0.252 beta`` at ``V = 50257``. Entropy is not Lipschitz in probabilities: next to
    a certain teacher ``|dH| / |dp|_1`` grows without end, as ``ln(1/p)/2`` in the probability ``p`` of the rest.

    Where a teacher stored a top-k and nothing else, its entropy is only known to lie in an interval, and
    :meth:`weight_interval` carries that over to the weights, exactly. Cost: O(K) a position from statistics.

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
        require_beta(self.beta)

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        entropy = numerics.widen(evidence.statistics.entropy)
        return log_normalise(self._slope(evidence.n_entries) * entropy, dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size."""
        source = "arXiv 2601.17910, Theorem V.2, family A: softmax of scores in a range of beta"
        if not self.normalise:
            return Declared(0.0, 1.0, None, "teacher logits, sup", source)
        low, high = softmax_range(self.beta, n_teachers)
        score = entropy_score_lipschitz(self.beta)
        return Declared(low, high, score / 2, "teacher logits, sup", source, score_lipschitz=score)

    def interval(self, low: Float[Tensor, "K *batch"], high: Float[Tensor, "K *batch"], *, n_entries: int) -> Ends:
        """Return the least and largest weights when each entropy lies anywhere between its ends; both are attained.

        A weight moves by at most ``beta / (2 ln V)`` times the largest change of an entropy, so its interval is no
        wider than ``beta / (2 ln V)`` times the widest interval of an entropy.

        Args:
            low: Low ends of the entropies, in nats, as from ``distributions.entropy_interval``.
            high: High ends.
            n_entries: ``V``.

        >>> low, high = EntropySoftmax().interval(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]), n_entries=10)
        >>> [round(w, 4) for w in (*low.tolist(), *high.tolist())]
        [0.5, 0.3931, 0.6069, 0.5]
        """
        slope = self._slope(n_entries)
        return softmax_interval(slope * numerics.widen(high), slope * numerics.widen(low))

    def weight_interval(self, evidence: Evidence) -> Ends:
        """Return the least and largest weights ``[K B T]`` that the evidence allows.

        Equal where every teacher's entropy was measured on its full distribution.
        """
        statistics = evidence.statistics
        return self.interval(statistics.entropy_low, statistics.entropy, n_entries=evidence.n_entries)

    def sampled(self, estimate: EntropyEstimate, *, n_entries: int, confidence: float = 0.95) -> SampledWeights:
        """Return the weights of sampled entropies, with their standard error and a guaranteed interval.

        Each of the ``K`` entropies is allowed a ``K``-th of ``1 - confidence`` in Chebyshev's inequality, so at each
        position all ``K`` intervals hold at once with the confidence asked for.

        Args:
            estimate: From ``distributions.entropy_from_samples``, ``[K *batch]``; teachers sampled independently.
            n_entries: ``V``.
            confidence: Below 1.

        Raises:
            ValueError: ``confidence`` is not between 0 and 1.
        """
        slope, n_teachers = self._slope(n_entries), len(estimate.entropy)
        log_weights = log_normalise(slope * estimate.entropy.clamp(0, math.log(n_entries)), dim=0)
        ends = estimate.interval(n_entries=n_entries, confidence=1 - (1 - confidence) / n_teachers)
        error = softmax_error(log_weights, abs(slope) * estimate.standard_error)
        return SampledWeights(log_weights, error, *self.interval(*ends, n_entries=n_entries))

    def _slope(self, n_entries: int) -> float:
        return -self.beta / (numerics.entropy_ceiling(n_entries) if self.normalise else 1.0)


@dataclass(frozen=True)
class InverseVariance:
    """Weigh teachers by the inverse of a variance: ``w_k ~ (v_k + epsilon)^-exponent``.

    The variance is Gini's, ``1 - sum p_k^2``, or one that was measured by other means and is supplied with the
    evidence, ``[K B T]`` or one a row ``[K B 1]``: over samples, over dropout masks, or ``1 - PC@k`` over paraphrases
    (``distributions.paraphrase_consistency``). A supplied variance is cut to ``[0, v_max]``.

    Certified, before any guard: the ratio of two weights is at most ``((v_max + epsilon)/epsilon)^exponent``;
    Lipschitz constant ``exponent / (2 epsilon)`` in the teachers' probabilities (l1), in which Gini's variance is
    1-Lipschitz, or in the supplied variances (sup norm). Cost: O(K) a position.

    Attributes:
        exponent: How steeply variance counts. Not negative.
        epsilon: Variance added to every teacher's, in the variance's unit. Positive.
        source: ``"gini"`` or ``"supplied"``.
        v_max: Largest variance that is told from larger ones; 1 is right for every variance of a probability.

    Raises:
        ValueError: An attribute is out of range. In a call: the evidence has no variances.

    Source:
        arXiv 2601.17910, Theorem V.2, family B (token scale), with the Gini variance of the categorical distribution.

    >>> round(InverseVariance(epsilon=0.01).declared(2).lipschitz)
    50
    """

    exponent: Number = 1.0
    epsilon: Number = 1e-2
    source: Literal["gini", "supplied"] = "gini"
    v_max: Number = 1.0

    scale: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"exponent={self.exponent!r} must be finite and not negative")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon={self.epsilon!r} must be positive: it bounds the weight of a certain teacher")
        if self.source not in ("gini", "supplied"):
            raise ValueError(f"source={self.source!r} must be 'gini' or 'supplied'")
        if not 0 < self.v_max < math.inf:
            raise ValueError(f"v_max={self.v_max!r} must be finite and positive: it bounds the range of the weights")
        if self.source == "gini" and self.v_max != 1:
            raise ValueError(f"v_max={self.v_max!r} is for source='supplied'; Gini's variance is below 1")

    @property
    def needs(self) -> frozenset[str]:
        """``"gini"``, or ``"variance"`` if it is supplied."""
        return frozenset({"gini" if self.source == "gini" else "variance"})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``, or ``[K B 1]`` from variances supplied by row."""
        if self.source == "gini":
            return log_normalise(self._scores(evidence.statistics.gini), dim=0)
        return log_normalise(self._scores(where_counted(evidence.given("variance"), evidence.mask)), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size."""
        low, high = softmax_range(self.exponent * math.log1p(self.v_max / self.epsilon), n_teachers)
        score = self.exponent / self.epsilon
        if self.source == "supplied":
            source = "arXiv 2601.17910, Theorem V.2, family B: derivative of log(v + epsilon), v within [0, v_max]"
            return Declared(low, high, score / 2, "supplied variances, sup", source, score_lipschitz=score)
        source = "arXiv 2601.17910, Theorem V.2, family B: Gini is 1-Lipschitz in l1 and within [0, 1]"
        return Declared(low, high, score / 2, "teacher probabilities, l1", source, score_lipschitz=score)

    def interval(self, low: Float[Tensor, "K *batch"], high: Float[Tensor, "K *batch"]) -> Ends:
        """Return the least and largest weights when each variance lies anywhere between its ends; both are attained.

        Args:
            low: Low ends of the variances, as from ``distributions.gini_interval``.
            high: High ends.
        """
        return softmax_interval(self._scores(high), self._scores(low))

    def _scores(self, variance: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
        return -self.exponent * (numerics.widen(variance).clamp(0, self.v_max) + self.epsilon).log()


def require_beta(beta: Number) -> None:
    """Raise ``ValueError`` unless ``beta`` is a number of log-odds."""
    if not 0 <= beta < math.inf:  # also catches NaN
        raise ValueError(f"beta={beta!r} must be finite and not negative")


def entropy_score_lipschitz(beta: Number) -> float:
    """Return the constant of ``beta H / ln V`` in logits (sup norm) for every ``V``: that of ``V = 2``, the largest."""
    return beta * entropy_lipschitz(2) / math.log(2)


def where_counted(values: Float[Tensor, "K B #T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "K B #T"]:
    """Return ``values`` with 0 where nothing counts: what is unknown there must not spoil a batch."""
    counts = mask.any(dim=-1, keepdim=True) if values.shape[-1] == 1 else mask
    return torch.where(counts.to(values.device), values, 0)
