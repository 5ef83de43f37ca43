"""Softening a distribution by a temperature, from its probabilities.

Two families. ``power`` keeps the ranking and is what dividing logits by ``T`` does; zeros stay zero, so its limit is
uniform on the support. ``mixture`` moves towards uniform on all ``V`` entries and is Lipschitz with constant ``1/T``.
Both satisfy ``F_S(F_T(p)) = F_{ST}(p)`` and ``F_1(p) = p``.
"""

import math

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.forms import closed_form
from mashbill.shapes import Float, Tensor


@closed_form(family="power")
def power(logprobs: Float[Tensor, "*batch V"], *, temperature: float) -> Float[Tensor, "*batch V"]:
    """Return ``log( p^(1/T) / sum p^(1/T) )``; entropy grows with ``T``, as ``dH/dT = Var(log p) / T^3``.

    Args:
        logprobs: Nats.
        temperature: ``T > 0``; 1 changes nothing.

    Raises:
        ValueError: ``temperature`` is not positive.

    >>> p = torch.tensor([.7, .2, .08, .02], dtype=torch.float64)
    >>> [round(x, 4) for x in power(p.log(), temperature=2.0).exp().tolist()]
    [0.4898, 0.2618, 0.1656, 0.0828]
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r} must be positive")
    return logprobs if temperature == 1 else numerics.log_softmax(_tempered(logprobs, temperature))


@closed_form(family="mixture")
def mixture(logprobs: Float[Tensor, "*batch V"], *, temperature: float) -> Float[Tensor, "*batch V"]:
    """Return ``log( p/T + (1 - 1/T)/V )``.

    Args:
        logprobs: Nats.
        temperature: ``T >= 1``; 1 changes nothing.

    Raises:
        ValueError: ``temperature`` is below 1.

    >>> p = torch.tensor([.7, .2, .08, .02], dtype=torch.float64)
    >>> [round(x, 4) for x in mixture(p.log(), temperature=2.0).exp().tolist()]
    [0.475, 0.225, 0.165, 0.135]
    """
    if not temperature >= 1:
        raise ValueError(f"temperature={temperature!r} must be at least 1; use soften.power to sharpen")
    if temperature == 1:
        return logprobs
    wide = numerics.widen(logprobs)
    floor = math.log((1 - 1 / temperature) / wide.shape[-1])
    return torch.logaddexp(wide - math.log(temperature), torch.full_like(wide, floor))


def power_topk(distribution: TopK, *, temperature: float) -> TopK:
    """Soften a :class:`TopK` as if its tail were spread evenly over the unstored entries.

    The softened tail of the true distribution is unknown from its mass alone; an even spread is the completion of
    highest entropy, so this overstates the tail at ``T > 1``; ``softened_tail_interval`` says by how much at most.
    Soften before cutting to ``k`` where that matters.

    Raises:
        ValueError: ``temperature`` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r} must be positive")
    if temperature == 1:
        return distribution
    n_unstored = (distribution.n_entries - distribution.n_used).clamp_min(1)
    share = _tempered(distribution.log_tail_share(), temperature)
    tail = share + n_unstored.to(share.dtype).log()
    both = torch.cat([_tempered(distribution.logprobs, temperature), tail.unsqueeze(-1)], dim=-1)
    both = numerics.log_softmax(both)
    return TopK(distribution.ids, both[..., :-1], both[..., -1], distribution.n_entries)


def _tempered(logprobs: Tensor, temperature: float) -> Tensor:
    # Dividing LOG_ZERO by T would give impossible entries mass at a large T.
    wide = numerics.widen(logprobs)
    return (wide / temperature).masked_fill(wide <= numerics.LOG_ZERO, -torch.inf)
