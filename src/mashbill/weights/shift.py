"""Trust by distance: how far a row lies from what each teacher was trained on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number, require_all
from mashbill.weights.simplex import log_normalise
from mashbill.weights.token import softmax_range


@dataclass(frozen=True)
class ShiftDistance:
    """Trust the teacher whose training domain is nearer: ``w = softmax_k(-beta min(dist(c, D_k), radius))``.

    ``c`` are the row's context features and ``dist`` is the Euclidean distance to the nearest point of ``D_k``, in the
    features' unit: scale the columns first. Beyond ``radius`` all is equally far.

    Certified, before any guard: range ``[1/(1+(K-1)e^R), 1/(1+(K-1)e^-R)]`` with ``R = beta radius``; Lipschitz
    constant ``beta/2`` in the features (l2), because a distance is 1-Lipschitz and softmax 1/2-Lipschitz in the sup
    norm. Both are attained. Keeps no safety order of its own. Cost ``O(B F sum_k |D_k|)``.

    Attributes:
        domains: ``{teacher: [point, ...]}``, each point a list of features: where the teacher is at home.
        beta: Log-odds per unit of distance. Not negative.
        radius: Distance beyond which a domain counts as left. Positive.

    Raises:
        ValueError: An attribute is out of range. In a call: a teacher is unknown or left out, or the evidence has
            another number of features than the points.

    Source:
        arXiv 2601.17910, Theorem V.2, family C (context scale).

    >>> ShiftDistance({"a": [[0.0]], "b": [[1.0]]}, beta=2.0).declared(2).lipschitz
    1.0
    """

    domains: Mapping[str, Sequence[Sequence[Number]]]
    beta: Number = 1.0
    radius: Number = 1.0

    scale: ClassVar[Literal["context"]] = "context"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:  # also catches NaN
            raise ValueError(f"beta={self.beta!r} must be finite and not negative")
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius={self.radius!r} must be finite and positive: it bounds the range")
        if not isinstance(self.domains, Mapping) or not self.domains:
            raise ValueError(f"domains={self.domains!r} must map each teacher to the points of its training domain")
        for name, points in self.domains.items():
            _require_points(points, argument=f"domains[{name!r}]")
        lengths = {len(point) for points in self.domains.values() for point in points}
        if len(lengths) != 1:
            raise ValueError(f"domains have points of {sorted(lengths)} features; give every point the same number")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        require_all(self.domains, evidence.teachers, argument="domains", kind="teacher")
        features = evidence.features.to(numerics.reduction_dtype(evidence.statistics.entropy.dtype))
        far = [self._distance(features, self.domains[teacher]) for teacher in evidence.teachers]
        return log_normalise(-self.beta * torch.stack(far), dim=0).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, wherever the domains lie."""
        low, high = softmax_range(self.beta * self.radius, n_teachers)
        source = "arXiv 2601.17910, Theorem V.2, family C: softmax of distances, 1-Lipschitz and cut at the radius"
        if n_teachers == 1:
            return Declared(low, high, 0.0, "any continuous input", source, score_lipschitz=0.0)
        return Declared(low, high, self.beta / 2, "context features, l2", source, score_lipschitz=float(self.beta))

    def _distance(self, features: Float[Tensor, "B F"], points: Sequence[Sequence[Number]]) -> Float[Tensor, " B"]:
        """Return ``min(dist(c, D_k), radius)``; its gradient is 0 on a point of the domain and beyond the radius."""
        domain = torch.tensor([list(point) for point in points], dtype=features.dtype, device=features.device)
        if domain.shape[-1] != features.shape[-1]:
            raise ValueError(
                f"domains have {domain.shape[-1]} features, but the rows have {features.shape[-1]}; "
                "give one number for each of data.feature_columns"
            )
        return distance_to(features.unsqueeze(-2) - domain).amin(dim=-1).clamp_max(self.radius)


def distance_to(offset: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch"]:
    """Return the Euclidean norm over the last axis, with gradient 0 where it is 0.

    Scaled by the largest entry first, so that no square overflows or vanishes.
    """
    size = offset.detach().abs().amax(dim=-1, keepdim=True)
    size = torch.where((size > 0) & size.isfinite(), size, 1)
    squared = (offset / size).square().sum(dim=-1)
    is_zero = squared == 0
    return torch.where(is_zero, 0, torch.where(is_zero, 1, squared).sqrt()) * size.squeeze(-1)


def _require_points(points: object, *, argument: str) -> None:
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        raise ValueError(f"{argument}={points!r} must be a list of points, each a list of features")
    for point in points:
        if not isinstance(point, Sequence) or isinstance(point, str) or not point:
            raise ValueError(f"{argument} contains {point!r}; a point is a list of features, at least 1")
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in point):
            raise ValueError(f"{argument} contains {list(point)!r}; features must be finite numbers")
