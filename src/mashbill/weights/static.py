"""Rules whose weights do not depend on what teachers say: uniform, and weights written down."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Declared, Evidence, Scale
from mashbill.weights.shares import Shares, extremes, for_each, in_order, require_shares
from mashbill.weights.simplex import log_normalise


@dataclass(frozen=True)
class Uniform:
    """Count all teachers alike: ``w_k = 1/K``. The identity of the product.

    Range ``[1/K, 1/K]``; Lipschitz constant 0.

    Source:
        arXiv 2601.17910, Proposition VI.6.
    """

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return ``-log K``, ``[K B 1]``."""
        like = evidence.statistics.entropy
        shape = (evidence.n_teachers, like.shape[1], 1)
        dtype = numerics.reduction_dtype(like.dtype)
        return torch.full(shape, -math.log(evidence.n_teachers), dtype=dtype, device=like.device)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: always ``1/K``."""
        even = 1 / n_teachers
        return Declared(even, even, 0.0, "any input", "constant", score_lipschitz=0.0)


@dataclass(frozen=True)
class Static:
    """Weights written down: one set for all rows, or one for each task or context.

    Range: the least and largest weight written; Lipschitz constant 0 in every continuous input.

    Attributes:
        weights: ``{teacher: weight}``, or ``{task or context: {teacher: weight}}``; each set names every teacher and
            sums to 1. A task or context that is left out counts all teachers alike.
        by: What selects the set.

    Raises:
        ValueError: A set is not a distribution. In a call: a name does not exist, or a teacher is left out.

    Source:
        arXiv 2601.17910, Section III.C with constant weights.

    >>> Static({"large": 0.75, "small": 0.25}).declared(2).lowest
    0.25
    """

    weights: Mapping[str, Any]
    by: Literal["all", "task", "context"] = "all"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.by not in ("all", "task", "context"):
            raise ValueError(f"by={self.by!r} must be 'all', 'task' or 'context'")
        if self.by == "all":
            require_shares(self.weights, argument="weights")
            return
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise ValueError(f"weights={self.weights!r} must map each {self.by} to {{teacher: weight}}")
        for name, shares in self.weights.items():
            require_shares(shares, argument=f"weights[{name!r}]")

    @property
    def scale(self) -> Scale:
        """``"context"`` if contexts select the weights, else ``"task"``."""
        return "context" if self.by == "context" else "task"

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return the logs of the weights, ``[K B 1]``; a weight 0 gives ``LOG_ZERO``."""
        like = evidence.statistics.entropy
        if self.by == "all":
            rows, index = (
                [in_order(self.weights, evidence.teachers, argument="weights")],
                torch.zeros_like(evidence.task),
            )
        else:
            is_task = self.by == "task"
            names, index = (evidence.tasks, evidence.task) if is_task else (evidence.contexts, evidence.context)
            rows = for_each(self.weights, names, evidence.teachers, argument="weights", kind=self.by)
        table = torch.tensor(rows, dtype=numerics.reduction_dtype(like.dtype), device=like.device)
        return log_normalise(numerics.log_of(table), dim=-1)[index].T.unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: between the least and the largest weight written."""
        sets = [self.weights] if self.by == "all" else list(self.weights.values())
        low, high = extremes(cast(list[Shares], sets), n_teachers=n_teachers, argument="weights")
        return Declared(low, high, 0.0, "any continuous input", "constant by construction", score_lipschitz=0.0)
