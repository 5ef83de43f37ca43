"""The border of the safe set: from weights in order inside to free weights outside, without a jump.

Weights that are continuous and in order on a set are in order on its closure. If outside it the weights prefer the
other teacher by a gap ``g``, a rule with Lipschitz constant ``L`` needs a band of width ``g/(2L)`` to get there. The
blend puts that band outside the set: order holds on all of it, and the constant is known.

Not covered: order outside the safe set; only what both rules keep is kept there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence, WeightOperator
from mashbill.weights.promises import declared_of
from mashbill.weights.shares import Number, require_known
from mashbill.weights.shift import distance_to

Point = Sequence[Number]


@dataclass(frozen=True)
class SafeSet:
    """A union of boxes and balls in feature space and of whole named contexts; a row lies in it or at a distance.

    Attributes:
        boxes: ``(low, high)`` corners of axis-aligned boxes; an infinite entry leaves that side open.
        balls: ``(centre, radius)``.
        contexts: Names of contexts all of whose rows are safe, whatever their features.

    Raises:
        ValueError: Nothing is given, or a box or ball is empty or of another number of features than the rest.

    >>> SafeSet(boxes=[([0.0, 0.0], [1.0, 1.0])]).distance(torch.tensor([[0.5, 0.5], [4.0, 5.0]])).tolist()
    [0.0, 5.0]
    """

    boxes: Sequence[tuple[Point, Point]] = ()
    balls: Sequence[tuple[Point, Number]] = ()
    contexts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not (self.boxes or self.balls or self.contexts):
            raise ValueError("safe={} is empty; give boxes, balls or contexts")
        for low, high in self.boxes:
            is_ordered = len(low) == len(high) and all(a <= b for a, b in zip(low, high, strict=True))
            if not is_ordered or math.inf in low or -math.inf in high:  # NaN is not ordered
                raise ValueError(f"boxes contain {list(low)!r} to {list(high)!r}; low must not exceed high anywhere")
        for centre, radius in self.balls:
            if not all(map(math.isfinite, centre)) or not 0 <= radius < math.inf:
                raise ValueError(
                    f"balls contain {list(centre)!r} of radius {radius!r}; both must be finite, radius >= 0"
                )
        if len(sizes := {len(point) for point, _ in (*self.boxes, *self.balls)}) > 1 or 0 in sizes:
            raise ValueError(f"boxes and balls have {sorted(sizes)} features; give all the same number, at least 1")

    @property
    def reads_features(self) -> bool:
        """Whether any part lies in feature space."""
        return bool(self.boxes or self.balls)

    def distance(self, features: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """Return the Euclidean distance to the nearest box or ball, 0 inside; infinite if there is none.

        1-Lipschitz in the features (l2).

        Raises:
            ValueError: The features have another number of columns.
        """
        like = {"dtype": features.dtype, "device": features.device}
        n_given = {len(point) for point, _ in (*self.boxes, *self.balls)}
        if n_given and n_given != {features.shape[-1]}:
            raise ValueError(
                f"safe has {n_given.pop()} features, but the rows have {features.shape[-1]}; "
                "give one number for each of data.feature_columns"
            )
        parts = [torch.full(features.shape[:1], torch.inf, **like)]
        for low, high in self.boxes:
            below = torch.tensor(list(low), **like) - features
            above = features - torch.tensor(list(high), **like)
            parts.append(distance_to(torch.maximum(below, above).clamp_min(0)))
        for centre, radius in self.balls:
            parts.append((distance_to(features - torch.tensor(list(centre), **like)) - radius).clamp_min(0))
        return torch.stack(parts).amin(dim=0)

    def distance_of(self, evidence: Evidence) -> Float[Tensor, " B"]:
        """Return each row's distance; 0 for all rows of a safe context.

        Raises:
            ValueError: A context does not exist, or as :meth:`distance`.
        """
        require_known(self.contexts, evidence.contexts, argument="safe", kind="context")
        dtype = numerics.reduction_dtype(evidence.statistics.entropy.dtype)
        distance = self.distance(evidence.features.to(dtype))
        for name in self.contexts:
            distance = distance.masked_fill(evidence.context == evidence.contexts.index(name), 0)
        return distance


def boundary_blend(
    free: Float[Tensor, "*#batch K"],
    ordered: Float[Tensor, "*#batch K"],
    distance: Float[Tensor, "*#batch"] | Number,
    *,
    radius: Number,
) -> Float[Tensor, "*batch K"]:
    """Return ``(1 - lam) free + lam ordered`` with ``lam = max(0, 1 - distance/radius)``.

    Convex in between: any box, and any order that both keep, is kept. Where ``distance`` is 0 the result is
    ``ordered`` and where it is at least ``radius`` it is ``free``, to the last bit.

    Lipschitz constant ``max(L_free, L_ordered) + R/radius`` in whatever ``distance`` is 1-Lipschitz in, with ``R``
    the largest difference of the two sets of weights.

    Args:
        free: Weights far from the safe set, over the last axis.
        ordered: Weights on the safe set.
        distance: Distance from the safe set, at least 0.
        radius: Width of the band; positive.

    Raises:
        ValueError: ``radius`` is not positive.

    Source:
        arXiv 2601.17910, Axioms III.20 to III.22, which say nothing of the border.

    >>> free, ordered = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    >>> boundary_blend(free, ordered, 0.1, radius=0.5).round(decimals=4).tolist()
    [0.54, 0.46]
    """
    _require_radius(radius)
    free, ordered = numerics.widen(free), numerics.widen(ordered)
    lam = _inside(torch.as_tensor(distance, dtype=free.dtype, device=free.device), radius).unsqueeze(-1)
    return (1 - lam) * free + lam * ordered


@dataclass(frozen=True)
class Blend:
    """``(1 - lam) w_free + lam w_ordered``, ``lam = max(0, 1 - dist(c, C_safe)/radius)`` of the row's features ``c``.

    On the safe set the weights are exactly those of ``ordered``, as a rule ``conform(op, bounds=..., order=...)``; at
    a distance of ``radius`` or more they are exactly those of ``free``.

    Range: from the lesser low end to the greater high end of the two. Lipschitz constant
    ``max(L_free, L_ordered) + R/radius``, ``R`` the largest difference that the two ranges allow: the derivative is
    a convex mean of both rules' derivatives plus ``lam'`` times their difference (``L_free + L_ordered + R/radius``
    bounds it too). Between named contexts, which are discrete, weights may jump. Normalised, positive and bounded as
    the rules are; ordered on the safe set.

    Attributes:
        free: Rule outside.
        ordered: Rule on the safe set.
        safe: The safe set, or its parts as a mapping: ``{"boxes": ..., "balls": ..., "contexts": ...}``.
        radius: Width of the band outside the safe set, in the features' unit. Positive.

    Raises:
        ValueError: ``radius`` is not positive, or ``safe`` is empty. In a call: as the rules, or features or contexts
            do not fit ``safe``.

    Source:
        arXiv 2601.17910, Axioms III.20 to III.22; the band is ours.
    """

    free: WeightOperator
    ordered: WeightOperator
    safe: SafeSet | Mapping[str, Any]
    radius: Number = 1.0

    def __post_init__(self) -> None:
        _require_radius(self.radius)
        if isinstance(self.safe, Mapping):
            object.__setattr__(self, "safe", SafeSet(**self.safe))

    @property
    def scale(self) -> Literal["token", "context"]:
        """``"token"`` if one of the rules works there, else ``"context"``."""
        return "token" if "token" in (getattr(rule, "scale", None) for rule in (self.free, self.ordered)) else "context"

    @property
    def needs(self) -> frozenset[str]:
        """What the rules read, and ``"features"`` unless whole contexts are safe."""
        read = frozenset({"features"}) if cast(SafeSet, self.safe).reads_features else frozenset()
        return read.union(*(getattr(rule, "needs", frozenset()) for rule in (self.free, self.ordered)))

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B #T]``."""
        free, ordered = numerics.widen(self.free(evidence)), numerics.widen(self.ordered(evidence))
        distance = cast(SafeSet, self.safe).distance_of(evidence).to(free.dtype)
        lam = _inside(distance, self.radius).unsqueeze(-1)
        # In logs, so that a weight too small for its own exponential stays what it was.
        blended = torch.logaddexp(numerics.log_of(1 - lam) + free, numerics.log_of(lam) + ordered)
        return torch.where(lam == 1, ordered, torch.where(lam == 0, free, blended)).clamp_min(numerics.LOG_ZERO)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, from those of the two rules."""
        free, ordered = declared_of(self.free, n_teachers), declared_of(self.ordered, n_teachers)
        low, high = min(free.lowest, ordered.lowest), max(free.highest, ordered.highest)
        apart = max(0.0, ordered.highest - free.lowest, free.highest - ordered.lowest) if n_teachers > 1 else 0.0
        in_band = apart / self.radius if cast(SafeSet, self.safe).reads_features else 0.0
        known = [part.lipschitz for part in (free, ordered) if part.lipschitz is not None]
        metrics = ["context features, l2"] if in_band else []
        metrics += [part.metric for part in (free, ordered) if part.lipschitz != 0]
        return Declared(
            low,
            high,
            max(known) + in_band if len(known) == 2 else None,
            "; ".join(dict.fromkeys(metrics)) or "any continuous input",
            f"convex blend across the border of the safe set of: {free.source}; {ordered.source}",
            reads_student=free.reads_student or ordered.reads_student,
            mixes_rows=free.mixes_rows or ordered.mixes_rows,
        )


def _inside(distance: Float[Tensor, "*batch"], radius: Number) -> Float[Tensor, "*batch"]:
    return (1 - distance / radius).clamp(0, 1)


def _require_radius(radius: Number) -> None:
    if not 0 < radius < math.inf:
        raise ValueError(f"radius={radius!r} must be finite and positive; without a band the weights jump")
