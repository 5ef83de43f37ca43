"""What a mixture of teachers loses against the best of them, after the fact: losses and the bounds they keep.

All losses are cumulative log-losses in nats over the positions of the last axis. A label's log-probability of NaN means
no label: the position costs nobody anything. Mask positions that do not count with NaN.

====================  =============================================================================================
:class:`Bayes`        ``mixture_loss <= teacher_losses[k] + regret_bound(...)`` for every teacher ``k``
:class:`FixedShare`   ``mixture_loss <= best_path_loss(..., S) + tracking_bound(n, S, K, rate)`` for every ``S``
====================  =============================================================================================

Both hold for every sequence, and both are equalities where every other teacher, or every other sequence, gives the
labels probability 0. The mixture is the linear pool: other pools keep neither.
"""

import math

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor
from mashbill.weights.shares import Number


def teacher_losses(label_logprob: Float[Tensor, "K *batch T"]) -> Float[Tensor, "K *batch"]:
    """Return each teacher's cumulative log-loss ``-sum_t log p_k(y_t)``, float64."""
    return -_known(label_logprob).sum(dim=-1)


def mixture_loss(
    label_logprob: Float[Tensor, "K *batch T"], log_weights: Float[Tensor, "K *batch #T"]
) -> Float[Tensor, "*batch"]:
    """Return the linear pool's cumulative log-loss ``-sum_t log sum_k w_kt p_k(y_t)``, float64.

    Args:
        label_logprob: Log-probabilities of the labels in nats; NaN without label.
        log_weights: Log-weights at each position, normalised over ``K``.
    """
    is_known = ~label_logprob.isnan().any(dim=0)
    pooled = torch.logsumexp(_known(label_logprob) + log_weights.double(), dim=0)
    return -torch.where(is_known, pooled, 0).sum(dim=-1)


def best_path_loss(label_logprob: Float[Tensor, "K *batch T"], n_switches: int) -> Float[Tensor, "*batch"]:
    """Return the least loss of any sequence of teachers that changes teacher at most ``n_switches`` times, float64.

    Dynamic programming over positions, exact, ``O(T S K)``: the least loss so far with at most ``s`` switches ending in
    teacher ``k`` either stays with ``k`` or comes from anywhere with one switch less. ``n_switches = 0`` is the best
    single teacher. In step with :class:`FixedShare` no switch happens before the first counted position.

    Args:
        label_logprob: Log-probabilities of the labels in nats; NaN without label.
        n_switches: ``S``, at least 0.

    Raises:
        ValueError: ``n_switches`` is negative.
    """
    if n_switches < 0:
        raise ValueError(f"n_switches={n_switches!r} must be at least 0")
    losses = -_known(label_logprob)
    least = losses.new_zeros(n_switches + 1, *losses.shape[:-1])
    for t in range(losses.shape[-1]):
        from_anywhere = least[:-1].amin(dim=1, keepdim=True)
        least = torch.cat([least[:1], torch.minimum(least[1:], from_anywhere)]) + losses[..., t]
    return least[-1].amin(dim=0)


def regret_bound(n_teachers: int, *, prior: Number | None = None, temperature: Number = 1.0) -> float:
    """Return how much more than a teacher :class:`Bayes` can lose: ``temperature ln(1/prior)``, nats.

    With weights ``w ~ prior exp(-loss/temperature)`` and ``e = 1/temperature <= 1``, each position's
    ``sum_k w_k p_k >= (sum_k w_k p_k^e)^(1/e)`` (power means); the product of the right sides telescopes to
    ``(sum_k prior_k exp(-e loss_k))^(1/e)``, of which one teacher is a part.

    Args:
        n_teachers: ``K``; the prior is ``1/K`` unless given.
        prior: Prior weight of the teacher compared with.
        temperature: The rule's temperature, at least 1.

    Raises:
        ValueError: An argument is out of range; below a temperature of 1 nothing is guaranteed.

    >>> round(regret_bound(4), 6)
    1.386294
    """
    if not 1 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} gives no guarantee; it must be at least 1")
    return temperature * _log_inverse(n_teachers, prior)


def tracking_bound(
    n_positions: int, n_switches: int, n_teachers: int, rate: Number, *, prior: Number | None = None
) -> float:
    """Return how much more than a sequence of teachers with ``S`` switches :class:`FixedShare` can lose, nats.

    ``ln(1/prior) - S ln(rate/K) - (n-1-S) ln(1 - rate + rate/K)``: minus the log of the sequence's own probability
    under the Markov chain whose posterior the rule is. It grows with ``S``, so it also covers fewer switches.

    Args:
        n_positions: ``n``, positions that count and have a label.
        n_switches: ``S``, from 0 to ``n - 1``.
        n_teachers: ``K``.
        rate: The rule's share rate.
        prior: Prior weight of the first teacher of the sequence; ``1/K`` unless given.

    Raises:
        ValueError: An argument is out of range.

    Source:
        Herbster & Warmuth, *Tracking the Best Expert*, Machine Learning 32, 1998, in the exact form for log-loss.

    >>> round(tracking_bound(100, 0, 2, 0.02), 6) == round(math.log(2) - 99 * math.log(0.99), 6)
    True
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate!r} must be above 0, at most 1")
    _require_switches(n_positions, n_switches)
    n_kept = max(0, n_positions - 1 - n_switches)
    share = rate / n_teachers
    return _log_inverse(n_teachers, prior) - n_switches * math.log(share) - n_kept * math.log(1 - rate + share)


def best_rate(n_positions: int, n_switches: int, n_teachers: int) -> float:
    """Return the rate of the least :func:`tracking_bound`: ``S/(n-1) K/(K-1)``, at most 1.

    A share of ``rate/K`` stays at home, so the chain changes teacher with probability ``rate (K-1)/K``; the best is
    the observed frequency ``S/(n-1)``. Without a switch it is 0, which is :class:`Bayes`.

    Raises:
        ValueError: ``n_switches`` is not from 0 to ``n_positions - 1``, or there is one teacher only.
    """
    _require_switches(n_positions, n_switches)
    if n_teachers < 2:
        raise ValueError(f"n_teachers={n_teachers!r} must be at least 2 to switch between")
    if n_switches == 0:
        return 0.0
    return min(1.0, n_switches / (n_positions - 1) * n_teachers / (n_teachers - 1))


def _known(label_logprob: Tensor) -> Tensor:
    """Return float64, 0 where some teacher gives no number: such a position is evidence for nobody."""
    is_known = ~label_logprob.isnan().any(dim=0)
    return torch.where(is_known, label_logprob, 0).double().clamp_min(numerics.LOG_ZERO)


def _log_inverse(n_teachers: int, prior: Number | None) -> float:
    if n_teachers < 1:
        raise ValueError(f"n_teachers={n_teachers!r} must be at least 1")
    if prior is None:
        return math.log(n_teachers)
    if not 0 < prior <= 1:
        raise ValueError(f"prior={prior!r} must be a probability above 0")
    return -math.log(prior)


def _require_switches(n_positions: int, n_switches: int) -> None:
    if not 0 <= n_switches <= max(0, n_positions - 1):
        raise ValueError(
            f"n_switches={n_switches!r} must be from 0 to n_positions - 1 = {max(0, n_positions - 1)}: a switch "
            "happens between two positions"
        )
