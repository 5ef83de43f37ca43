"""Rules at the context scale: which teacher is safe, or able, where the row comes from."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.order import order_of
from mashbill.weights.shares import (
    Number,
    Shares,
    extremes,
    for_each,
    in_order,
    require_all,
    require_known,
    require_shares,
)
from mashbill.weights.simplex import log_normalise
from mashbill.weights.task import require_score_options
from mashbill.weights.token import softmax_range


@dataclass(frozen=True)
class RankedSafety:
    """Weigh teachers by safety rank: ``w_k = (1 + spread (2 r_k/(K-1) - 1)) / K``, rank 0 the least safe.

    Tied teachers get the mean of their ranks. Without ``safety`` the ranks come from the orders that a scorecard
    certified, context by context: teachers are ranked by how many others they certainly beat, minus how many
    certainly beat them (Copeland), which keeps every certified pair; a context without a certified order counts
    all alike.

    Range ``[(1 - spread)/K, (1 + spread)/K]``; Lipschitz constant 0 within a context (weights jump with the ranks).

    Attributes:
        spread: Half the relative difference between safest and least safe, in ``[0, 1)``.
        safety: ``{teacher: score}``, higher is safer, the same in every context.

    Raises:
        ValueError: ``spread`` is out of range. In a call: a teacher is unknown or left out, or an order has a cycle.

    Source:
        arXiv 2601.17910, Theorem V.2, family A (context scale).

    >>> RankedSafety(spread=0.5).declared(2).lowest
    0.25
    """

    spread: Number = 0.5
    safety: Mapping[str, Number] | None = None

    scale: ClassVar[Literal["context"]] = "context"

    def __post_init__(self) -> None:
        if not 0 <= self.spread < 1:
            raise ValueError(f"spread={self.spread!r} must be at least 0 and below 1, or the least safe gets no weight")
        for name, score in (self.safety or {}).items():
            if not isinstance(score, int | float) or math.isnan(score):
                raise ValueError(f"safety[{name!r}]={score!r} must be a number; higher is safer")

    @property
    def needs(self) -> frozenset[str]:
        """``"orders"`` unless the scores are given."""
        return frozenset() if self.safety is not None else frozenset({"orders"})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        like = evidence.statistics.entropy
        rows = [self._weights(scores) for scores in self._scores(evidence)]
        table = torch.tensor(rows, dtype=numerics.reduction_dtype(like.dtype), device=like.device)
        return numerics.log_of(table[evidence.context]).T.unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for any ranks."""
        spread = self.spread if n_teachers > 1 else 0.0
        low, high = (1 - spread) / n_teachers, (1 + spread) / n_teachers
        return Declared(low, high, 0.0, "any continuous input", "constant in each context", score_lipschitz=0.0)

    def _scores(self, evidence: Evidence) -> Sequence[Sequence[Number]]:
        """Return a score for each teacher, context by context."""
        n_teachers = evidence.n_teachers
        if self.safety is not None:
            require_all(self.safety, evidence.teachers, argument="safety", kind="teacher")
            return [tuple(float(self.safety[teacher]) for teacher in evidence.teachers)] * len(evidence.contexts)
        return [order_of(n_teachers, evidence.orders.get(name, ())).copeland() for name in evidence.contexts]

    def _weights(self, scores: Sequence[Number]) -> list[float]:
        n_teachers = len(scores)
        if n_teachers == 1:
            return [1.0]
        # Twice the mean rank of a tie is the number below plus the number not above, itself left out.
        twice = [sum(s < mine for s in scores) + sum(s <= mine for s in scores) - 1 for mine in scores]
        return [(1 + self.spread * (rank / (n_teachers - 1) - 1)) / n_teachers for rank in twice]


@dataclass(frozen=True)
class PartitionOfUnity:
    """Blend one set of weights per context: ``w(c) = sum_d phi_d(c) W_d`` with ``phi >= 0``, ``sum_d phi_d = 1``.

    With ``anchors``, ``phi = softmax_d(-|c - a_d|^2 / (2 radius^2))`` of the row's features ``c``: a row between two
    contexts gets a blend, and the weights are continuous in ``c``. Without, ``phi`` selects the row's own context.
    ``W_d`` is written down in ``weights``, or ``softmax(score / temperature)`` of each context's measured scores.

    Range: that of the ``W_d``, as is every order that all of them respect. Lipschitz constant
    ``spread diameter / (4 radius^2)`` in the features (l2), with the largest difference between contexts of one
    teacher's weight and the diameter of the anchors: the derivative is a covariance under ``phi``, at most half of one
    range times half of the other. Measured scores add ``1/(2 temperature)`` (sup norm), as each ``W_d`` is a softmax.

    Attributes:
        weights: ``{context: {teacher: weight}}``. Without anchors, a context that is left out counts all alike; with
            anchors, both name the same contexts.
        anchors: ``{context: features}``, where in feature space each context is at home.
        radius: Distance over which contexts blend, in the features' unit. Positive.
        temperature: Score difference at which one teacher outweighs another e to 1. Positive.
        measure: ``"accuracy"`` or ``"safety"``.

    Raises:
        ValueError: An attribute is out of range. In a call: a context or teacher is unknown, a teacher is left out,
            or the evidence has another number of features than the anchors.

    Source:
        arXiv 2601.17910, Theorem V.2, family B (context scale); the Gaussian partition is ours.
    """

    weights: Mapping[str, Shares] | None = None
    anchors: Mapping[str, Sequence[Number]] | None = None
    radius: Number = 1.0
    temperature: Number = 0.1
    measure: str = "accuracy"

    scale: ClassVar[Literal["context"]] = "context"

    def __post_init__(self) -> None:
        require_score_options(self.temperature, self.measure)
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius={self.radius!r} must be finite and positive")
        if self.weights is not None and not self.weights:
            raise ValueError("weights={} must map each context to {teacher: weight}; leave it out to use scores")
        for name, shares in (self.weights or {}).items():
            require_shares(shares, argument=f"weights[{name!r}]")
            first = next(iter(self.weights.values())) if self.weights else {}
            require_all(shares, tuple(first), argument=f"weights[{name!r}]", kind="teacher")
        if self.anchors is not None:
            _require_anchors(self.anchors, self.weights)

    @property
    def needs(self) -> frozenset[str]:
        """The measured score by context unless weights are given; ``"features"`` if there are anchors."""
        score = set() if self.weights is not None else {f"score:context:{self.measure}"}
        return frozenset(score | ({"features"} if self.anchors is not None else set()))

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        table = self._table(evidence)
        if self.anchors is None:
            return table[:, evidence.context].unsqueeze(-1)
        log_share = self._log_partition(evidence, dtype=table.dtype)
        blended = torch.logsumexp(table.unsqueeze(1) + log_share, dim=-1)
        return log_normalise(blended, dim=0).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise: the hull of the contexts' weights."""
        if self.weights is not None:
            low, high = extremes(list(self.weights.values()), n_teachers=n_teachers, argument="weights")
        else:
            low, high = softmax_range(1 / self.temperature, n_teachers)
        source = "arXiv 2601.17910, Theorem V.2, family B: a convex blend keeps box and order"
        in_scores = 0.0 if self.weights is not None else 1 / self.temperature
        metric = "any continuous input" if self.weights is not None else f"measured {self.measure}, sup"
        if self.anchors is None:
            return Declared(low, high, in_scores / 2, metric, source, score_lipschitz=in_scores)
        diameter = max((math.dist(a, b) for a, b in itertools.combinations(self.anchors.values(), 2)), default=0.0)
        constant = self._widest(high - low) * diameter / (4 * self.radius**2) + in_scores / 2
        metric = "context features, l2" if self.weights is not None else f"context features, l2; {metric}"
        return Declared(low, high, constant, metric, source)

    def _widest(self, otherwise: float) -> float:
        """Return the largest difference between two contexts of one teacher's weight."""
        if self.weights is None:
            return otherwise
        sets = list(self.weights.values())
        return max(max(one[name] for one in sets) - min(one[name] for one in sets) for name in sets[0])

    def _table(self, evidence: Evidence) -> Float[Tensor, "K D"]:
        """Return the log-weights of each context: of all, or of those with an anchor, in the anchors' order."""
        like = evidence.statistics.entropy
        dtype = numerics.reduction_dtype(like.dtype)
        if self.weights is not None:
            if self.anchors is not None:
                rows = [in_order(self.weights[name], evidence.teachers, argument="weights") for name in self.anchors]
            else:
                contexts, teachers = evidence.contexts, evidence.teachers
                rows = for_each(self.weights, contexts, teachers, argument="weights", kind="context")
            return log_normalise(numerics.log_of(torch.tensor(rows, dtype=dtype, device=like.device)), dim=-1).T
        scores = evidence.score(self.measure, by="context").to(like.device, dtype)
        if self.anchors is not None:
            require_known(self.anchors, evidence.contexts, argument="anchors", kind="context")
            scores = scores[:, [evidence.contexts.index(name) for name in self.anchors]]
        return log_normalise(scores / self.temperature, dim=0)

    def _log_partition(self, evidence: Evidence, *, dtype: torch.dtype) -> Float[Tensor, "B D"]:
        """Return ``log phi_d`` of each row's features."""
        assert self.anchors is not None
        features = evidence.features.to(dtype)
        anchors = torch.tensor([list(a) for a in self.anchors.values()], dtype=dtype, device=features.device)
        if anchors.shape[-1] != features.shape[-1]:
            raise ValueError(
                f"anchors have {anchors.shape[-1]} features, but the rows have {features.shape[-1]}; "
                "give one number for each of data.feature_columns"
            )
        squared = (features.unsqueeze(-2) - anchors).square().sum(dim=-1)
        return log_normalise(-squared / (2 * self.radius**2), dim=-1)


def _require_anchors(anchors: Mapping[str, Sequence[Number]], weights: Mapping[str, Shares] | None) -> None:
    lengths = {len(anchor) for anchor in anchors.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"anchors={dict(anchors)!r} must map each context to the same number of features, at least 1")
    for name, anchor in anchors.items():
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in anchor):
            raise ValueError(f"anchors[{name!r}]={list(anchor)!r} must be finite numbers")
    if weights is not None:
        require_all(weights, tuple(anchors), argument="weights", kind="context with an anchor")
