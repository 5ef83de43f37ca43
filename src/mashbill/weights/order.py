"""Weights that respect a safety order: a safer teacher never counts less.

The projection onto ``{sum_k w_k = 1, w_min <= w_k <= w_max, w_i >= w_j for every pair (safer i, less safe j)}`` is
exact and has two steps: the isotonic fit to the order (:mod:`mashbill.weights.isotonic`), then the box projection of
the same metric (:mod:`mashbill.weights.simplex`), which keeps every order. Equal safety imposes nothing; teachers that
an order ties get equal weights.

Orders may differ from position to position (:func:`project_by`), contradict each other (:func:`merge`), and be relaxed
near ties so that the weights are continuous in the scores (:func:`project_relaxed`).
"""

from collections.abc import Sequence
from typing import Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, Int, Tensor
from mashbill.weights import isotonic, simplex
from mashbill.weights.partial_order import Conflict, Merged, SafetyOrder, merge, order_of
from mashbill.weights.relaxed_order import project_relaxed
from mashbill.weights.shares import Number

Metric = Literal["l2", "kl"]


def project(
    w: Float[Tensor, "*batch K"],
    *,
    safety: SafetyOrder | Sequence[Number] | Float[Tensor, "*#batch K"],
    w_min: Number = 0.0,
    w_max: Number = 1.0,
    metric: Metric = "l2",
) -> Float[Tensor, "*batch K"]:
    """Return the nearest weights that respect the order, the box and sum to 1.

    Cost: ``O(K log K)`` a row for scores and rankings; see :mod:`mashbill.weights.isotonic` for other orders.

    Args:
        w: Weights or, with ``metric="l2"``, any real numbers.
        safety: An order, or one score a teacher (higher is safer, ties impose nothing).
        w_min: Least weight.
        w_max: Largest weight.
        metric: ``"l2"`` least squares; ``"kl"`` least ``KL(w' || w)``, which keeps ratios.

    Returns:
        Probabilities; ``w'_i >= w'_j`` for every pair, to the last bit with ``"l2"`` and within one rounding of ``exp``
        with ``"kl"``; teachers that the order ties are equal. An order cannot be infeasible: uniform satisfies it.

    Raises:
        ValueError: The box is empty for ``K``, the order is for another ``K``, the metric is unknown, or a score is NaN
            (checked on the CPU only).

    Source:
        arXiv 2601.17910, Axioms III.5 and III.22. The projection is continuous in ``w`` (l2: 1-Lipschitz in l2), and
        discontinuous in the scores where they tie; :func:`project_relaxed` is not.

    >>> w = torch.tensor([0.44, 0.56], dtype=torch.float64)
    >>> project(w, safety=[2.0, 1.0], w_min=0.2, w_max=0.8).tolist()
    [0.5, 0.5]
    """
    return _into_box(fit(_in_metric(w, metric), safety), w_min=w_min, w_max=w_max, metric=metric)


def project_by(
    w: Float[Tensor, "*batch K"],
    which: Int[Tensor, "*#batch"],
    *,
    orders: Sequence[SafetyOrder],
    w_min: Number = 0.0,
    w_max: Number = 1.0,
    metric: Metric = "l2",
) -> Float[Tensor, "*batch K"]:
    """Return the nearest weights under an order of each element's own: :func:`project` with ``orders[which]``.

    One order by average safety puts weight on a teacher that may be the worse one for a given kind of critical token.
    With a class for every vocabulary entry (0 medical, 1 legal, -1 other), ``which = class_of[labels]`` is ``[B T]``
    and ``orders[c]`` the order certified on class ``c`` alone; by task, ``which = evidence.task[:, None]``.

    Args:
        w: As in :func:`project`.
        which: Index into ``orders`` of each element, or ``-1`` for no order, only the box.
        orders: One a subset; a subset whose teachers are tied or conflict has its order from :func:`merge`.
        w_min: Least weight.
        w_max: Largest weight.
        metric: As in :func:`project`.

    Raises:
        ValueError: As :func:`project`, or (checked on the CPU only) ``which`` names an order that does not exist.
    """
    return _into_box(fit_by(_in_metric(w, metric), which, orders), w_min=w_min, w_max=w_max, metric=metric)


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
        # A sort would take NaN for the safest. Looking at it elsewhere than on the CPU would wait for the device.
        if scores.device.type == "cpu" and bool(scores.isnan().any()):
            raise ValueError("safety has a NaN score, which is no rank; order the teachers that have one: SafetyOrder")
        return isotonic.fit_ranking(wide, scores.expand_as(wide), wide.new_ones(wide.shape[-1]))
    if safety.n_teachers != wide.shape[-1]:
        raise ValueError(f"safety orders {safety.n_teachers} teachers, but there are {wide.shape[-1]} weights")
    groups = safety._groups
    merged = _group_means(wide, groups)
    for part in safety._parts:
        index = torch.tensor(part.members, device=wide.device)
        sizes = [len(groups[member]) for member in part.members]
        merged = merged.index_copy(-1, index, isotonic.fit_part(merged.index_select(-1, index), sizes, part))
    if len(groups) == wide.shape[-1]:
        return merged
    group_of = {k: n for n, group in enumerate(groups) for k in group}
    return merged.index_select(-1, torch.tensor([group_of[k] for k in range(wide.shape[-1])], device=wide.device))


def fit_by(
    values: Float[Tensor, "*batch K"], which: Int[Tensor, "*#batch"], orders: Sequence[SafetyOrder]
) -> Float[Tensor, "*batch K"]:
    """:func:`fit` with an order of each element's own, ``-1`` for none; one fit an order. See :func:`project_by`."""
    wide = values.to(numerics.reduction_dtype(values.dtype))
    # Looking at an index elsewhere than on the CPU would make the step wait for the device.
    if which.device.type == "cpu" and which.numel() and not -1 <= int(which.min()) <= int(which.max()) < len(orders):
        raise ValueError(
            f"which contains {int(which.min())} to {int(which.max())}, but there are {len(orders)} orders, "
            "numbered from 0, and -1 for none"
        )
    fitted = wide
    for n, safety in enumerate(orders):
        is_meant = (which == n).unsqueeze(-1)
        # Equal numbers break no order, so the rows of others cost nothing where rows are fitted one by one.
        fitted = torch.where(is_meant, fit(wide.masked_fill(~is_meant, 0), safety), fitted)
    return fitted


def _group_means(values: Float[Tensor, "*batch K"], groups: Sequence[Sequence[int]]) -> Float[Tensor, "*batch _"]:
    """Return the mean of each group, which stands for its teachers; values as they are where all are alone."""
    if len(groups) == values.shape[-1]:
        return values
    columns = [values[..., list(group)] for group in groups]
    firsts = [column[..., :1] for column in columns]
    # The mean of equal numbers is that number.
    means = [first + (column - first).mean(dim=-1, keepdim=True) for first, column in zip(firsts, columns, strict=True)]
    return torch.cat(means, dim=-1)


def _in_metric(w: Float[Tensor, "*batch K"], metric: str) -> Float[Tensor, "*batch K"]:
    if metric not in ("l2", "kl"):
        raise ValueError(f"metric={metric!r} must be 'l2' or 'kl'")
    return w if metric == "l2" else numerics.log_of(w)


def _into_box(
    fitted: Float[Tensor, "*batch K"], *, w_min: Number, w_max: Number, metric: str
) -> Float[Tensor, "*batch K"]:
    if metric == "l2":
        return simplex.project_l2(fitted, w_min=w_min, w_max=w_max)
    low, high = simplex.effective_bounds(fitted.shape[-1], w_min=w_min, w_max=w_max)
    return simplex.project_kl_log(fitted, w_min=w_min, w_max=w_max).exp().clamp(low, high)


__all__ = [
    "Conflict",
    "Merged",
    "SafetyOrder",
    "fit",
    "fit_by",
    "merge",
    "order_of",
    "project",
    "project_by",
    "project_relaxed",
]
