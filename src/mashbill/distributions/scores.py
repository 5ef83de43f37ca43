"""Scores that are not yet a distribution: a teacher's logits as they come, or the product that would give them.

Log-probabilities of ``K`` teachers over a large vocabulary cost a pass over fresh memory each, and logits themselves
need not exist: a head's product can be taken a few positions at a time. The loss takes both as they are.
"""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor


@dataclass(frozen=True)
class Logits:
    """Unnormalised scores over all ``V`` entries, in any dtype.

    Attributes:
        values: ``-inf`` masks an entry.
    """

    values: Float[Tensor, "*batch V"]

    @property
    def n_entries(self) -> int:
        """``V``."""
        return self.values.shape[-1]

    @property
    def positions(self) -> torch.Size:
        """Shape of the positions, ``[B T]``."""
        return self.values.shape[:-1]


@dataclass(frozen=True)
class Projected:
    """Scores that are a head's product, ``s (h W' + b)``, and capped as ``c tanh(. / c)`` if ``c`` is given.

    Attributes:
        hidden: What goes into the head, ``h``.
        weight: The head, ``W``, a row for each entry.
        bias: ``b``.
        scale: ``s``.
        softcap: ``c``, positive.

    Raises:
        ValueError: Sizes do not fit together, or an option is outside its range.
    """

    hidden: Float[Tensor, "*batch D"]
    weight: Float[Tensor, "V E"]
    bias: Float[Tensor, " V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.hidden.shape[-1] != self.weight.shape[-1]:
            raise ValueError(
                f"hidden={list(self.hidden.shape)} and weight={list(self.weight.shape)} must end in the same width"
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f"bias={list(self.bias.shape)} must have an entry for each of weight's {len(self.weight)}")
        if self.softcap is not None and not 0 < self.softcap < float("inf"):
            raise ValueError(f"softcap={self.softcap!r} must be positive and finite, or None for no cap")

    @property
    def n_entries(self) -> int:
        """``V``."""
        return self.weight.shape[0]

    @property
    def positions(self) -> torch.Size:
        """Shape of the positions, ``[B T]``."""
        return self.hidden.shape[:-1]

    def logits(self) -> Float[Tensor, "*batch V"]:
        """Return the scores in full, in the reduction dtype: the plain definition, as large as it sounds."""
        product = numerics.widen(self.hidden) @ numerics.widen(self.weight).T
        if self.bias is not None:
            product = product + self.bias
        return capped(product * self.scale, self.softcap)

    @torch.no_grad()
    def at(
        self, states: Float[Tensor, "R D"], *, out: Float[Tensor, "R E"], entries: slice = slice(None)
    ) -> Float[Tensor, "R E"]:
        """Return the scores of some hidden states at some entries in ``out``, without gradient.

        The product is taken in the narrower of the two dtypes.
        """
        weight = self.weight[entries]
        if states.dtype == out.dtype == weight.dtype:
            torch.mm(states, weight.T, out=out)
        else:
            out.copy_(narrow_product(states, weight.T))
        if self.bias is not None:
            out.add_(self.bias[entries])
        if self.scale != 1:
            out.mul_(self.scale)
        return out if self.softcap is None else out.copy_(capped(out, self.softcap))


def narrow_product(left: Float[Tensor, "R D"], right: Float[Tensor, "D V"]) -> Float[Tensor, "R V"]:
    """Multiply in the narrower of two dtypes: it is the head's as a rule, and a head is never copied."""
    narrow = left.dtype if left.element_size() < right.element_size() else right.dtype
    return left.to(narrow) @ right.to(narrow)


def capped(scores: Float[Tensor, "*shape"], softcap: float | None) -> Float[Tensor, "*shape"]:
    """Return ``c tanh(z / c)``, or ``z`` without a cap."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
