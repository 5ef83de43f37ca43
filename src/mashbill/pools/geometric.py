"""The logarithmic opinion pool: the normalised geometric mean of the teachers."""

import torch

from mashbill import numerics
from mashbill.forms import closed_form
from mashbill.shapes import Float, Tensor


@closed_form(mean="power", r=0.0)
def log_linear(
    logprobs: Float[Tensor, "K *batch V"],
    log_weights: Float[Tensor, "K *#batch"],
    *,
    log_counts: Float[Tensor, "*#batch V"] | None = None,
) -> Float[Tensor, "*batch V"]:
    """Geometric mean ``sum_k w_k log p_k - log Z``.

    The only pool here that commutes with softening by ``p^(1/T)``. Not convex: it can leave the hull of the teachers
    and exceed the worst of them on a set of entries.

    Zeros: a zero under a teacher costs ``1e4 w_k`` nats, a veto for any weight above about 0.01; a teacher of weight
    zero vetoes nothing (``0^0 = 1``). If the teachers leave no common entry, those vetoed with the least weight remain.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.
        log_counts: Log of how many vocabulary entries each column stands for; one each by default.

    Returns:
        Log-probabilities in nats, normalised over ``V``; float32 at least.

    Source:
        Genest & Zidek, *Combining Probability Distributions*, Statist. Sci. 1(1), 1986.
    """
    wide = logprobs.to(numerics.reduction_dtype(logprobs.dtype))
    weights = log_weights.to(wide.dtype).exp().unsqueeze(-1)
    return normalise((weights * wide).sum(dim=0), log_counts)


def normalise(
    log_mean: Float[Tensor, "*batch V"], log_counts: Float[Tensor, "*#batch V"] | None
) -> Float[Tensor, "*batch V"]:
    """Return ``log_mean - log sum_v n_v exp(log_mean_v)``, floored at ``LOG_ZERO``.

    Args:
        log_mean: Logs up to a common constant; ``-inf`` is zero.
        log_counts: ``log n``, at least one of them above ``-inf``; None for one each.
    """
    if log_counts is None:
        return numerics.log_softmax(log_mean)
    log_norm = torch.logsumexp(log_mean + log_counts.to(log_mean.dtype), dim=-1, keepdim=True)
    return (log_mean - log_norm).clamp_min(numerics.LOG_ZERO)
