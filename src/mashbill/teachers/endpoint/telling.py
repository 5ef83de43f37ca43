"""How far two lists of log-probabilities are apart, and when they say the same."""

import math
from collections.abc import Mapping

SAME = 0.1
"""Lists no further apart than this say the same; engines that compute in bfloat16 reach a few hundredths."""
OTHER = 0.3
"""Lists at least this far apart are about different things."""


def distance(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Return ``1 - sum min(p, q) / sum max(p, q)``: 0 for equal lists, 1 for lists with nothing in common."""
    low = math.fsum(math.exp(min(one[id], other[id])) for id in one.keys() & other.keys())
    high = math.fsum(
        math.exp(max(one.get(id, -math.inf), other.get(id, -math.inf))) for id in one.keys() | other.keys()
    )
    return 1 - low / high if high else 1.0
