"""Rules at the task scale: how good each teacher is at the row's task, measured beforehand, or how much it has seen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number, in_order, require_known
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


@dataclass(frozen=True)
class DataVolume:
    """Trust the teacher that has seen more of the task: ``w_k ~ n_k^exponent``, ``n_k`` its training examples.

    Range: the least and largest of these weights, ratio ``(n_max / n_min)^exponent``. Lipschitz constant 0 in every
    continuous input. Normalised and continuous; positive if no volume is 0 (``0^0 = 1``); bounded by what is written;
    not ordered.

    Attributes:
        volumes: ``{teacher: examples}``, or ``{task: {teacher: examples}}``; not negative, one of each set positive. A
            task that is left out counts all teachers alike.
        exponent: 1 is proportional, 0 is uniform. Not negative.

    Raises:
        ValueError: An attribute is out of range. In a call: a name does not exist, or a teacher is left out.

    Source:
        arXiv 2601.17910, Theorem V.2, family C (task scale), Principle 2; the exponent is ours.

    >>> round(DataVolume({"large": 9_000_000, "small": 1_000_000}, exponent=0.5).declared(2).highest, 4)
    0.75
    """

    volumes: Mapping[str, Any]
    exponent: Number = 1.0

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.exponent < math.inf:  # also catches NaN
            raise ValueError(f"exponent={self.exponent!r} must be finite and not negative")
        if not isinstance(self.volumes, Mapping) or not self.volumes:
            raise ValueError(
                f"volumes={self.volumes!r} must map teachers, or tasks and teachers, to numbers of examples"
            )
        for name, volumes in self._sets.items():
            _require_volumes(volumes, argument=f"volumes[{name!r}]" if name else "volumes")

    @property
    def _sets(self) -> dict[str, Any]:
        """Volumes by task; under ``""`` if there is one set for all."""
        is_by_task = all(isinstance(value, Mapping) for value in self.volumes.values())
        return dict(self.volumes) if is_by_task else {"": self.volumes}

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``; a volume 0 gives ``LOG_ZERO``."""
        sets, teachers = self._sets, evidence.teachers
        index = torch.zeros_like(evidence.task) if "" in sets else evidence.task
        names = ("",) if "" in sets else evidence.tasks
        require_known(sets, names, argument="volumes", kind="task")
        even = [1.0] * len(teachers)
        rows = [in_order(sets[name], teachers, argument="volumes") if name in sets else even for name in names]
        like = evidence.statistics.entropy
        table = self._log_weights(rows).to(like.device, numerics.reduction_dtype(like.dtype))
        return table[index.to(table.device)].T.unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: the weights themselves."""
        rows = [list(map(float, volumes.values())) for volumes in self._sets.values()]
        wrong = next((row for row in rows if len(row) != n_teachers), None)
        if wrong is not None:
            raise ValueError(f"volumes are of {len(wrong)} teachers, but n_teachers={n_teachers}; list each once")
        weights = self._log_weights(rows).exp()
        low, high = float(weights.min()), float(weights.max())
        return Declared(low, high, 0.0, "any continuous input", "weights written down", score_lipschitz=0.0)

    def _log_weights(self, rows: list[list[float]]) -> Tensor:
        volumes = torch.tensor(rows, dtype=torch.float64)
        scores = self.exponent * numerics.log_of(volumes)
        # A power of nothing is nothing; a small exponent would make something of the log that stands for it.
        return log_normalise(scores.masked_fill((volumes == 0) & (self.exponent > 0), numerics.LOG_ZERO), dim=-1)


def _require_volumes(volumes: object, *, argument: str) -> None:
    if not isinstance(volumes, Mapping) or not volumes:
        raise ValueError(f"{argument}={volumes!r} must map each teacher id to its number of examples")
    for name, volume in volumes.items():
        if isinstance(volume, bool) or not isinstance(volume, int | float) or not 0 <= volume < math.inf:
            raise ValueError(f"{argument}[{name!r}]={volume!r} must be a number of examples, not negative")
    if not any(volumes.values()):
        raise ValueError(f"{argument}={dict(volumes)!r} must hold a positive number; nobody has seen anything")


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
