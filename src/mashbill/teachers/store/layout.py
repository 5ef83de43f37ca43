"""How distributions become columns of whole numbers, and what that costs in nats.

Log-probabilities are kept as multiples of a unit: the error is at most half of it, for large and small ones alike, and
nearby numbers of a sorted list need few bits. Sums that rounding spoils are mended when a list is read.
"""

from dataclasses import dataclass

import numpy as np

from mashbill import numerics

UNIT = 2.0**-11
"""Nats. Rounding to it changes a probability by 0.025 % at most."""


@dataclass(frozen=True)
class Layout:
    """What is kept of a distribution.

    Attributes:
        n_entries: ``V``.
        k: Most entries kept a position.
        mass: The fewest entries that hold this probability are kept, ``k`` at most; None keeps ``k`` always.
        unit: Nats; log-probabilities are rounded to multiples of it.
        classes: Names of the token classes whose mass is kept.

    Raises:
        ValueError: A number is out of its range.
    """

    n_entries: int
    k: int = 64
    mass: float | None = None
    unit: float = UNIT
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k!r} must be at least 1: a distribution needs an entry to hold")
        if self.mass is not None and not 0 < self.mass <= 1:
            raise ValueError(f"mass={self.mass!r} must be a probability above 0")
        if not 2**-20 <= self.unit <= 1:
            raise ValueError(f"unit={self.unit!r} nats must be between 2**-20 and 1")

    @property
    def error_bound(self) -> float:
        """Most by which a log-probability that is read differs from the one that was given, in nats.

        Half a unit comes from rounding, and half a unit at most from mending the sum, which rounding moved by no more:
        the log of a weighted mean of ``exp(error)`` lies between the least and the largest error. The rounding of
        float32 itself comes on top, 6e-8 of the value.
        """
        return self.unit

    def n_kept(self, logprobs: np.ndarray) -> np.ndarray:
        """Return how many of the sorted entries ``[P S]`` are kept at each position, ``[P]``."""
        n_given = (logprobs > numerics.LOG_ZERO).sum(axis=1)
        most = np.minimum(n_given, self.k)
        if self.mass is None:
            return most
        before = np.cumsum(np.exp(logprobs.astype(np.float64)), axis=1) < self.mass
        return np.minimum(before.sum(axis=1) + 1, most)

    def rounded(self, logprobs: np.ndarray) -> np.ndarray:
        """Return log-probabilities as multiples of the unit below 0, whole numbers from 0 up."""
        return np.rint(-logprobs.astype(np.float64) / self.unit).astype(np.int32)

    def restored(self, units: np.ndarray) -> np.ndarray:
        """Return log-probabilities in nats, float32."""
        return (units * -self.unit).astype(np.float32)
