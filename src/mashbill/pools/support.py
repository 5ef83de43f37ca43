"""The support function of the box simplex: how far its mixtures reach in a direction."""

import torch

from mashbill.shapes import Float, Tensor
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.shares import Number


def largest_mean(
    values: Float[Tensor, "K *batch"], *, w_min: Number = 0.0, w_max: Number = 1.0
) -> Float[Tensor, "*batch"]:
    """Return ``max_w sum_k w_k values_k`` over ``{sum_k w_k = 1, w_min <= w_k <= w_max}``, exactly.

    A linear function is largest at a vertex: ``w_min`` for all, and what is left to the largest values first. With
    ``w_min = 0`` and ``w_max = 1`` it is the largest value.

    Args:
        values: Any real numbers.
        w_min: Least weight.
        w_max: Largest weight.

    Raises:
        ValueError: The box is empty for ``K``.

    >>> largest_mean(torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64), w_min=0.1, w_max=0.6).round(decimals=3).item()
    2.5
    """
    n_teachers = values.shape[0]
    low, high = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    filled = torch.arange(n_teachers, dtype=values.dtype, device=values.device) * (high - low)
    vertex = low + (1 - n_teachers * low - filled).clamp(0, high - low)
    return torch.tensordot(vertex, values.sort(dim=0, descending=True).values, dims=1)
