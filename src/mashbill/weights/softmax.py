"""What is certain of a softmax of scores: range of weights, their exact interval, and the slope of an entropy."""

import math
from collections.abc import Sequence

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


def softmax_range(score_range: float, n_teachers: int) -> tuple[float, float]:
    """Return the least and largest softmax weight of ``K`` scores that differ by at most ``score_range``.

    ``[1/(1 + (K-1) e^R), 1/(1 + (K-1) e^-R)]``.

    >>> softmax_range(0.0, 4)
    (0.25, 0.25)
    """
    # e^-R first: it underflows to 0 where e^R would overflow.
    shrink = math.exp(-score_range)
    return shrink / (shrink + (n_teachers - 1)), 1 / (1 + (n_teachers - 1) * shrink)


def softmax_interval(
    low: Float[Tensor, "K *batch"], high: Float[Tensor, "K *batch"]
) -> tuple[Float[Tensor, "K *batch"], Float[Tensor, "K *batch"]]:
    """Return the least and largest softmax weight of each teacher when each score lies anywhere between its ends.

    Softmax grows in a teacher's own score and falls in every other, so a weight is least with its own score at the
    low end and all others at the high end, and largest the other way round: both are attained. Differentiable;
    O(K^2) a position.

    Args:
        low: Low ends of the scores.
        high: High ends, not below ``low``.

    Returns:
        Weights, float32 at least.

    >>> low, high = softmax_interval(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))
    >>> [round(w, 4) for w in (*low.tolist(), *high.tolist())]
    [0.2689, 0.5, 0.5, 0.7311]
    """
    low, high = numerics.widen(low), numerics.widen(high)
    n_teachers = low.shape[0]
    is_own = torch.eye(n_teachers, dtype=torch.bool, device=low.device)
    is_own = is_own.reshape(n_teachers, n_teachers, *(1 for _ in low.shape[1:]))
    least = low - torch.where(is_own, low, high).logsumexp(dim=1)
    most = high - torch.where(is_own, high, low).logsumexp(dim=1)
    return least.exp(), most.exp()


def shifted_range(low: Sequence[Number], width: Number) -> tuple[float, float]:
    """Return the least and largest weight of any teacher whose score lies in ``[low_k, low_k + width]``."""
    ends = torch.tensor([float(score) for score in low], dtype=torch.float64)
    least, most = softmax_interval(ends, ends + width)
    return float(least.min()), float(most.max())


def softmax_error(
    log_weights: Float[Tensor, "K *batch"], standard_error: Float[Tensor, "K *batch"]
) -> Float[Tensor, "K *batch"]:
    """Return the standard error of softmax weights from that of independent scores, to first order.

    The delta method: ``sqrt( sum_j (w_k (delta_kj - w_j) se_j)^2 )``.
    """
    weights = log_weights.exp()
    n_teachers = len(weights)
    own = torch.eye(n_teachers, dtype=weights.dtype, device=weights.device)
    own = own.reshape(n_teachers, n_teachers, *(1 for _ in weights.shape[1:]))
    slope = weights.unsqueeze(1) * (own - weights)
    # An unknown error of a score that does not move the weight is no error.
    return torch.where(slope == 0, 0, slope * standard_error).square().sum(dim=1).sqrt()


def entropy_lipschitz(n_entries: int) -> float:
    """Return ``L_H(V) = max_a 2a(1-a) |ln(a(V-1)/(1-a))|``: entropy's Lipschitz constant in logits (sup norm), nats.

    The maximiser is a two-level distribution: one entry of probability ``a``, the others alike.

    >>> round(entropy_lipschitz(50257), 6)
    5.458119
    """
    if n_entries < 2:
        return 0.0
    log_others = math.log(n_entries - 1)

    def slope(logit: float) -> float:  # a = sigmoid(logit); log(a/(1-a)) = logit
        a = 1 / (1 + math.exp(-logit))
        return 2 * a * (1 - a) * abs(logit + log_others)

    low, high = -log_others, 40.0  # a from 1/V, where the slope is 0, to 1; one hump between
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if slope(left) < slope(right) else (low, right)
    return slope((low + high) / 2)
