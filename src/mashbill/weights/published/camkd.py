"""CA-MKD: teachers whose answer is nearer to the label count more."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.published.rows import mean_over_positions
from mashbill.weights.simplex import log_normalise


def released_weights(cross_entropy: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """``(1 - softmax_k(CE)) / (K - 1)``, the released ``attention``, term by term as released; sums to 1.

    Args:
        cross_entropy: Each teacher's own loss on the label, in nats, at temperature 1.

    Returns:
        Weights, float32 at least. NaN for one teacher (0/0), and exactly 0 beside a loss some 37 nats smaller in
        float64 (17 in float32); :class:`CAMKD` returns 1 and the true logarithm.

    >>> released_weights(torch.tensor([0.0, 50.0], dtype=torch.float64)).tolist()
    [1.0, 0.0]
    """
    wide = numerics.widen(cross_entropy)
    return (1 - wide.softmax(dim=0)) / (len(wide) - 1)


def released_coefficients(cross_entropy: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """What multiplies each ``KL(p_k || student)`` in the released loss: the weights over ``K`` once more; sums to 1/K.

    The loop divides the weighted sum by batch size *and* number of teachers, so the distillation term shrinks as
    teachers are added. A ``distill.cross_entropy`` share chosen for that loss has to take the factor along.
    """
    return released_weights(cross_entropy) / len(cross_entropy)


@dataclass(frozen=True)
class CAMKD:
    """Confidence-aware weights: ``w_k = (1 - softmax_k(CE)) / (K - 1)``, CE the teacher's loss on the row's label.

    A row's loss is the mean over its positions that count and have a label; a row without any counts all alike.
    Computed as ``log sum_{j != k} exp(CE_j)``, which never rounds to 0. Cost ``O(K^2 B)``.

    Certified: range ``[0, 1/(K-1)]``; Lipschitz constant ``1/(2 (K-1))`` of the weights and 1 of their logs up to a
    common number, in the losses (sup norm: a log-sum-exp moves no more than its largest argument).

    Breaks *bounded*: no ``w_min > 0``, losses (0, 50) give weights (1, 2e-22), which the release rounds to (1, 0);
    the upper bound ``1/(K-1)`` says nothing for two teachers. Breaks *ordered*: it knows no safety order. Keeps
    normalised, positive and continuous.

    Source:
        Zhang, Chen & Wang, *Confidence-Aware Multi-Teacher Knowledge Distillation*, ICASSP 2022 (arXiv 2201.00007);
        repository Rorozhl/CA-MKD, ``helper/loops.py``, ``train_distill_multi_teacher``, branch ``CAMKD``. The paper's
        weights sum to 1 as ours do; the released loop divides them by ``K`` again (:func:`released_coefficients`).
        Not covered: the term on intermediate features, which reuses these weights (``distiller_zoo/CAMKD.py``).

    >>> CAMKD().declared(3).highest
    0.5
    """

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        losses = mean_over_positions(-evidence.statistics.label_logprob, evidence.mask)
        return log_complement_softmax(losses).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for any losses."""
        source = "1 - softmax, each in [0, 1], shared by K - 1; log-sum-exp is 1-Lipschitz in the sup norm"
        metric = "teachers' losses on the label, sup"
        if n_teachers == 1:
            return Declared(1.0, 1.0, 0.0, metric, source, score_lipschitz=0.0)
        share = 1 / (n_teachers - 1)
        return Declared(0.0, share, share / 2, metric, source, score_lipschitz=1.0)


def log_complement_softmax(scores: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """``log((1 - softmax_k(scores)) / (K - 1))`` without cancellation; 0 for one teacher."""
    n_teachers = len(scores)
    if n_teachers == 1:
        return torch.zeros_like(scores)
    itself = torch.eye(n_teachers, dtype=torch.bool, device=scores.device)
    others = scores.movedim(0, -1).unsqueeze(-2).masked_fill(itself, -torch.inf)  # [*batch K others]
    return log_normalise(others.logsumexp(dim=-1).movedim(-1, 0), dim=0)
