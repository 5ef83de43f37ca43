"""Margin weights: teachers that set their first answer apart from the second count more."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise
from mashbill.weights.token import softmax_range


@dataclass(frozen=True)
class MarginWeighted:
    """Trust the teacher with the larger margin: ``w = softmax_k(beta (p_(1) - p_(2)))``, at each position.

    Certified: range ``[1/(1+(K-1)e^beta), 1/(1+(K-1)e^-beta)]``, because a margin is in ``[0, 1]``; Lipschitz constant
    ``beta/2`` in the teachers' logits (sup norm) and in their probabilities (l1). With ``s = p_(1) + p_(2)`` and
    ``d = p_(1) - p_(2)`` the margin's gradient by the logits has l1 norm ``s - d^2 + d (1 - s) <= 1``, reached by
    ``(1/2, 1/2)``; for probabilities, sorting two vectors alike does not raise their l1 distance.

    Breaks *ordered*: it knows no safety order. Keeps normalised, positive, bounded and continuous.

    Attributes:
        beta: Log-odds between a teacher of margin 1 and one of margin 0. Not negative.

    Raises:
        ValueError: ``beta`` is negative or not finite.

    Source:
        Ours, after the abstract of AMTSS (arXiv 2305.07928), which names max-margin teachers and teacher importance
        weights; its formula was not to be had, so this is not AMTSS.

    >>> round(MarginWeighted(beta=2.0).declared(2).lowest, 4)
    0.1192
    """

    beta: Number = 1.0

    scale: ClassVar[Literal["token"]] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"margin"})

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:  # also catches NaN
            raise ValueError(f"beta={self.beta!r} must be finite and not negative")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        return log_normalise(self.beta * numerics.widen(evidence.statistics.margin), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size."""
        low, high = softmax_range(self.beta, n_teachers)
        source = "softmax of scores in a range of beta; the margin's gradient by logits has l1 norm at most 1"
        return Declared(low, high, self.beta / 2, "teacher logits, sup", source, score_lipschitz=float(self.beta))
