"""EBKD: teachers of less entropy count more."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mashbill import numerics
from mashbill.shapes import Float, LogWeights, Tensor
from mashbill.weights.evidence import Declared, Evidence
from mashbill.weights.published.rows import mean_over_positions
from mashbill.weights.simplex import log_normalise


def released_weights(entropy: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """``1 - H_k / sum_j H_j``, the released ``weight``; sums to ``K - 1``.

    Args:
        entropy: Of each teacher, in nats, at temperature 1.

    Returns:
        Float32 at least; NaN where every entropy is 0.

    >>> import torch
    >>> round(released_weights(torch.tensor([0.3, 1.2, 2.4], dtype=torch.float64)).sum().item(), 12)
    2.0
    """
    wide = numerics.widen(entropy)
    return 1 - wide / wide.sum(dim=0)


def released_coefficients(entropy: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """What multiplies each ``KL(p_k || student)`` in the released loss: the weights over ``K``; sums to ``(K-1)/K``."""
    return released_weights(entropy) / len(entropy)


@dataclass(frozen=True)
class EBKD:
    """Entropy-based weights: ``w_k = (1 - H_k / sum_j H_j) / (K - 1)``, a row's mean entropy over counted positions.

    Range ``[0, 1/(K-1)]``. No Lipschitz constant: the weights do not change when all entropies are halved, so they
    jump where all vanish; there (0/0, NaN in the release) all count alike.

    Breaks *normalised* as released: entropies (.3, 1.2, 2.4) give weights that sum to 2 and coefficients that sum to
    2/3. Breaks *positive* and *bounded*: entropies (1, 0, 0) give (0, .5, .5), and for two teachers (1, 0) is reached.
    Breaks *continuous*: (e, 0, 0) gives (0, .5, .5) for every e > 0 and thirds at e = 0. Breaks *ordered*.

    Source:
        Kwon, Na, Lee & Kim, *Adaptive Knowledge Distillation Based on Entropy*, ICASSP 2020, as released by
        Rorozhl/CA-MKD, ``helper/loops.py``, ``train_distill_multi_teacher``, branch ``EBKD``; the division by
        ``K - 1`` is ours. The release takes ``p log p`` without a guard and is NaN where a probability underflows.

    >>> EBKD().declared(3).highest
    0.5
    """

    scale: ClassVar[Literal["task"]] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B 1]``."""
        entropy = mean_over_positions(evidence.statistics.entropy, evidence.mask)
        if len(entropy) == 1:
            return (entropy * 0).unsqueeze(-1)
        # Sums without the teacher itself: the total less its own would leave rounding where the weight is 0.
        others = entropy.new_ones(len(entropy), len(entropy)).fill_diagonal_(0)
        return log_normalise(numerics.log_of(others @ entropy), dim=0).unsqueeze(-1)

    def declared(self, n_teachers: int) -> Declared:
        """Return the promise for any entropies."""
        source = "1 - a share, in [0, 1], over K - 1; scale-invariant, hence not continuous at 0"
        if n_teachers == 1:
            return Declared(1.0, 1.0, 0.0, "teachers' entropies, sup", source, score_lipschitz=0.0)
        return Declared(0.0, 1 / (n_teachers - 1), None, "teachers' entropies, sup", source)
