"""How far a pooled distribution keeps or breaks what a pool may promise, position by position.

Each function returns numbers, not a verdict: at most 0 (to rounding) where the promise holds.
"""

import torch

from mashbill import numerics
from mashbill.shapes import Bool, Float, Tensor


def log_loss_gap(
    pooled: Float[Tensor, "*batch V"], logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "K *#batch"]
) -> Float[Tensor, "*batch V"]:
    """For each label, what pooling gains on the mean log-loss of the teachers: ``sum_k w_k (-log p_k) + log q``, nats.

    Never negative for power means with ``0 <= r <= 1``: ``M_r >= M_0`` entry by entry, and they sum to at most 1 before
    they are normalised. For the log-linear pool it is ``-log Z``, the same for every label.

    Args:
        pooled: Log-probabilities of a pool, nats.
        logprobs: Teacher log-probabilities in nats.
        log_weights: Log-weights, normalised over ``K``.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    >>> log_loss_gap(teachers.exp().mean(0).log(), teachers, torch.tensor([0.5, 0.5]).log()).round(decimals=4).tolist()
    [0.0589, 0.0872, 0.2939]
    """
    wide = numerics.widen(logprobs)
    return pooled - (log_weights.to(wide.dtype).exp().unsqueeze(-1) * wide).sum(dim=0)


def best_teacher_regret(
    pooled: Float[Tensor, "*batch V"], logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "K *#batch"]
) -> Float[Tensor, "*batch V"]:
    """For each label, the log-loss above that of any teacher plus its ``-log w_k``, nats.

    ``-log q(y) - min_k (-log p_k(y) - log w_k)``. At most 0 for the linear pool, because ``q >= w_k p_k``; no other
    pool here promises it.

    Args:
        pooled: Log-probabilities of a pool, nats.
        logprobs: Teacher log-probabilities in nats.
        log_weights: Log-weights, normalised over ``K``.
    """
    wide = numerics.widen(logprobs)
    return (wide + log_weights.to(wide.dtype).unsqueeze(-1)).amax(dim=0) - pooled


def excess_mass(
    pooled: Float[Tensor, "*batch V"], logprobs: Float[Tensor, "K *batch V"], *, entries: Bool[Tensor, " V"]
) -> Float[Tensor, "*batch"]:
    """Mass on a set of entries above what any teacher gives it: ``q(U) - max_k p_k(U)``, a probability.

    At most 0 for the linear pool, and for power means with ``r >= 1`` if ``U`` is one entry. With weights of at most
    ``w_max`` the linear one has even ``q(U) <= w_max p_j(U) + (1 - w_max) max_(k != j) p_k(U)``, ``j`` the worst.

    Args:
        pooled: Log-probabilities of a pool, nats.
        logprobs: Teacher log-probabilities in nats.
        entries: The set ``U``, e.g. unsafe tokens.
    """
    inside = entries.to(pooled.dtype)
    return pooled.exp() @ inside - (numerics.widen(logprobs).exp().to(pooled.dtype) @ inside).amax(dim=0)


def range_excess(pooled: Float[Tensor, "*batch V"], logprobs: Float[Tensor, "K *batch V"]) -> Float[Tensor, "*batch V"]:
    """For each entry, how far ``q`` lies outside ``[min_k p_k, max_k p_k]``, a probability; 0 inside.

    The weak form of convexity; the strong form is :func:`mashbill.pools.hull_project`'s ``distance``. Where all
    teachers agree on an entry this is the break of unanimity.

    Args:
        pooled: Log-probabilities of a pool, nats.
        logprobs: Teacher log-probabilities in nats.
    """
    q, p = pooled.exp(), numerics.widen(logprobs).exp()
    return torch.maximum(q - p.amax(dim=0), p.amin(dim=0) - q).clamp_min(0)
