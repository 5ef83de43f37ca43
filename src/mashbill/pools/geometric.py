"""The logarithmic opinion pool: the normalised geometric mean of the teachers."""

from mashbill import numerics
from mashbill.shapes import Float, Tensor


def log_linear(
    logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "K *#batch"]
) -> Float[Tensor, "*batch V"]:
    """Geometric mean ``sum_k w_k log p_k - log Z``.

    The only pool here that commutes with softening by ``p^(1/T)``. Not convex: it can leave the hull of the teachers
    and exceed the worst of them on a set of entries.

    Zeros: a zero under a teacher costs ``1e4 w_k`` nats, a veto for any weight above about 0.01; a teacher of weight
    zero vetoes nothing (``0^0 = 1``). If the teachers leave no common entry, those vetoed with the least weight remain.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``; ``LOG_ZERO`` switches a teacher off.

    Returns:
        Log-probabilities in nats, normalised over ``V``; float32 at least.

    Source:
        Genest & Zidek, *Combining Probability Distributions*, Statist. Sci. 1(1), 1986.
    """
    wide = logprobs.to(numerics.reduction_dtype(logprobs.dtype))
    weights = log_weights.to(wide.dtype).exp().unsqueeze(-1)
    return numerics.log_softmax((weights * wide).sum(dim=0))
