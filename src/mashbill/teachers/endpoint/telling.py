"""How far two lists of log-probabilities are apart, when they say the same, and when they are long enough."""

import math
from collections.abc import Iterable, Mapping

from mashbill.teachers.endpoint.asking import Listed, unanswerable
from mashbill.teachers.endpoint.settings import Settings

SAME = 0.1
"""Lists no further apart than this say the same; engines that compute in bfloat16 reach a few hundredths."""
OTHER = 0.3
"""Lists at least this far apart are about different things."""


_LEAST_SHARE = 0.5
# Of the entries asked for, where none of the lists is without tokens of the same text, which are one entry there.


def require_long(lists: Iterable[Listed], settings: Settings) -> None:
    """Refuse an endpoint that lists fewer entries than it was asked for.

    Args:
        lists: What it has said in several places.
        settings: ``top_logprobs`` is read.

    Raises:
        Failed: Even the longest of them is too short.
    """
    each = list(lists)
    certain = [one.n_listed for one in each if one.is_top]
    longest = max(certain or [one.n_listed for one in each])
    if longest < settings.top_logprobs * (1 if certain else _LEAST_SHARE):
        raise unanswerable(f"it lists {longest} entries, and {settings.top_logprobs} were asked for")


def distance(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Return ``1 - sum min(p, q) / sum max(p, q)``: 0 for equal lists, 1 for lists with nothing in common."""
    low = math.fsum(math.exp(min(one[id], other[id])) for id in one.keys() & other.keys())
    high = math.fsum(
        math.exp(max(one.get(id, -math.inf), other.get(id, -math.inf))) for id in one.keys() | other.keys()
    )
    return 1 - low / high if high else 1.0
