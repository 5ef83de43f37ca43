"""Statistics and largest entries of whole distributions at once: what a teacher's every answer goes through."""

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.shapes import Float, Int, Tensor

_SMALL = 1e-30
# Mass below which float32 begins to lose digits of probabilities, though not of their logarithms.


@torch.no_grad()
def measure_and_cut(logprobs: Float[Tensor, "P V"], *, labels: Int[Tensor, " P"], k: int) -> tuple[TopK, Statistics]:
    """Return what ``TopK.from_logprobs`` and ``measure`` do of dense log-probabilities, in half as many passes.

    Args:
        logprobs: In nats, normalised, float32 or float64.
        labels: The label of each position; ``-100`` means none.
        k: Entries to keep; at least 2, less than ``V``.
    """
    probabilities = logprobs.softmax(dim=-1)  # exp, as they are normalised, by a faster one
    entropy = (-(probabilities * logprobs).sum(dim=-1)).clamp_min(0)
    gini = 1 - torch.linalg.vector_norm(probabilities, dim=-1).square()
    kept, ids = numerics.largest(logprobs, k)
    rest = probabilities.scatter_(-1, ids, 0).sum(dim=-1)
    topk = TopK(ids, kept, rest.log(), logprobs.shape[-1])
    small = (rest < _SMALL).nonzero().squeeze(-1)
    if len(small):
        topk.log_tail[small] = TopK.from_logprobs(logprobs[small], k=k).log_tail
    found = Dense(logprobs).logprob_of(labels.clamp_min(0))
    statistics = Statistics(
        entropy=entropy,
        entropy_low=entropy,
        gini=gini.clamp(0, 1),
        margin=kept[..., 0].exp() - kept[..., 1].exp(),
        max_logprob=kept[..., 0],
        label_logprob=torch.where(labels >= 0, found, torch.nan),
        class_mass=logprobs.new_zeros(len(logprobs), 0),
    )
    return topk, statistics
