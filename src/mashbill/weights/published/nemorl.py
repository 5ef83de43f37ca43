"""NeMo-RL's dynamic teacher weights: one number a teacher for the whole batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.shares import Number, require_all
from mashbill.weights.simplex import log_normalise
from mashbill.weights.softmax import softmax_range


def released_weights(
    score: Float[Tensor, "K *batch"], *, alpha: Number = 1.0, vocabulary_sizes: Float[Tensor, " K"] | None = None
) -> Float[Tensor, "K *batch"]:
    """``softmax_k(alpha score_k log V_k / min_j log V_j)``; without sizes ``softmax_k(alpha score_k)``."""
    wide = numerics.widen(score)
    if vocabulary_sizes is None:
        return (alpha * wide).softmax(dim=0)
    return (alpha * wide * _ratios(vocabulary_sizes, wide)).softmax(dim=0)


def released_coefficients(
    score: Float[Tensor, "K *batch"], *, alpha: Number = 1.0, vocabulary_sizes: Float[Tensor, " K"] | None = None
) -> Float[Tensor, "K *batch"]:
    """What multiplies each teacher's divergence: with sizes the ratio once more, and a sum above 1."""
    weights = released_weights(score, alpha=alpha, vocabulary_sizes=vocabulary_sizes)
    return weights if vocabulary_sizes is None else weights * _ratios(vocabulary_sizes, weights)


@dataclass(frozen=True)
class NeMoRL:
    """``w = softmax_k(alpha score_k)`` with the batch's mean score: the same weights for all rows and positions.

    Scores: ``"ce"`` minus the teacher's cross-entropy on the labels, ``"entropy"`` minus its entropy (both in nats,
    0 at most), ``"max_prob"`` its largest probability; means over the positions of the batch that count (for
    ``"ce"``, that have a label; without any, all count alike). With ``vocabulary_sizes`` each score is multiplied by
    ``log V_k / min_j log V_j``: a larger vocabulary then *lowers* a weight under ``ce`` and ``entropy`` and *raises*
    it under ``max_prob``.

    Certified for ``max_prob`` without sizes: range ``[1/(1+(K-1)e^alpha), 1/(1+(K-1)e^-alpha)]``. Lipschitz constant
    ``alpha/2`` times the largest ratio, in the mean scores (sup norm).

    The weights of a row depend on the batch that it is in (``mixes_rows``), here of one process; the release averages
    over all processes. Breaks *bounded* under ``ce``: losses (0, 50) give (1, 2e-22). Breaks *normalised* as released
    with sizes: equal weights of teachers with 50257, 32000 and 151936 entries give coefficients that sum to 1.065.
    Breaks *ordered*. Keeps positive and continuous.

    Attributes:
        metric: ``"ce"``, ``"entropy"`` or ``"max_prob"``.
        alpha: Sharpness. Not negative.
        vocabulary_sizes: ``{teacher: entries}``, the released ``normalize_teacher_by_vocab``.

    Raises:
        ValueError: An attribute is out of range; in a call, the sizes do not name exactly the teachers.

    Source:
        Repository NVIDIA-NeMo/RL, ``nemo_rl/algorithms/loss/loss_functions.py``, ``_compute_dynamic_weights`` and
        ``_teacher_weight_score`` (options ``sum_weights_metric`` and ``alpha``), called sequence-level there. Its
        entropy takes ``log(p + 1e-10)``, off by at most ``1e-10 V`` nats; ours is exact.

    >>> NeMoRL(metric="max_prob").declared(2).mixes_rows
    True
    """

    metric: str = "ce"
    alpha: Number = 1.0
    vocabulary_sizes: Mapping[str, Number] | None = None

    scale: ClassVar[Literal["task"]] = "task"

    def __post_init__(self) -> None:
        if self.metric not in ("ce", "entropy", "max_prob"):
            raise ValueError(f"metric={self.metric!r} must be 'ce', 'entropy' or 'max_prob'")
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha={self.alpha!r} must be finite and not negative")
        for name, size in (self.vocabulary_sizes or {}).items():
            if not 1 < size < math.inf:
                raise ValueError(f"vocabulary_sizes[{name!r}]={size!r} must be a number of entries above 1")

    @property
    def needs(self) -> frozenset[str]:
        """The statistic of the metric."""
        return frozenset({{"ce": "label_logprob", "entropy": "entropy", "max_prob": "max_logprob"}[self.metric]})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``, the same for every row."""
        scores = self._scores(evidence)
        counted = evidence.mask & scores.isfinite()
        mean = torch.where(counted, scores, 0).sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp_min(1)
        if self.vocabulary_sizes is not None:
            require_all(self.vocabulary_sizes, evidence.teachers, argument="vocabulary_sizes", kind="teacher")
            sizes = [float(self.vocabulary_sizes[teacher]) for teacher in evidence.teachers]
            mean = mean * _ratios(mean.new_tensor(sizes), mean)
        n_rows = scores.shape[1]
        return log_normalise(self.alpha * mean, dim=0).reshape(-1, 1, 1).expand(-1, n_rows, 1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise; the range is certified only for a score that has one."""
        ratio = 1.0
        if self.vocabulary_sizes is not None:
            logs = [math.log(size) for size in self.vocabulary_sizes.values()]
            ratio = max(logs) / min(logs)
        low, high = (0.0, 1.0) if n_teachers > 1 else (1.0, 1.0)
        if self.metric == "max_prob":
            low, high = softmax_range(self.alpha * ratio, n_teachers)
        score = self.alpha * ratio
        source = "softmax of alpha times the batch's mean score; max_prob is in [0, 1]"
        metric = f"batch's mean {self.metric}, sup"
        return Declared(low, high, score / 2, metric, source, score_lipschitz=score, mixes_rows=True)

    def _scores(self, evidence: Evidence) -> Float[Tensor, "K B T"]:
        statistics = evidence.statistics
        if self.metric == "ce":
            return numerics.widen(statistics.label_logprob)
        if self.metric == "entropy":
            return -numerics.widen(statistics.entropy)
        return numerics.widen(statistics.max_logprob).exp()


def _ratios(sizes: Float[Tensor, " K"], like: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *ones"]:
    logs = sizes.to(like.device, like.dtype).log()
    return (logs / logs.min()).reshape(-1, *[1] * (like.ndim - 1))
