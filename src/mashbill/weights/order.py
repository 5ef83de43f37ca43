"""Weights that respect a safety order: a safer teacher never counts less.

The projection onto ``{sum_k w_k = 1, w_min <= w_k <= w_max, w_i >= w_j for every pair (safer i, less safe j)}`` is
exact and has two steps: the isotonic fit to the order, then the box projection of the same metric
(:mod:`mashbill.weights.simplex`), which keeps every order. Equal safety imposes nothing.

Not covered: orders that are not common to all positions of a call; the product applies one order a context.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights import simplex
from mashbill.weights.shares import Number

_MOST_UPPER_SETS = 256  # every order of 8 teachers has at most 2^8


@dataclass(frozen=True)
class _Plan:
    """How to fit an order: the teachers it concerns, and their levels (a ranking) or their upper sets."""

    teachers: tuple[int, ...]
    levels: tuple[int, ...] | None = None
    upper_sets: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class SafetyOrder:
    """A partial order of teachers by safety.

    Attributes:
        n_teachers: ``K``.
        pairs: ``(safer, less safe)`` teacher indices; pairs that follow from others may be left out.

    Raises:
        ValueError: An index is not a teacher's; the pairs contain a cycle; or the order is neither a ranking nor
            small enough for the exact projection (at most 256 upper sets, which any order of 8 teachers has).

    >>> SafetyOrder(3, ((0, 1), (1, 2))).closure
    ((0, 1), (0, 2), (1, 2))
    """

    n_teachers: int
    pairs: tuple[tuple[int, int], ...]
    closure: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    _plan: _Plan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pairs = tuple((int(safer), int(less)) for safer, less in self.pairs)
        for pair in pairs:
            if not all(0 <= index < self.n_teachers for index in pair):
                raise ValueError(f"pairs contain {pair}, but teachers are numbered 0 to {self.n_teachers - 1}")
        object.__setattr__(self, "pairs", pairs)
        object.__setattr__(self, "closure", _transitive_closure(self.n_teachers, pairs))
        object.__setattr__(self, "_plan", _plan(self.n_teachers, self.closure))

    @classmethod
    def from_scores(cls, scores: Sequence[Number]) -> "SafetyOrder":
        """Order teachers by score, higher is safer; equal scores impose nothing.

        >>> SafetyOrder.from_scores([0.9, 0.5, 0.5]).pairs
        ((0, 1), (0, 2))
        """
        values = [float(score) for score in scores]
        if any(math.isnan(value) for value in values):
            raise ValueError(f"scores={values!r} must be numbers; leave a teacher without a score out of the order")
        pairs = [(i, j) for i, a in enumerate(values) for j, b in enumerate(values) if a > b]
        return cls(len(values), tuple(pairs))

    def copeland(self) -> tuple[int, ...]:
        """Return for each teacher how many are certainly less safe minus how many are certainly safer."""
        score = [0] * self.n_teachers
        for safer, less in self.closure:
            score[safer] += 1
            score[less] -= 1
        return tuple(score)


@lru_cache(maxsize=1024)
def order_of(n_teachers: int, pairs: tuple[tuple[int, int], ...]) -> SafetyOrder:
    """Return ``SafetyOrder(n_teachers, pairs)``, built once for each set of pairs."""
    return SafetyOrder(n_teachers, pairs)


def project(
    w: Float[Tensor, "*batch K"],
    *,
    safety: SafetyOrder | Sequence[Number] | Float[Tensor, "*#batch K"],
    w_min: Number = 0.0,
    w_max: Number = 1.0,
    metric: Literal["l2", "kl"] = "l2",
) -> Float[Tensor, "*batch K"]:
    """Return the nearest weights that respect the order, the box and sum to 1.

    Args:
        w: Weights or, with ``metric="l2"``, any real numbers.
        safety: An order, or one score a teacher (higher is safer, ties impose nothing).
        w_min: Least weight.
        w_max: Largest weight.
        metric: ``"l2"`` least squares; ``"kl"`` least ``KL(w' || w)``, which keeps ratios.

    Returns:
        Probabilities; ``w'_i >= w'_j`` for every pair, and the order cannot be infeasible (uniform satisfies it).

    Raises:
        ValueError: The box is empty for ``K``, the order is for another ``K``, or the metric is unknown.

    Source:
        arXiv 2601.17910, Axioms III.5 and III.22. The projection is discontinuous in the scores where they tie.

    >>> w = torch.tensor([0.44, 0.56], dtype=torch.float64)
    >>> project(w, safety=[2.0, 1.0], w_min=0.2, w_max=0.8).tolist()
    [0.5, 0.5]
    """
    if metric == "l2":
        return simplex.project_l2(fit(w, safety), w_min=w_min, w_max=w_max)
    if metric == "kl":
        low, high = simplex.effective_bounds(w.shape[-1], w_min=w_min, w_max=w_max)
        log_w = simplex.project_kl_log(fit(numerics.log_of(w), safety), w_min=w_min, w_max=w_max)
        return log_w.exp().clamp(low, high)
    raise ValueError(f"metric={metric!r} must be 'l2' or 'kl'")


def fit(
    values: Float[Tensor, "*batch K"],
    safety: SafetyOrder | Sequence[Number] | Float[Tensor, "*#batch K"],
) -> Float[Tensor, "*batch K"]:
    """Isotonic fit: the least-squares values that respect the order, as means over blocks of teachers.

    Sup-norm non-expansive. On weights it is the first step of the l2 projection, on log-weights that of the KL one.
    """
    wide = values.to(numerics.reduction_dtype(values.dtype))
    if not isinstance(safety, SafetyOrder):
        scores = torch.as_tensor(safety, dtype=wide.dtype, device=wide.device)
        if scores.shape[-1] != wide.shape[-1]:
            raise ValueError(f"safety has {scores.shape[-1]} scores for {wide.shape[-1]} teachers; give one each")
        return _fit_ranking(wide, scores.expand_as(wide))
    if safety.n_teachers != wide.shape[-1]:
        raise ValueError(f"safety orders {safety.n_teachers} teachers, but there are {wide.shape[-1]} weights")
    plan = safety._plan
    if not plan.teachers:
        return wide
    index = torch.tensor(plan.teachers, device=wide.device)
    concerned = wide.index_select(-1, index)
    if plan.levels is not None:
        levels = torch.tensor(plan.levels, dtype=wide.dtype, device=wide.device)
        fitted = _fit_ranking(concerned, levels.expand_as(concerned))
    else:
        fitted = _fit_by_upper_sets(concerned, torch.tensor(plan.upper_sets, dtype=wide.dtype, device=wide.device))
    return wide.index_copy(-1, index, fitted)


def _fit_ranking(values: Float[Tensor, "*batch K"], scores: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """Sort by safety, then value; ties then need no constraint among themselves (primary treatment of ties)."""
    by_value = values.detach().argsort(dim=-1, descending=True)
    by_safety = scores.gather(-1, by_value).argsort(dim=-1, descending=True, stable=True)
    permutation = by_value.gather(-1, by_safety)
    fitted = _pool_adjacent(values.gather(-1, permutation))
    return torch.empty_like(fitted).scatter(-1, permutation, fitted)


def _pool_adjacent(values: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """Non-increasing isotonic fit ``min_{a<=i} max_{b>=i} mean(v_a..v_b)``: pool-adjacent-violators in one formula.

    Every output is one of the same table of means, and the sets of ``a`` and ``b`` grow and shrink with ``i``, so the
    result is non-increasing to the last bit.
    """
    n = values.shape[-1]
    position = torch.arange(n, device=values.device)
    before = position.unsqueeze(-1) > position  # [a, b] with a > b: no block
    # A running sum from each start, not a difference of prefix sums: a value near LOG_ZERO must not blur the others.
    starts = values.unsqueeze(-2).expand(*values.shape, n).masked_fill(before, 0)
    length = (position - position.unsqueeze(-1) + 1).clamp_min(1).to(values.dtype)
    means = starts.cumsum(dim=-1) / length
    with torch.no_grad():
        blocked = means.masked_fill(before, -torch.inf)
        best, back = blocked.flip(-1).cummax(dim=-1)
        best, end = best.flip(-1), n - 1 - back.flip(-1)  # over b >= i, for each a
        start = best.masked_fill(before, torch.inf).argmin(dim=-2)  # over a <= i
        end = end.gather(-2, start.unsqueeze(-2)).squeeze(-2)
    return means.flatten(-2).gather(-1, start * n + end)


def _fit_by_upper_sets(
    values: Float[Tensor, "*batch K"], upper_sets: Float[Tensor, "n K"]
) -> Float[Tensor, "*batch K"]:
    """Isotonic fit to any order: peel off the upper set of largest mean until no teacher is left (Brunk)."""
    with torch.no_grad():
        left, fitted = torch.ones_like(values), torch.zeros_like(values)
        block = torch.zeros_like(values, dtype=torch.long)
        ceiling = torch.full_like(values[..., :1], torch.inf)
        for step in range(values.shape[-1]):
            count = (left.unsqueeze(-2) * upper_sets).sum(dim=-1)
            total = ((values * left).unsqueeze(-2) * upper_sets).sum(dim=-1)
            mean = torch.where(count > 0, total / count.clamp_min(1), -torch.inf)
            largest, which = mean.max(dim=-1, keepdim=True)
            # Means can only fall from peel to peel; rounding must not break the order.
            ceiling = torch.minimum(ceiling, largest)
            taken = (upper_sets[which.squeeze(-1)] * left) > 0
            fitted = torch.where(taken, ceiling, fitted)
            block = torch.where(taken, step, block)
            left = left.masked_fill(taken, 0)
        together = (block.unsqueeze(-1) == block.unsqueeze(-2)).to(values.dtype)
    # The value is the one found above, bit for bit; the gradient is that of the block means.
    mean = (together * values.unsqueeze(-2)).sum(dim=-1) / together.sum(dim=-1)
    return fitted + (mean - mean.detach())


def _plan(n_teachers: int, closure: tuple[tuple[int, int], ...]) -> _Plan:
    teachers = tuple(sorted({index for pair in closure for index in pair}))
    n_safer = dict.fromkeys(teachers, 0)
    for _, less in closure:
        n_safer[less] += 1
    ranked = {(i, j) for i in teachers for j in teachers if n_safer[i] < n_safer[j]}
    if ranked == set(closure):
        return _Plan(teachers, levels=tuple(-n_safer[k] for k in teachers))
    safer_than = {j: frozenset(i for i, less in closure if less == j) for j in teachers}
    found = _enumerate_upper_sets(teachers, safer_than)
    if found is None:
        raise ValueError(
            f"pairs order {len(teachers)} of {n_teachers} teachers in a way with more than {_MOST_UPPER_SETS} upper "
            "sets, too many for the exact projection; rank the teachers (SafetyOrder.from_scores), or order fewer"
        )
    return _Plan(teachers, upper_sets=tuple(tuple(int(k in one) for k in teachers) for one in found))


def _enumerate_upper_sets(
    teachers: Sequence[int], safer_than: dict[int, frozenset[int]]
) -> list[frozenset[int]] | None:
    """Return all non-empty sets that contain, with a teacher, all safer ones; None if there are too many."""
    found: set[frozenset[int]] = {frozenset()}
    # Safest first: a teacher can join exactly the sets that already hold all that are safer.
    for teacher in sorted(teachers, key=lambda k: len(safer_than[k])):
        found |= {one | {teacher} for one in found if safer_than[teacher] <= one}
        if len(found) > _MOST_UPPER_SETS:
            return None
    return sorted((one for one in found if one), key=sorted)


def _transitive_closure(n_teachers: int, pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return every pair that follows, sorted.

    Raises:
        ValueError: Names a cycle.
    """
    path: dict[tuple[int, int], tuple[int, ...]] = {(i, j): (i, j) for i, j in pairs}
    for middle in range(n_teachers):
        heads = [(i, path[i, j]) for i, j in path if j == middle]
        tails = [(j, path[i, j]) for i, j in path if i == middle]
        for i, head in heads:
            for j, tail in tails:
                path.setdefault((i, j), head + tail[1:])
    for (i, j), way in path.items():
        if i == j:
            raise ValueError(f"pairs contain the cycle {' > '.join(map(str, way))}; remove one of its pairs")
    return tuple(sorted(path))


__all__ = ["SafetyOrder", "fit", "order_of", "project"]
