"""The loop from the weights through the student back to the weights, with a student that learns its target exactly."""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights import simplex
from mashbill.weights.shares import Number


@dataclass(frozen=True)
class StudentFeedback:
    """``T(w) = squash(softmax_k(-beta KL(p_k || q_w)))``, ``q_w = sum_j w_j p_j``: trust whom the student is near to.

    A teacher with more weight draws the student nearer and so gets more weight still. Small ``beta`` has one fixed
    point; large ``beta`` has several, and the start decides.

    Constants in the sup norm, on differences of weights. With ``a(v) = sum_j |p_j(v) - median_j|`` and ``q >= q_low``
    on a set, ``m = max_k sum_v p_k a / q_low`` bounds the Jacobian of the KLs and ``n = max_k sum_v p_k a^2 / q_low^2``
    its change. Softmax is 1/2-Lipschitz and its Jacobian 1-Lipschitz. So ``lipschitz = rho beta m / 2`` and
    ``curvature = rho (beta^2 m^2 + beta n / 2)``, with the guard's ``rho``.

    Attributes:
        probabilities: The teachers' distributions, positive, ``[K V]``.
        beta: Steepness per nat. Not negative.
        w_min: Least weight.
        w_max: Largest weight.

    Raises:
        ValueError: A probability is not positive, or the box is empty.

    Source:
        arXiv 2601.17910, Theorem VII.1, applied to weights that follow the student.
    """

    probabilities: Float[Tensor, "K V"]
    beta: Number
    w_min: Number = 0.05
    w_max: Number = 1.0

    def __post_init__(self) -> None:
        if not bool((self.probabilities > 0).all()):
            raise ValueError("probabilities must all be positive, or a divergence is infinite; mix in a little uniform")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta={self.beta!r} must be finite and not negative")
        _ = self.rho

    @property
    def rho(self) -> float:
        """The guard's Lipschitz constant."""
        return simplex.squash_factor(len(self.probabilities), w_min=self.w_min, w_max=self.w_max)

    def __call__(self, w: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
        """Return the next weights."""
        p = self.probabilities.to(w)
        log_q = numerics.log_of(w @ p)
        divergence = (p * p.log()).sum(dim=-1) - log_q @ p.T
        return simplex.squash(torch.softmax(-self.beta * divergence, dim=-1), w_min=self.w_min, w_max=self.w_max)

    def lipschitz(self) -> float:
        """Return a constant by composition; valid everywhere in the box, seldom below 1."""
        m, _ = self._slopes(self._lowest().unsqueeze(0))
        return self.rho * self.beta * float(m) / 2

    def curvature(self, centres: Float[Tensor, "n K"], radius: float) -> Float[Tensor, " n"]:
        """Return a Lipschitz constant of the Jacobian for each cell ``|w - centre| <= radius`` (sup norm)."""
        p = self.probabilities.to(centres)
        lowest = torch.maximum(centres @ p - radius * self._spread().to(centres), self._lowest().to(centres))
        m, n = self._slopes(lowest)
        return self.rho * ((self.beta * m) ** 2 + self.beta * n / 2)

    def _lowest(self) -> Float[Tensor, " V"]:
        """Return the least ``q_w(v)`` of any weights of at least ``w_min``."""
        p, w_min = self.probabilities, float(self.w_min)
        return w_min * p.sum(dim=0) + (1 - len(p) * w_min) * p.amin(dim=0)

    def _spread(self) -> Float[Tensor, " V"]:
        return (self.probabilities - self.probabilities.median(dim=0).values).abs().sum(dim=0)

    def _slopes(self, lowest: Float[Tensor, "n V"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        p, ratio = self.probabilities.to(lowest), self._spread().to(lowest) / lowest
        return (ratio @ p.T).amax(dim=-1), (ratio.square() @ p.T).amax(dim=-1)
