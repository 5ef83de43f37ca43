"""Softening a distribution by a temperature, from its probabilities.

Two families. ``power`` keeps the ranking and is what dividing logits by ``T`` does; zeros stay zero, so its limit is
uniform on the support. ``mixture`` moves towards uniform on all ``V`` entries and is Lipschitz with constant ``1/T``.
Both satisfy ``F_S(F_T(p)) = F_{ST}(p)`` and ``F_1(p) = p``.
"""

import math

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.shapes import Float, Tensor


def power(logprobs: Float[Tensor, "*batch V"], *, temperature: float) -> Float[Tensor, "*batch V"]:
    """Return ``log( p^(1/T) / sum p^(1/T) )``.

    Args:
        logprobs: Nats.
        temperature: ``T > 0``; 1 changes nothing.

    Raises:
        ValueError: ``temperature`` is not positive.

    Source:
        theory.md A.9; golden value F46.

    >>> p = torch.tensor([.7, .2, .08, .02], dtype=torch.float64)
    >>> power(p.log(), temperature=2.0).exp().round(decimals=4).tolist()
    [0.4898, 0.2618, 0.1656, 0.0828]
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r} must be positive")
    if temperature == 1:
        return logprobs
    zero = logprobs <= numerics.LOG_ZERO
    # Dividing LOG_ZERO by T would give impossible entries mass at a large T.
    return numerics.log_softmax((logprobs / temperature).masked_fill(zero, -torch.inf))


def mixture(logprobs: Float[Tensor, "*batch V"], *, temperature: float) -> Float[Tensor, "*batch V"]:
    """Return ``log( p/T + (1 - 1/T)/V )``.

    Args:
        logprobs: Nats.
        temperature: ``T >= 1``; 1 changes nothing.

    Raises:
        ValueError: ``temperature`` is below 1.

    Source:
        theory.md A.9; golden value F48.
    """
    if not temperature >= 1:
        raise ValueError(f"temperature={temperature!r} must be at least 1; use soften.power to sharpen")
    if temperature == 1:
        return logprobs
    floor = math.log((1 - 1 / temperature) / logprobs.shape[-1])
    return torch.logaddexp(logprobs - math.log(temperature), torch.full_like(logprobs, floor))


def power_topk(distribution: TopK, *, temperature: float) -> TopK:
    """Soften a :class:`TopK` as if its tail were spread evenly over the unstored entries.

    The softened tail of the true distribution is unknown from its mass alone; an even spread is the completion of
    highest entropy, so this overstates the tail at ``T > 1``. Soften before cutting to ``k`` where that matters.
    """
    if temperature == 1:
        return distribution
    n_unstored = (distribution.n_entries - distribution.n_used).clamp_min(1).to(distribution.log_tail.dtype)
    share = distribution.log_tail_share()
    tail = torch.where(share <= numerics.LOG_ZERO, -torch.inf, share / temperature + n_unstored.log())
    stored = (distribution.logprobs / temperature).masked_fill(distribution.logprobs <= numerics.LOG_ZERO, -torch.inf)
    both = numerics.log_softmax(torch.cat([stored, tail.unsqueeze(-1)], dim=-1))
    return TopK(distribution.ids, both[..., :-1], both[..., -1], distribution.n_entries)
