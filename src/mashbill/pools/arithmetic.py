"""The linear opinion pool: a mixture of the teachers."""

import torch

from mashbill import numerics
from mashbill.forms import closed_form
from mashbill.shapes import Float, Tensor


@closed_form(mean="power", r=1.0)
def linear(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "K *#batch"],
    *,
    log_counts: Float[Tensor, "*#batch V"] | None = None,
) -> Float[Tensor, "*batch V"]:
    """Mixture ``log sum_k w_k p_k``.

    An entry is possible if any teacher with weight finds it possible; zero under all of them stays ``LOG_ZERO``.
    Always in the convex hull of the teachers: ``q(U) <= max_k p_k(U)`` for every set ``U`` of entries, and
    ``-log q(y) <= min_k (-log p_k(y) - log w_k)``.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.
        log_counts: Accepted as by every pool; a mixture of normalised columns needs no counts.

    Returns:
        Log-probabilities in nats, normalised over ``V`` as far as the arguments are; float32 at least.

    Source:
        Stone, *The Opinion Pool*, Ann. Math. Statist. 32(4), 1961; arXiv 2601.17910, Definition III.7.

    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]]).log()
    >>> linear(teachers, torch.tensor([0.5, 0.5]).log()).exp().round(decimals=4).tolist()
    [0.6000000238418579, 0.25, 0.15000000596046448]
    """
    del log_counts
    wide = logprobs.to(numerics.reduction_dtype(logprobs.dtype))
    return torch.logsumexp(wide + log_weights.unsqueeze(-1), dim=0).clamp_min(numerics.LOG_ZERO)
