"""From positions to rows: published methods weigh samples, and a sequence is one sample of many positions."""

import torch

from mashbill import numerics
from mashbill.shapes import Bool, Float, Tensor


def mean_over_positions(values: Float[Tensor, "*lead B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "*lead B"]:
    """Mean of each row over the positions that count and have a finite value; 0 for a row without any.

    A classifier's row has one position: its mean is the value itself, as in the papers.

    Args:
        values: Anything; what stands at other positions is never read, not even by the gradient.
        mask: Positions that count.
    """
    wide = numerics.widen(values)
    counted = mask & wide.isfinite()
    return torch.where(counted, wide, 0).sum(dim=-1) / counted.sum(dim=-1).clamp_min(1)


def mean_of_entries(values: Float[Tensor, "*lead B T V"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "*lead B V"]:
    """:func:`mean_over_positions` of each entry; one not finite leaves its whole position out."""
    wide = numerics.widen(values)
    counted = (mask & wide.isfinite().all(dim=-1)).unsqueeze(-1)
    return torch.where(counted, wide, 0).sum(dim=-2) / counted.sum(dim=-2).clamp_min(1)
