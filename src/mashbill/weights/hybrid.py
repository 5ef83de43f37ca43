"""Doubt and skill in one score: an entropy softmax that leans towards teachers known to be good."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence, Scale
from mashbill.weights.shares import Number, require_all
from mashbill.weights.simplex import log_normalise
from mashbill.weights.softmax import shifted_range, softmax_range
from mashbill.weights.task import require_score_options
from mashbill.weights.token import entropy_score_lipschitz, require_beta


@dataclass(frozen=True)
class Hybrid:
    """Weigh teachers by doubt and by skill: ``w = softmax_k(-beta H_k / ln V + skill s_k)``.

    ``s_k`` is the teacher's measured safety or accuracy in the row's context or task, or a score that you give.

    **It does not keep the order of the scores.** This is the template ``exp(-H + s)`` of Remark III.6, which is said
    to respect safety and does not: whoever is sure enough outweighs whoever is safer. Finish it with
    ``product(token=Hybrid(...), order=..., bounds=...)`` or ``conform``; order and KL guard in log space do not raise
    the Lipschitz constant. Normalised, positive, bounded and continuous by itself.

    Certified, before any guard: range of a softmax whose scores lie in ``[skill s_k - beta, skill s_k]``, with
    measured scores in ``[0, 1]``; Lipschitz constant that of :class:`EntropySoftmax` in the teachers' logits, plus
    ``skill / 2`` in measured scores (sup norms). Cost: O(K) a position.

    Attributes:
        beta: Log-odds between a teacher of no and a teacher of full uncertainty. Not negative.
        skill: Log-odds for a score higher by 1. Not negative.
        scores: ``{teacher: score}``, higher is better, the same for every row; None reads the scorecard.
        measure: ``"safety"`` or ``"accuracy"``, as measured on the scorecard sample.
        by: ``"context"`` or ``"task"``, which of the row's two the score is of.
        normalise: Divide entropies by ``ln V``. Without it ``beta`` is per nat and nothing is certified.

    Raises:
        ValueError: An attribute is out of range. In a call: the evidence has no such score, or ``scores`` does not
            name exactly the teachers.

    Source:
        arXiv 2601.17910, Theorem V.2, family C (token scale), and Remark III.6, against which see above.

    >>> round(Hybrid(beta=1.0, skill=1.0).declared(2).lowest, 4)
    0.1192
    """

    beta: Number = 1.0
    skill: Number = 1.0
    scores: Mapping[str, Number] | None = None
    measure: str = "safety"
    by: Scale = "context"
    normalise: bool = True

    scale: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        require_beta(self.beta)
        if not 0 <= self.skill < math.inf:
            raise ValueError(f"skill={self.skill!r} must be finite and not negative; higher scores are better")
        require_score_options(1.0, self.measure)
        if self.by not in ("context", "task"):
            raise ValueError(f"by={self.by!r} must be 'context' or 'task'")
        if self.scores is not None and not self.scores:
            raise ValueError("scores={} must map each teacher to its score; leave it out to read the scorecard")
        for name, score in (self.scores or {}).items():
            if not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(f"scores[{name!r}]={score!r} must be a finite number; higher is better")

    @property
    def needs(self) -> frozenset[str]:
        """``"entropy"``, and the measured score unless scores are given."""
        measured = set() if self.scores is not None else {f"score:{self.by}:{self.measure}"}
        return frozenset({"entropy"} | measured)

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B T]``."""
        entropy = numerics.widen(evidence.statistics.entropy)
        per_unit = numerics.entropy_ceiling(evidence.n_entries) if self.normalise else 1.0
        skill = self._skill(evidence).to(entropy.device, entropy.dtype)
        return log_normalise(self.skill * skill - self.beta / per_unit * entropy, dim=0)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for every vocabulary size.

        Raises:
            ValueError: ``scores`` are not those of ``n_teachers``.
        """
        source = "arXiv 2601.17910, Theorem V.2, family C: softmax of scores in intervals; not ordered by itself"
        metric = (
            "teacher logits, sup" if self.scores is not None else f"teacher logits and measured {self.measure}, sup"
        )
        low, high = self._range(n_teachers)
        if not self.normalise:
            return Declared(0.0, 1.0, None, metric, source)
        score = entropy_score_lipschitz(self.beta) + (self.skill if self.scores is None else 0.0)
        return Declared(low, high, score / 2, metric, source, score_lipschitz=score)

    def _range(self, n_teachers: int) -> tuple[float, float]:
        if self.scores is None:
            return softmax_range(self.beta + self.skill, n_teachers)
        if len(self.scores) != n_teachers:
            raise ValueError(f"scores are of {len(self.scores)} teachers, but n_teachers={n_teachers}; list each once")
        return shifted_range([self.skill * score for score in self.scores.values()], self.beta)

    def _skill(self, evidence: Evidence) -> Float[Tensor, "K #B 1"]:
        if self.scores is not None:
            require_all(self.scores, evidence.teachers, argument="scores", kind="teacher")
            given = [float(self.scores[teacher]) for teacher in evidence.teachers]
            return torch.tensor(given, dtype=torch.float64).reshape(-1, 1, 1)
        table = evidence.score(self.measure, by=self.by)
        where = evidence.context if self.by == "context" else evidence.task
        return table[:, where.to(table.device)].unsqueeze(-1)
