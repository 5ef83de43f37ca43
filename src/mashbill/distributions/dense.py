"""A distribution that holds a log-probability for every vocabulary entry."""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Dense:
    """Log-probabilities over all ``V`` entries.

    Attributes:
        logprobs: Nats, normalised over the last axis, at least ``LOG_ZERO``.
    """

    logprobs: Float[Tensor, "*batch V"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*batch V"]) -> "Dense":
        """Normalise logits; reduced in float32 at least, ``-inf`` becomes ``LOG_ZERO``."""
        return cls(numerics.log_softmax(logits))

    @classmethod
    def from_probs(cls, probabilities: Float[Tensor, "*batch V"]) -> "Dense":
        """Take probabilities that already sum to 1; zeros become ``LOG_ZERO``.

        Raises:
            ValueError: A value is negative or NaN, or a row does not sum to 1 within 1e-4, or within the rounding of
                a dtype coarser than that.
        """
        tolerance = max(1e-4, torch.finfo(probabilities.dtype).eps)
        total = numerics.widen(probabilities).sum(dim=-1)
        if not bool((probabilities >= 0).all()) or not bool(((total - 1).abs() <= tolerance).all()):
            raise ValueError(
                f"probabilities must be non-negative and sum to 1 within {tolerance:.1g} over the last axis; "
                "divide by the sum, or use TopK for a distribution with missing mass"
            )
        return cls(numerics.log_of(probabilities))

    @property
    def n_entries(self) -> int:
        """``V``."""
        return self.logprobs.shape[-1]

    @property
    def positions(self) -> torch.Size:
        """Shape of the positions, ``[B T]``."""
        return self.logprobs.shape[:-1]

    def logprob_of(self, index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of one entry a position, in nats."""
        return self.logprobs.gather(-1, index.unsqueeze(-1).long()).squeeze(-1)
