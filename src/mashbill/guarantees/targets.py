"""What a pooled target is worth as a prediction, against its teachers.

Label by label: :func:`mashbill.pools.log_loss_gap`, :func:`~mashbill.pools.best_teacher_regret` and
:func:`~mashbill.pools.excess_mass`. Here are the means and the constants.
"""

import math

from mashbill import numerics
from mashbill.pools.arithmetic import linear
from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


def jensen_gap(
    logprobs: Float[Tensor, "K *batch V"], log_weights: Float[Tensor, "K *#batch"]
) -> Float[Tensor, "*batch"]:
    """Generalised Jensen-Shannon divergence ``sum_k w_k KL(p_k || q)`` of the linear pool ``q``, nats.

    What pooling gains on the teachers' own mean loss if the labels follow the pool; also the difference between
    distilling each teacher, ``sum_k w_k KL(p_k || p_S)``, and distilling the pool, ``KL(q || p_S)``: constant in the
    student, though not in the weights. At most ``sum_k w_k log 1/w_k``.

    Args:
        logprobs: Teacher log-probabilities in nats.
        log_weights: Log-weights, normalised over ``K``.

    Source:
        arXiv 2601.17910, Remark VI.8, the constant that it leaves out.
    """
    wide = numerics.widen(logprobs)
    pooled = linear(wide, log_weights.to(wide.dtype))
    apart = (wide.exp() * (wide - pooled)).sum(dim=-1)
    return (log_weights.to(wide.dtype).exp() * apart).sum(dim=0)


def regret_constant(w_min: Number) -> float:
    """Return ``log 1/w_min``: what a linear pool's log-loss can exceed the best teacher's by, on any label, nats.

    Args:
        w_min: Least weight; infinite at 0.

    >>> round(regret_constant(0.05), 4)
    2.9957
    """
    if not 0 <= w_min <= 1:
        raise ValueError(f"w_min={w_min!r} must be a probability, between 0 and 1")
    return -math.log(w_min) if w_min > 0 else math.inf
