"""Trust by nearness: Gibbs weights of the teachers' divergences from their mean or from the student."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Declared, Evidence, Reference
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise
from mashbill.weights.softmax import softmax_range
from mashbill.weights.token import where_counted


@dataclass(frozen=True)
class Gibbs:
    """Trust teachers near a reference: ``w = softmax_k(-d_k / temperature)``, ``d_k = min(KL(p_k || r), cap)``.

    The reference ``r`` is the plain mean of the teachers, which turns away from outliers, or the student, which
    starts with what is easy for it. These weights minimise ``sum_k w_k d_k - temperature H(w)``.

    Certified, before any guard: range ``[1/(1+(K-1)e^R), 1/(1+(K-1)e^-R)]`` with ``R = cap / temperature``, or
    ``ln K / temperature`` if that is less and ``r`` is the mean, of which each teacher is a ``K``-th.

    Lipschitz constant. In the student's logits (sup norm) ``1 / (2 temperature)``: the gradients ``p_S - p_k`` of two
    divergences differ by ``p_j - p_k``, of l1 norm at most 2, and by no more than 2 if one is capped; a weight moves by
    at most ``w_k (1 - w_k) <= 1/4`` of the largest difference. In the teachers' logits, against their mean,
    ``(M + 2 (1 - 1/K)) / (2 temperature)`` with ``M = max_a 2a(1-a) ln((K-a)/(1-a))``: ``M`` is the largest mean
    deviation of a log-ratio to a mean that holds a ``K``-th of the teacher, the rest that of the mean's own movement.
    The first is reached; the second is certain but wide: the steepest that ascent found, for ``K`` from 2 to 8, is a
    tenth to a quarter of it.

    Normalised, positive, bounded and continuous, not ordered. With ``reference="student"`` the weights move with the
    student, without gradient: the objective is no longer one fixed function of it. Not exact where a teacher stored a
    top-k: its tail then counts as even against the mean, and as the student's own against the student.
    Cost: O(K V) a position, for the divergences; the rule itself is O(K).

    Attributes:
        temperature: Divergence in nats at which one teacher outweighs another e to 1. Positive.
        reference: ``"mean"`` or ``"student"``.
        cap: Divergence in nats above which teachers are no longer told apart. Positive and finite.

    Raises:
        ValueError: An attribute is out of range. In a call: the evidence has no such divergence.

    Source:
        arXiv 2601.17910, Principle 3 (Gibbs weights); cap, constants and the mean as a reference are ours.

    >>> round(Gibbs(temperature=2.0, reference="student", cap=4.0).declared(2).lowest, 4)
    0.1192
    """

    temperature: Number = 1.0
    reference: Reference = "mean"
    cap: Number = 10.0

    scale: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature!r} must be finite and positive")
        if self.reference not in get_args(Reference):
            raise ValueError(f"reference={self.reference!r} must be 'mean' or 'student'")
        if not 0 < self.cap < math.inf:
            raise ValueError(f"cap={self.cap!r} must be finite and positive: it bounds the range of the weights")

    @property
    def needs(self) -> frozenset[str]:
        """The divergence from the reference."""
        return frozenset({f"divergence:{self.reference}"})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``; no gradient flows to the student through them."""
        given = evidence.given(f"divergence:{self.reference}")
        given = given.detach() if self.reference == "student" else given
        distance = numerics.widen(where_counted(given, evidence.mask)).clamp(0, self.cap)
        return log_normalise(-distance / self.temperature, dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size."""
        if self.reference == "student":
            low, high = softmax_range(self.cap / self.temperature, n_teachers)
            source = "arXiv 2601.17910, Principle 3: gradients of two divergences differ by at most 2 in l1"
            score = 1 / self.temperature
            metric = "student logits, sup"
        else:
            low, high = softmax_range(min(self.cap, math.log(n_teachers)) / self.temperature, n_teachers)
            source = "arXiv 2601.17910, Principle 3: log-ratios to a mean of K are at most ln K"
            score = (_largest_deviation(n_teachers) + 2 * (1 - 1 / n_teachers)) / self.temperature
            metric = "teacher logits, sup"
        follows = self.reference == "student"
        return Declared(low, high, score / 2, metric, source, score_lipschitz=score, reads_student=follows)


def _largest_deviation(n_teachers: int) -> float:
    """Return ``max_a 2a(1-a) ln((K-a)/(1-a))``.

    The mean absolute deviation of ``X = ln p/r`` under ``p`` is largest when ``X`` has two values (merging values on
    one side of the mean keeps it and lowers ``E e^-X <= 1``), the upper of them ``ln K``, with probability ``a``.
    Its derivative vanishes, above ``a = 1/2``, where ``(2 - 1/a) (K - a) ln((K-a)/(1-a)) = K - 1``: that grows.
    """
    if n_teachers == 1:
        return 0.0
    low, high = 0.5, 1.0
    for _ in range(60):  # halving: to the last bit
        a = (low + high) / 2
        is_below = (2 - 1 / a) * (n_teachers - a) * math.log((n_teachers - a) / (1 - a)) < n_teachers - 1
        low, high = (a, high) if is_below else (low, a)
    return 2 * low * (1 - low) * math.log((n_teachers - low) / (1 - low))
