"""Routing: each row names the one teacher that teaches it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import LogWeights
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number


@dataclass(frozen=True)
class Route:
    """Follow the row's teacher: ``w = 1 - (K-1) floor`` for the named one, ``floor`` for each other.

    A row that names no teacher counts all alike. Range ``[floor, 1 - (K-1) floor]``; Lipschitz constant 0 in every
    continuous input (the weights jump with the row's teacher, by choice).

    Attributes:
        floor: Weight left to each teacher that is not named, at most ``1/K``.

    Raises:
        ValueError: ``floor`` is not in ``[0, 1/K]``; in a call for the ``K`` at hand.

    Source:
        One-hot task weights, the special case of arXiv 2601.17910, Section III.C that multi-teacher tools call
        routing (one ``teacher_id`` a row).

    >>> Route(floor=0.05).declared(3).highest
    0.9
    """

    floor: Number = 0.0

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"route"})

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor={self.floor!r} must be a weight, between 0 and 1/K for K teachers")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``; a weight 0 gives ``LOG_ZERO``."""
        like = evidence.statistics.entropy
        n_teachers = evidence.n_teachers
        named = self._named(n_teachers)
        index = torch.arange(n_teachers, device=evidence.route.device).unsqueeze(-1)
        dtype = numerics.reduction_dtype(like.dtype)
        # Filled in the final dtype: `torch.where` on two numbers would round them to float32 first.
        weights = torch.full((n_teachers, len(evidence.route)), self.floor, dtype=dtype, device=evidence.route.device)
        weights = weights.masked_fill(index == evidence.route, named).masked_fill(evidence.route < 0, 1 / n_teachers)
        return numerics.log_of(weights).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: ``floor`` and what it leaves."""
        named = self._named(n_teachers)
        low = min(self.floor, named) if n_teachers > 1 else 1.0
        return Declared(low, named, 0.0, "any continuous input", "constant by construction", score_lipschitz=0.0)

    def _named(self, n_teachers: int) -> float:
        if n_teachers * self.floor > 1 + 1e-9:
            raise ValueError(
                f"floor={self.floor!r} is too large for {n_teachers} teachers; lower it to at most 1/{n_teachers}"
            )
        return 1 - (n_teachers - 1) * self.floor
