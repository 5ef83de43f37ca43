"""Trust by how clearly a teacher's first choice leads."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise
from mashbill.weights.softmax import softmax_range
from mashbill.weights.token import require_beta


@dataclass(frozen=True)
class Margin:
    """Trust the teacher whose first choice leads by more: ``w = softmax_k(beta (p_k(1) - p_k(2)))``.

    ``p_k(1)`` and ``p_k(2)`` are the largest and second largest probability; their difference is in ``[0, 1]``.

    Certified, before any guard: range ``[1/(1+(K-1)e^beta), 1/(1+(K-1)e^-beta)]``; Lipschitz constant ``beta / 2`` in
    the teachers' logits (sup norm), and the same in their probabilities (l1). Derivation: the gradient of the margin
    ``m`` by logits sums to 0 and is positive only at the first entry, with ``p_(1) (1 - m)``, so its l1 norm is twice
    that; as ``p_(2) <= 1 - p_(1)``, it is at most ``4 p_(1) (1 - p_(1)) <= 1``, reached at two entries of 1/2. The two
    largest of sorted probabilities move no further than all of them in l1.

    Normalised, positive, bounded and continuous, also where first and second change places; not ordered by safety.
    Cost: O(K) a position from statistics.

    Attributes:
        beta: Log-odds between a teacher who is certain and one who is undecided. Not negative.

    Raises:
        ValueError: ``beta`` is negative or not finite.

    Source:
        Ours, after the idea of margin-weighted teachers; no paper's formula.

    >>> Margin(beta=3.0).declared(4).lipschitz
    1.5
    """

    beta: Number = 1.0

    scale: ClassVar[Literal["token"]] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"margin"})

    def __post_init__(self) -> None:
        require_beta(self.beta)

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        return log_normalise(self.beta * numerics.widen(evidence.statistics.margin), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size."""
        low, high = softmax_range(self.beta, n_teachers)
        source = "softmax of scores in a range of beta; the margin is 1-Lipschitz in logits (sup)"
        score = float(self.beta)
        return Declared(low, high, score / 2, "teacher logits, sup", source, score_lipschitz=score)
