"""What a top-k distribution leaves open: the exact ends of entropy, Gini variance and softened tail mass.

A top-k stores some entries and the mass ``m`` of the ``n = V - S`` others, so it stands for every distribution that
completes it. A concave function of the completion is largest where the tail is spread evenly and least where it is
packed into as few entries as can be: one entry of mass ``m``, or, if no unstored entry can exceed the smallest stored
probability ``c``, ``floor(m/c)`` entries of ``c`` and one of the rest. Both ends are attained by a completion, so no
rule that reads only these numbers can name a narrower interval, and the midpoint is the estimate of least worst error:
half the width, which is therefore the exact price of reading ``S`` entries.

Whether ``c`` bounds the unstored entries is not in the numbers. It does if the stored entries are the largest
(``is_top=True``: cut from a full distribution). It does not if they are the ones that somebody could name, as for a
classifier whose labels are not the student's (``is_top=False``).
"""

import math
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Float, Tensor


@dataclass(frozen=True)
class Tail:
    """The two extreme completions of a top-k's tail, position by position.

    Attributes:
        n_even: Entries that share the tail evenly.
        even: Probability of each of them.
        n_full: Entries filled up to the most that an unstored entry may hold.
        full: Probability of each of them.
        rest: Probability of the one entry that holds what is left.
    """

    n_even: Float[Tensor, "*batch"]
    even: Float[Tensor, "*batch"]
    n_full: Float[Tensor, "*batch"]
    full: Float[Tensor, "*batch"]
    rest: Float[Tensor, "*batch"]

    @classmethod
    def of(cls, distribution: TopK, *, is_top: bool, more: float = 0.0, slack: float = 0.0) -> "Tail":
        """Work out the completions of ``distribution``.

        Args:
            distribution: Stored entries and tail mass.
            is_top: The stored entries are the largest.
            more: Nats by which the log of the tail is more.
            slack: Nats by which the smallest stored entry may truly be more.

        Raises:
            ValueError: ``is_top`` is set and some tail is too large for entries below the smallest stored one.
        """
        log_tail = numerics.widen(distribution.log_tail) + more
        n_unstored = (distribution.n_entries - distribution.n_used).to(log_tail.dtype)
        log_most = torch.zeros_like(log_tail)
        if is_top and distribution.ids.shape[-1] > 0:
            stored = numerics.widen(distribution.logprobs).masked_fill(distribution.ids < 0, 0)
            log_most = stored.amin(dim=-1) + slack
            _require_room(distribution, log_tail, n_unstored, log_most)
        mass = torch.where(n_unstored > 0, log_tail.exp(), 0)
        full = log_most.exp()
        # A whole number has no gradient; through exp it would have one that is not a number.
        n_full = torch.minimum((log_tail - log_most).detach().exp(), n_unstored).floor()
        rest = torch.minimum((mass - n_full * full).clamp_min(0), full)
        return cls(n_unstored, mass / n_unstored.clamp_min(1), n_full, full, rest)

    def entropy(self) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return least and largest part of the tail in the entropy, in nats."""
        low = self.n_full * _entropy_term(self.full) + _entropy_term(self.rest)
        return low, self.n_even * _entropy_term(self.even)

    def collision(self) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return least and largest part of the tail in ``sum p^2``."""
        return self.n_even * self.even.square(), self.n_full * self.full.square() + self.rest.square()


def entropy_interval(
    distribution: TopK, *, is_top: bool = True
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the least and the largest entropy of any completion of a top-k, in nats; both are attained.

    The largest, ``-sum_stored p ln p + m ln(n/m)``, is what ``measure`` calls the entropy. The midpoint's error is at
    most half the width, and no other estimate has a smaller worst case. O(S) a position.

    Args:
        distribution: Stored entries and tail mass.
        is_top: The stored entries are the largest.

    Raises:
        ValueError: ``is_top`` cannot be true of the numbers.

    Source:
        arXiv 2601.17910, open question on the cost of entropy weights; the interval is ours.

    >>> head = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)
    >>> stored = TopK(torch.arange(3), head.log(), torch.tensor(0.2, dtype=torch.float64).log(), n_entries=10)
    >>> [round(end.item(), 6) for end in entropy_interval(stored)]
    [1.359237, 1.609789]
    >>> [round(end.item(), 6) for end in entropy_interval(stored, is_top=False)]
    [1.220607, 1.609789]
    """
    logprobs = numerics.widen(distribution.logprobs)
    head = -(logprobs.exp() * logprobs).masked_fill(distribution.ids < 0, 0).sum(dim=-1)
    low, high = Tail.of(distribution, is_top=is_top).entropy()
    return torch.minimum(head + low, head + high).clamp_min(0), (head + high).clamp_min(0)


def gini_interval(
    distribution: TopK, *, is_top: bool = True
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the least and the largest Gini variance ``1 - sum p^2`` of any completion of a top-k; both are attained.

    Args:
        distribution: Stored entries and tail mass.
        is_top: The stored entries are the largest.

    Raises:
        ValueError: ``is_top`` cannot be true of the numbers.
    """
    squares = (2 * numerics.widen(distribution.logprobs)).exp()
    head = 1 - squares.masked_fill(distribution.ids < 0, 0).sum(dim=-1)
    least, most = Tail.of(distribution, is_top=is_top).collision()
    return torch.minimum(head - most, head - least).clamp(0, 1), (head - least).clamp(0, 1)


def softened_tail_interval(
    distribution: TopK, *, temperature: float, is_top: bool = True, error: float = 0.0
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the least and the largest mass that the unstored entries can have after ``p^(1/T)``; both are attained.

    The mass is ``A / (A + sum_stored p^(1/T))`` with ``A = sum_unstored p^(1/T)``, which an even spread makes largest
    for ``T > 1`` and least for ``T < 1``. Entries of probability 0 stay 0.

    Where the numbers are rounded the ends are those of a wider interval, which holds the mass of every distribution
    whose list is within ``error`` of this one: ``A`` grows with the tail and is otherwise moved by the smallest stored
    entry alone, and the others are off by a factor of ``exp(error / T)`` at most.

    Args:
        distribution: Stored entries and tail mass, at temperature 1.
        temperature: ``T > 0``.
        is_top: The stored entries are the largest.
        error: Nats by which each stored log-probability, and the log of the tail, may be off.

    Raises:
        ValueError: ``temperature`` is not positive, or ``is_top`` cannot be true of the numbers.

    >>> head = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)
    >>> stored = TopK(torch.arange(3), head.log(), torch.tensor(0.2, dtype=torch.float64).log(), n_entries=10)
    >>> [round(end.item(), 6) for end in softened_tail_interval(stored, temperature=2.0)]
    [0.300739, 0.445863]
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r} must be positive")
    stored = numerics.widen(distribution.logprobs)
    outside = (distribution.ids < 0) | (stored <= numerics.LOG_ZERO)
    head = (stored / temperature).masked_fill(outside, -torch.inf).logsumexp(dim=-1)
    ends = [
        end
        for more in ((-error, error) if error else (0.0,))
        for end in _softened(Tail.of(distribution, is_top=is_top, more=more, slack=error), temperature)
    ]
    low = torch.stack(ends).amin(dim=0) - head - error / temperature
    high = torch.stack(ends).amax(dim=0) - head + error / temperature
    return low.sigmoid(), high.sigmoid()


def _softened(tail: Tail, temperature: float) -> tuple[Tensor, Tensor]:
    """Return ``log A`` of a tail that is spread evenly and of one that is packed."""
    packed = torch.logaddexp(
        _log_power_sum(tail.n_full, tail.full, temperature),
        _log_power_sum(torch.ones_like(tail.rest), tail.rest, temperature),
    )
    return _log_power_sum(tail.n_even, tail.even, temperature), packed


def _entropy_term(p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    return -p * numerics.log_of(p)


def _log_power_sum(n: Tensor, p: Tensor, temperature: float) -> Float[Tensor, "*batch"]:
    """Return ``log(n p^(1/T))``, ``-inf`` for nothing."""
    is_none = (n <= 0) | (p <= 0)
    return (n.clamp_min(1).log() + numerics.log_of(p) / temperature).masked_fill(is_none, -torch.inf)


def _require_room(distribution: TopK, log_tail: Tensor, n_unstored: Tensor, log_most: Tensor) -> None:
    """Raise unless the tail fits below the smallest stored entry, up to the rounding of what was stored."""
    room = n_unstored.clamp_min(1).log() + log_most
    rounding = 4 * torch.finfo(distribution.logprobs.dtype).eps * (1 + log_most.abs() + log_tail.abs())
    too_large: Bool[Tensor, "*batch"] = (n_unstored > 0) & (log_tail.exp() > (room + rounding).exp() * 1.001 + 1e-6)
    if bool(too_large.any()):
        at = tuple(int(i) for i in too_large.nonzero()[0])
        raise ValueError(
            f"is_top=True cannot be: at position {list(at)} a tail of {math.exp(float(log_tail[at])):.4g} does not fit "
            f"into {int(n_unstored[at])} entries of at most {math.exp(float(log_most[at])):.4g}, the smallest stored; "
            "pass is_top=False if the stored entries are not the largest"
        )
