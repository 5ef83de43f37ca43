"""Entropy from a few reads: sampled entries and their log-probabilities, instead of all ``V`` of them.

For a teacher that answers with a token and its log-probability, such as most hosted models. The mean of ``-log p(X)``
over independent draws at temperature 1 is an unbiased estimate of the entropy. Not covered: teachers that return text
alone (see :mod:`mashbill.distributions.completions`), and draws under top-p, top-k or another temperature, whose
log-probabilities are those of another distribution.
"""

import math
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Float, Tensor


@dataclass(frozen=True)
class EntropyEstimate:
    """An entropy that was sampled, position by position.

    Attributes:
        entropy: Mean of ``-log p(X)``, in nats; unbiased.
        standard_error: Of that mean, from the spread of the reads, in nats; infinite for a single read.
        n_reads: Reads a position.
    """

    entropy: Float[Tensor, "*batch"]
    standard_error: Float[Tensor, "*batch"]
    n_reads: int

    def interval(
        self, *, n_entries: int, confidence: float = 0.95
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return ends between which the entropy lies with at least this probability, whatever the distribution.

        Chebyshev's inequality with the largest possible variance: ``sqrt(max_varentropy(V) / (n (1 - confidence)))``
        to either side, cut to ``[0, ln V]``. The standard error is not used: reads that all look alike may have missed
        a rare entry, which then dominates the entropy.

        Args:
            n_entries: ``V``.
            confidence: Probability for each position on its own, below 1.

        Raises:
            ValueError: ``confidence`` is not between 0 and 1.
        """
        if not 0 <= confidence < 1:
            raise ValueError(f"confidence={confidence!r} must be at least 0 and below 1")
        reach = math.sqrt(max_varentropy(n_entries) / (self.n_reads * (1 - confidence)))
        ceiling = math.log(n_entries)
        # Cut at both ends: an estimate far above the ceiling must not leave a low end above it.
        return (self.entropy - reach).clamp(0, ceiling), (self.entropy + reach).clamp(0, ceiling)


def entropy_from_samples(logprobs: Float[Tensor, "n *batch"]) -> EntropyEstimate:
    """Estimate entropies from the log-probabilities of independently sampled entries.

    The variance of the estimate is ``Var(log p(X)) / n``, at most ``max_varentropy(V) / n``.

    Args:
        logprobs: Of ``n`` draws a position, in nats, at temperature 1 and without truncation.

    Returns:
        Estimate and standard error, ``[*batch]``, float32 at least.

    Raises:
        ValueError: There is no read.

    >>> estimate = entropy_from_samples(torch.tensor([0.5, 0.5, 0.25, 0.5]).log())
    >>> round(estimate.entropy.item() / math.log(2), 3), round(estimate.standard_error.item() / math.log(2), 3)
    (1.25, 0.25)
    """
    n_reads = logprobs.shape[0]
    if n_reads == 0:
        raise ValueError("logprobs has no reads; draw at least one entry at each position")
    wide = numerics.widen(logprobs)
    mean = -wide.mean(dim=0)
    if n_reads == 1:
        return EntropyEstimate(mean, torch.full_like(mean, math.inf), 1)
    squares = (wide + mean).square().sum(dim=0)
    return EntropyEstimate(mean, (squares / (n_reads * (n_reads - 1))).sqrt(), n_reads)


def max_varentropy(n_entries: int) -> float:
    """Return the largest variance of ``log p(X)`` that any distribution over ``V`` entries has, in nats squared.

    It is reached by one entry of probability ``a = sigmoid(x)`` and the others alike, where the variance is
    ``a (1 - a) (x + ln(V - 1))^2``; its derivative vanishes where ``(x + ln(V - 1)) tanh(x / 2) = 2``, once for
    ``x > 0``. Between ``ln^2(V - 1) / 4`` and one more.

    Source:
        Reeb and Wolf, *Tight bound on relative entropy by entropy difference*, IEEE Trans. Inf. Theory 61(3), 2015.

    >>> round(max_varentropy(50257), 2)
    30.28
    """
    if n_entries < 2:
        return 0.0
    log_others = math.log(n_entries - 1)
    low, high = 0.0, 40.0
    for _ in range(100):  # halving: to the last bit well before
        middle = (low + high) / 2
        low, high = (middle, high) if (middle + log_others) * math.tanh(middle / 2) < 2 else (low, middle)
    a = 1 / (1 + math.exp(-low))
    return a * (1 - a) * (low + log_others) ** 2


def reads_needed(n_entries: int, *, error: float) -> int:
    """Return how many reads make the root mean square error of the entropy at most ``error``, for any distribution.

    ``ceil(max_varentropy(V) / error^2)``.

    Args:
        n_entries: ``V``.
        error: In nats. Positive.

    Raises:
        ValueError: ``error`` is not positive.

    >>> reads_needed(50257, error=0.05)
    12114
    """
    if not error > 0:
        raise ValueError(f"error={error!r} must be positive; an entropy without error needs the whole distribution")
    return max(1, math.ceil(max_varentropy(n_entries) / error**2))
