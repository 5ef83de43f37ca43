"""How noisy a weighted gradient can be, against the gradients of single teachers and of uniform weights.

No bound by a multiple of the uniform variance holds in general: gradients that cancel under equal weights have a
uniform variance of 0. Three bounds hold, each under its own premise.
"""

from mashbill.shapes import Float, Tensor
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.shares import Number


def gradient_variance(
    weights: Float[Tensor, "*batch K"], covariance: Float[Tensor, "*#batch K K"]
) -> Float[Tensor, "*batch"]:
    """Return the variance of ``sum_k w_k g_k`` for weights that do not depend on the data: ``w' C w``.

    Args:
        weights: Probabilities over the last axis.
        covariance: Of the teachers' gradients: traces, or of one coordinate.

    >>> import torch
    >>> anti = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> gradient_variance(torch.tensor([[0.5, 0.5], [0.6, 0.4]], dtype=torch.float64), anti).round(decimals=6).tolist()
    [0.0, 0.04]
    """
    return (weights.unsqueeze(-2) @ covariance @ weights.unsqueeze(-1)).squeeze(-1).squeeze(-1)


def sd_bound(weights: Float[Tensor, "*batch K"], sds: Float[Tensor, "*#batch K"]) -> Float[Tensor, "*batch"]:
    """Bound of the standard deviation for weights that do not depend on the data: ``sum_k w_k sigma_k``.

    At most ``max_k sigma_k``; attained by teachers that are perfectly correlated.

    Args:
        weights: Probabilities over the last axis.
        sds: Standard deviation of each teacher's gradient.

    Source:
        Minkowski's inequality; replaces arXiv 2601.17910, Lemma VII.4.
    """
    return (weights * sds).sum(dim=-1)


def variance_factor(n_teachers: int, w_max: Number) -> float:
    """Factor ``(K w_max)^2`` on the uniform variance, if no two teachers' gradients are negatively correlated.

    ``sum_jk w_j w_k C_jk <= w_max^2 sum_jk C_jk`` for ``C >= 0``. Attained where only teachers of weight ``w_max`` are
    noisy. Never more than the lemma's ``(w_max/w_min)^2``, because ``w_min <= 1/K``. For weights that do not depend on
    the data.

    Args:
        n_teachers: ``K``.
        w_max: Largest weight.

    Source:
        arXiv 2601.17910, Lemma VII.4, with the premise that it needs.

    >>> round(variance_factor(2, 0.8), 6)
    2.56
    """
    effective_bounds(n_teachers, w_min=0.0, w_max=w_max)
    return float((n_teachers * w_max) ** 2)


def largest_deviation(n_teachers: int, *, w_min: Number, w_max: Number) -> float:
    """Largest l1 distance of weights in the box from uniform, ``R = max_w |w - 1/K|_1``.

    A convex function is largest at a vertex, and all vertices of a box simplex are permutations of one: as many weights
    as possible at the upper bound, at most one between, the others at the lower one.

    Args:
        n_teachers: ``K``.
        w_min: Least weight.
        w_max: Largest weight.

    Raises:
        ValueError: The box is empty for ``K``.

    Source:
        arXiv 2601.17910, Remark II.2, as a number.

    >>> round(largest_deviation(3, w_min=0.1, w_max=0.8), 6)
    0.933333
    """
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    if high <= low:
        return 0.0
    n_high = min(n_teachers - 1, int((1 - n_teachers * low) / (high - low) + 1e-9))
    between = 1 - n_high * high - (n_teachers - 1 - n_high) * low
    even = 1 / n_teachers
    return n_high * (high - even) + abs(between - even) + (n_teachers - 1 - n_high) * (even - low)


def sd_bound_varying(sd_uniform: Number, spread: Number, *, n_teachers: int, w_min: Number, w_max: Number) -> float:
    """Bound of the standard deviation for weights that depend on the data: ``sd_uniform + R D``.

    ``sum_k w_k g_k`` is the uniform gradient plus ``sum_k (w_k - 1/K)(g_k - mean)``, whose root mean square is at most
    ``R D``.

    Args:
        sd_uniform: Standard deviation of the gradient under uniform weights.
        spread: ``D``, the root mean square of ``max_k |g_k - mean_j g_j|``.
        n_teachers: ``K``.
        w_min: Least weight.
        w_max: Largest weight.

    Source:
        Replaces arXiv 2601.17910, Lemma VII.4, which constant teachers with alternating weights refute too.
    """
    if not (sd_uniform >= 0 and spread >= 0):
        raise ValueError(f"sd_uniform={sd_uniform!r} and spread={spread!r} must not be negative")
    return float(sd_uniform + largest_deviation(n_teachers, w_min=w_min, w_max=w_max) * spread)
