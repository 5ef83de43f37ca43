"""How distributions become columns of whole numbers, and what that costs in nats.

Log-probabilities are kept as multiples of a unit: the error is at most half of it, for large and small ones alike, and
nearby numbers of a sorted list need few bits. Sums that rounding spoils are mended when a list is read.
"""

import math
from dataclasses import dataclass

import numpy as np

from mashbill import numerics

UNIT = 2.0**-11
"""Nats. Rounding to it changes a probability by 0.025 % at most."""
SUM_ROUNDING = 1e-5
"""Most by which the log of a list's sum may differ from 0, in nats: sums over large vocabularies in float32 are off by
some 1e-6. What differs by more is no distribution."""
_MOST_UNITS = 2**31 - 1


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
        the log of a weighted mean of ``exp(error)`` lies between the least and the largest error. Before that a list is
        divided by its sum, which moves it by ``SUM_ROUNDING`` at most. The rounding of float32 itself comes on top,
        twice, together 1.2e-7 of the value.
        """
        return self.unit + SUM_ROUNDING

    def entry_bytes(self, *, deepest: float) -> float:
        """Most bytes that id and log-probability of an entry take before compression, where none is below ``-deepest``.

        Both are kept as differences of neighbours, in as many bits as the widest of 32 differences needs: of ids
        between ``-V`` and ``V``, of units between ``-deepest/unit``, from one list to the next, and ``deepest/unit``.
        For each 128 the least difference and four widths come on top. What Parquet says of pages and lists, some bytes
        a row, is not counted.
        """
        n_bits = [(2 * most).bit_length() for most in (self.n_entries - 1, math.ceil(deepest / self.unit))]
        return sum(min(n, 32) / 8 + (4 + math.ceil(min(n, 32) / 7)) / 128 for n in n_bits)

    def n_kept(self, logprobs: np.ndarray) -> np.ndarray:
        """Return how many of the sorted entries ``[P S]`` are kept at each position, ``[P]``."""
        # A whole number of 32 bits cannot hold what is less; its mass, 0 in every dtype, joins the tail.
        lowest = max(numerics.LOG_ZERO, -_MOST_UNITS * self.unit)
        n_given = (logprobs > lowest).sum(axis=1)
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
