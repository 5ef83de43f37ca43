"""Rules at the task scale: how good each teacher is at the row's task, measured beforehand."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise
from mashbill.weights.token import softmax_range

MEASURES = ("accuracy", "safety")
"""Scorecard measures that are probabilities and better when larger."""


@dataclass(frozen=True)
class Performance:
    """Trust the teacher that is better at the task: ``w = softmax_k(score_k / temperature)``.

    Certified, before any guard: range ``[1/(1+(K-1)e^R), 1/(1+(K-1)e^-R)]`` with ``R = 1/temperature``, because scores
    are in ``[0, 1]``; Lipschitz constant ``1/(2 temperature)`` in the scores (sup norm).

    Attributes:
        temperature: Score difference at which one teacher outweighs another e to 1. Positive.
        measure: ``"accuracy"`` or ``"safety"``, as measured on the scorecard sample.

    Raises:
        ValueError: An attribute is out of range. In a call: the evidence has no such score.

    Source:
        arXiv 2601.17910, Theorem V.2, family C (task scale).
    """

    temperature: Number = 0.1
    measure: str = "accuracy"

    scale: ClassVar[Literal["task"]] = "task"

    def __post_init__(self) -> None:
        require_score_options(self.temperature, self.measure)

    @property
    def needs(self) -> frozenset[str]:
        """The measured score, by task."""
        return frozenset({f"score:task:{self.measure}"})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        scores = _by_row(evidence, self.measure)
        return log_normalise(scores / self.temperature, dim=0).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for scores in ``[0, 1]``."""
        low, high = softmax_range(1 / self.temperature, n_teachers)
        source = "arXiv 2601.17910, Theorem V.2, family C: softmax of scores in a range of 1/temperature"
        score = 1 / self.temperature
        return Declared(low, high, score / 2, f"measured {self.measure}, sup", source, score_lipschitz=score)


@dataclass(frozen=True)
class InverseLoss:
    """Trust the teacher with the smaller loss on the task: ``w_k ~ 1/(loss_k + epsilon)``.

    Certified: Lipschitz constant ``1/(2 epsilon)`` in the losses (sup norm). A loss has no upper bound, so neither has
    the ratio of two weights: put bounds on the product.

    Attributes:
        epsilon: Loss in nats added to every teacher's. Positive.

    Raises:
        ValueError: ``epsilon`` is not positive. In a call: the evidence has no loss.

    Source:
        arXiv 2601.17910, Theorem V.2, family A (task scale).
    """

    epsilon: Number = 1e-2

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"score:task:loss"})

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon={self.epsilon!r} must be positive: it bounds the weight of a perfect teacher")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        losses = _by_row(evidence, "loss")
        return log_normalise(-(losses + self.epsilon).log(), dim=0).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for losses of at least 0."""
        low, high = (0.0, 1.0) if n_teachers > 1 else (1.0, 1.0)
        source = "arXiv 2601.17910, Theorem V.2, family A: derivative of log(loss + epsilon)"
        score = 1 / self.epsilon
        return Declared(low, high, score / 2, "measured loss, sup", source, score_lipschitz=score)


def require_score_options(temperature: Number, measure: str) -> None:
    """Raise ``ValueError`` unless ``softmax(score / temperature)`` is defined and its scores are in ``[0, 1]``."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be finite and positive")
    if measure not in MEASURES:
        raise ValueError(
            f"measure={measure!r} must be one of {', '.join(MEASURES)}: a probability, better when larger; "
            "for losses use InverseLoss"
        )


def _by_row(evidence: Evidence, measure: str):
    like = evidence.statistics.entropy
    table = evidence.score(measure, by="task").to(like.device, numerics.reduction_dtype(like.dtype))
    return table[:, evidence.task]
