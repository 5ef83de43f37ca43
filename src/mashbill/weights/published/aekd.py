"""AE-KD: the mix of teachers whose pulls on the student cancel most, no teacher above a share."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights import quadratic
from mashbill.weights.bounds import effective_bounds
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number
from mashbill.weights.simplex import log_normalise


def released_weights(
    gradients: Float[Tensor, "K *batch V"], *, w_max: Number, normalise: bool = False
) -> Float[Tensor, " K"]:
    """``argmin |sum_k w_k g_k|^2`` over ``{sum w = 1, 0 <= w <= w_max}``, ``g_k`` the mean gradient over the batch.

    This is the dual of a one-class support vector machine with ``nu = 1/(K w_max)``, which the release solves by
    libsvm to a tolerance of 1e-6 of its own; here exactly, of several minimisers the most even. It is the released
    coefficient as it is, and sums to 1.

    Args:
        gradients: Of each teacher's divergence by the student's logits.
        w_max: Cut to ``[1/K, 1]``; at 1 the problem is MGDA's, at ``1/K`` the weights are even.
        normalise: Solve for ``g_k / |g_k|`` and divide the solution by ``|g_k|`` again, so ``w_max`` is not kept.
    """
    wide = numerics.widen(gradients)
    mean = wide.reshape(len(wide), -1, wide.shape[-1]).mean(dim=1)
    norms = mean.norm(dim=-1).clamp_min(torch.finfo(mean.dtype).tiny ** 0.5)
    if normalise:
        mean = mean / norms.unsqueeze(-1)
    w = quadratic.minimise(mean @ mean.T, w_min=0.0, w_max=_cut(w_max, len(wide)))
    if normalise:
        w = (w / norms * norms.min()).clamp_min(0)
    return w / w.sum()


@dataclass(frozen=True)
class AEKD:
    """``w = argmin |sum_k w_k g_k|^2`` over ``{sum w = 1, 0 <= w_k <= w_max}``: one number a teacher for the batch.

    ``g_k = mean (p_S^(1/T) - p_k^(1/T))`` over the counted positions of the batch, the gradient of the softened
    divergence by the student's logits. Exact, by an active set. Cost ``O(K B T V + K^3)``.

    Range without ``normalise``: ``[1 - (K-1) w_max, w_max]``, at least 0. No Lipschitz constant. The weights follow the
    student (``reads_student``) and the batch that a row is in (``mixes_rows``).

    Breaks *positive* and *bounded* from below: gradients (1, 0), (2, 0) with ``w_max = 1`` give (1, 0). Breaks
    *continuous*: (1, 0) beside (1 - 1e-6, 0) or (1 + 1e-6, 0) gives (0, 1) or (1, 0). With ``normalise`` breaks the
    upper bound, too: ``w_max = .4`` has given .4536. Breaks *ordered*. Keeps normalised.

    Attributes:
        w_max: Largest weight, the release's tolerance ``-C``; cut to ``[1/K, 1]``.
        normalise: The release's ``--svm_norm``.
        temperature: Of the divergence; 4 as released.

    Raises:
        ValueError: An attribute is out of range.

    Source:
        Du et al., *Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space*, NeurIPS 2020;
        repository AnTuo1998/AE-KD, ``helper/optimization.py``, ``find_optimal_svm``, and ``helper/loops.py``, which
        Rorozhl/CA-MKD repeats. A gradient that vanishes is NaN there under ``--svm_norm``, and takes all weight here.
        Not covered: the same weights for intermediate features.

    >>> AEKD(w_max=0.6).declared(3).highest
    0.6
    """

    w_max: Number = 0.6
    normalise: bool = False
    temperature: Number = 4.0

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "student_logprobs"})

    def __post_init__(self) -> None:
        if not 0 < self.w_max <= 1:  # also catches NaN
            raise ValueError(f"w_max={self.w_max!r} must be a probability above 0, at most 1")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature!r} must be finite and positive")

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``, the same for every row."""
        logprobs, student = evidence.given("logprobs"), evidence.given("student_logprobs")
        p_k, p_s = (self._softened(x) for x in (logprobs, student))
        gradients = p_s.to(p_k) - p_k
        counted = evidence.mask & gradients.isfinite().all(dim=-1).all(dim=0)
        total = torch.where(counted.unsqueeze(-1), gradients, 0).sum(dim=(1, 2))
        weights = released_weights(
            (total / counted.sum().clamp_min(1)).unsqueeze(1), w_max=self.w_max, normalise=self.normalise
        )
        n_rows = logprobs.shape[1]
        return log_normalise(numerics.log_of(weights), dim=0).reshape(-1, 1, 1).expand(-1, n_rows, 1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise, for any gradients."""
        low, high = effective_bounds(n_teachers, w_min=0.0, w_max=_cut(self.w_max, n_teachers))
        if self.normalise:
            low, high = (0.0, 1.0) if n_teachers > 1 else (1.0, 1.0)
        source = "a solution in the box by construction; norms divide it afterwards if `normalise`"
        metric = "teachers' and student's probabilities, l1"
        return Declared(low, high, None, metric, source, reads_student=True, mixes_rows=True)

    def _softened(self, logprobs: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        return (numerics.widen(logprobs) / self.temperature).softmax(dim=-1)


def _cut(w_max: Number, n_teachers: int) -> float:
    return min(max(float(w_max), 1 / n_teachers), 1.0)
