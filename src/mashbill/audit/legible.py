"""Foreign text that can be shown anywhere, and numbers that any JSON reader takes. Imports nothing."""

import math
from collections.abc import Mapping
from typing import Any

_REORDERING = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that break a line or change the direction of what follows them."""


def legible(text: str) -> str:
    r"""Return a text in which characters that command a terminal, or mislead a reader, are spelt out.

    Line ends and tabs stay.

    >>> print(legible("\x1b[31mred\x00"))
    \x1b[31mred\x00
    """
    return "".join(_spelt(one) if _is_unsafe(one) else one for one in text)


def _is_unsafe(one: str) -> bool:
    is_control = one < " " or "\x7f" <= one <= "\x9f"
    return (is_control and one not in "\n\t") or one in _REORDERING or "\ud800" <= one <= "\udfff"


def _spelt(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")


def strict(value: Any) -> Any:
    """Return a value for strict JSON: infinities and NaN become text, as in the situations of witnesses.

    >>> strict({"violation": float("inf"), "values": (1.0, float("nan"))})
    {'violation': 'inf', 'values': [1.0, 'nan']}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(name): strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return value
