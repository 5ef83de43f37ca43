"""Uncertainty weights in closed form: each teacher's loss divided by itself."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.groups import By, Groups, require_by
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise


def kendall_raw(losses: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``1/(2 L)``, what multiplies each loss at the optimum ``s = log L`` of ``exp(-s) L / 2 + s / 2``.

    Not normalised and not bounded: losses 1 and 1e-4 give .5 and 5000. A loss of 0 counts as the smallest normal
    number.

    >>> kendall_raw(torch.tensor([0.2, 0.5, 1.0])).double().round(decimals=6).tolist()
    [2.5, 1.0, 0.5]
    """
    return 1 / (2 * _positive(losses))


@dataclass(frozen=True)
class KendallOptimum:
    """``w_k = (1/L_k) / sum_j (1/L_j)``: where learned uncertainty weights come to rest, in closed form.

    ``L_k`` is the teacher's loss on the task measured beforehand, or its distance ``KL(p_k || student)`` now, the mean
    over the counted positions of a row, of the batch's rows of one task, or of the batch. ``published.Kendall`` learns
    the same weights and lags behind.

    Normalised and positive; not bounded, because a loss has no least value, nor ordered. Continuous where losses are
    positive; Lipschitz constant ``1/(2 epsilon)`` in the losses (sup norm), none for ``epsilon = 0``.

    Attributes:
        losses: ``"measured"``, from the scorecard, or ``"student"``.
        epsilon: Loss in nats added to every teacher's. Not negative.
        by: Whose losses are averaged with ``losses="student"``: ``"row"``, ``"task"`` or ``"batch"``.

    Raises:
        ValueError: An attribute is out of range. In a call: the evidence has no such losses.

    Source:
        Kendall, Gal & Cipolla, *Multi-Task Learning Using Uncertainty to Weigh Losses*, CVPR 2018, with teachers for
        tasks. Normalising drops the factor ``sum 1/(2 L)``, which acts as a step size; :func:`kendall_raw` keeps it.
    """

    losses: Literal["measured", "student"] = "measured"
    epsilon: Number = 0.0
    by: By = "task"

    scale: ClassVar[Literal["task"]] = "task"

    def __post_init__(self) -> None:
        if self.losses not in ("measured", "student"):
            raise ValueError(f"losses={self.losses!r} must be 'measured' or 'student'")
        if not 0 <= self.epsilon < math.inf:  # also catches NaN
            raise ValueError(f"epsilon={self.epsilon!r} must be finite and not negative")
        require_by(self.by)

    @property
    def needs(self) -> frozenset[str]:
        """The measured losses, or the distances from the student."""
        return frozenset({"score:task:loss" if self.losses == "measured" else "divergence:student"})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        losses = self._measured(evidence) if self.losses == "measured" else self._present(evidence)
        return log_normalise(-_positive(losses + self.epsilon).log(), dim=0).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for losses of at least 0."""
        low, high = (0.0, 1.0) if n_teachers > 1 else (1.0, 1.0)
        score = 1 / self.epsilon if self.epsilon > 0 else None
        follows = self.losses == "student"
        return Declared(
            low,
            high,
            score and score / 2,
            "losses, sup",
            "derivative of log(loss + epsilon)",
            score,
            reads_student=follows,
            mixes_rows=follows and self.by != "row",
        )

    def _measured(self, evidence: Evidence) -> Float[Tensor, "K B"]:
        like = numerics.widen(evidence.statistics.entropy[:0])
        return evidence.score("loss", by="task").to(like)[:, evidence.task.to(like.device)]

    def _present(self, evidence: Evidence) -> Float[Tensor, "K B"]:
        given = numerics.widen(evidence.given("divergence:student").detach())
        mask, groups = evidence.mask.to(given.device), Groups.of(evidence, self.by)
        total = groups.total(torch.where(mask, given, 0).sum(dim=-1).T)
        n_counted = groups.total(mask.sum(dim=-1).to(given.dtype)).clamp_min(1)
        return groups.share(total / n_counted.unsqueeze(-1)).T


def _positive(losses: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    wide = numerics.widen(losses)
    return wide.clamp_min(torch.finfo(wide.dtype).tiny)
