"""How far an engine's log-probabilities may be off for their rounding alone, and so what they say of a small tail.

One less the sum of a list is good to the rounding of its largest numbers. A tail below that is not told from any other
one below it, and its logarithm is not known at all: a softmax over more entries than are listed never leaves 0.
This module does not import torch.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FLOAT32 = 2.0**-18
"""Nats: float32 rounds logits below 64, and the log of the sum of their exponentials, to this."""
BFLOAT16 = 2.0**-9
_FLOAT16 = 2.0**-12
# Shares of a number to which the 16-bit types round it.
_N_TOLD = 3
# Numbers that must fit a type of 16 bits for it to be no accident.


@dataclass(frozen=True)
class Rounding:
    """What the numbers of one list are rounded to.

    Attributes:
        share: Of each number, beside :data:`FLOAT32`; 0 if they are finer than 16 bits.
    """

    share: float = 0.0

    @classmethod
    def of(cls, numbers: Iterable[float]) -> "Rounding":
        """Find out from the numbers as a server wrote them: those of a type of 16 bits are all on its grid."""
        told = [number for number in numbers if number != 0]
        if len(told) >= _N_TOLD and all(map(_is_bfloat16, told)):  # coarser: most of its numbers are float16's too
            return cls(BFLOAT16)
        if len(told) >= _N_TOLD and all(map(_is_float16, told)):
            return cls(_FLOAT16)
        return cls()

    def of_mass(self, logprobs: Sequence[float]) -> float:
        """Return by how much the sum of some probabilities may be off: ``sum p d`` with ``d`` nats for each."""
        return math.fsum(math.exp(one) * self._nats(one) for one in logprobs)

    def of_entropy(self, logprobs: Sequence[float]) -> float:
        """Return by how many nats ``-sum p ln p`` may be off: ``sum p (1 - ln p) d``."""
        return math.fsum(math.exp(one) * (1 - one) * self._nats(one) for one in logprobs)

    def _nats(self, logprob: float) -> float:
        return FLOAT32 - self.share * logprob


def _is_float16(number: float) -> bool:
    return struct.unpack("<e", struct.pack("<e", number))[0] == _float32(number)


def _is_bfloat16(number: float) -> bool:
    return struct.pack("<f", number)[:2] == b"\0\0"


def _float32(number: float) -> float:
    # Written with the fewest digits that tell float32 numbers apart, a number need not be itself in float64.
    return struct.unpack("<f", struct.pack("<f", number))[0]
