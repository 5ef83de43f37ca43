"""Which float type a solver inside a pool works in."""

import torch

from mashbill.shapes import Float, Tensor


def widest(values: Float[Tensor, "*shape"]) -> torch.dtype:
    """Return float64, or float32 where the device has no wider type."""
    return torch.float32 if values.device.type == "mps" else torch.float64
