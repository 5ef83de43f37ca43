"""A Dirichlet target that keeps how much the teachers disagree, not only their mean."""

from dataclasses import dataclass

from mashbill.pools.arithmetic import linear
from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


@dataclass(frozen=True)
class ProxyDirichlet:
    """``Dir(precision q + 1)`` over distributions, for teachers with mean ``q``.

    Attributes:
        logprobs: ``log q``, the linear pool, in nats.
        disagreement: ``sum_k w_k KL(q || p_k)`` in nats.
        precision: ``(V - 1) / (2 disagreement)``: pseudo-counts in all.
    """

    logprobs: Float[Tensor, "*batch V"]
    disagreement: Float[Tensor, "*batch"]
    precision: Float[Tensor, "*batch"]

    @property
    def pseudo_counts(self) -> Float[Tensor, "*batch V"]:
        """``precision q``."""
        return self.precision.unsqueeze(-1) * self.logprobs.exp()

    @property
    def concentration(self) -> Float[Tensor, "*batch V"]:
        """``precision q + 1``, the parameters of the Dirichlet distribution: never below 1."""
        return self.pseudo_counts + 1


def proxy_dirichlet(
    logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "K *#batch"], *, least: Number = 1e-6
) -> ProxyDirichlet:
    """Fit a Dirichlet distribution to the teachers: their linear pool, and a precision from their disagreement.

    The precision is that of Stirling's approximation to the maximum of the likelihood; it needs no iteration.

    Args:
        logprobs: Teacher log-probabilities in nats, normalised over ``V``.
        log_weights: Log-weights, normalised over ``K``.
        least: Disagreement in nats below which teachers count as equal, so that the precision stays finite.

    Raises:
        ValueError: ``least`` is not positive.

    Source:
        Ryabinin, Malinin & Gales, *Scaling Ensemble Distribution Distillation to Many Classes with Proxy Targets*,
        NeurIPS 2021; weighted here, uniform there.

    >>> import torch
    >>> teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    >>> proxy = proxy_dirichlet(teachers, torch.tensor([0.5, 0.5], dtype=torch.float64).log())
    >>> round(proxy.precision.item(), 6), proxy.pseudo_counts.round(decimals=4).tolist()
    (9.880146, [5.9281, 2.47, 1.482])
    """
    if not least > 0:
        raise ValueError(f"least={least!r} must be positive: teachers that agree would have an infinite precision")
    q = linear(logprobs, log_weights)
    each = (q.exp() * (q - logprobs.to(q.dtype))).sum(dim=-1)
    disagreement = (log_weights.to(q.dtype).exp() * each).sum(dim=0)
    return ProxyDirichlet(q, disagreement, (q.shape[-1] - 1) / (2 * disagreement.clamp_min(least)))
