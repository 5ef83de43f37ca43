"""Weights that a user writes down: shares of teachers by name, checked where they enter."""

import math
from collections.abc import Iterable, Mapping, Sequence

Number = int | float
"""A number as a recipe writes it; ``beta: 2`` is as good as ``beta: 2.0``."""

Shares = Mapping[str, Number]
"""``{teacher id: weight}``, non-negative, summing to 1."""


def require_shares(shares: object, *, argument: str) -> None:
    """Raise ``ValueError`` unless ``shares`` maps names to non-negative numbers that sum to 1 within 1e-6."""
    if not isinstance(shares, Mapping) or not shares:
        raise ValueError(f"{argument}={shares!r} must map each teacher id to its weight")
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"{argument}[{name!r}]={share!r} must be a weight between 0 and 1")
    total = math.fsum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(
            f"{argument}={dict(shares)!r} sum to {total:.6g}, but must sum to 1 within 1e-6; divide each by {total:.6g}"
        )


def require_known(given: Iterable[str], known: Sequence[str], *, argument: str, kind: str) -> None:
    """Raise ``ValueError`` if a name that the user wrote is not one that exists.

    Args:
        given: What the user wrote.
        known: The names that exist.
        argument: The option's name, for the message.
        kind: What the names stand for, e.g. ``"teacher"``.
    """
    for name in given:
        if name not in known:
            raise ValueError(f"{argument} names {kind} {name!r}, which does not exist; there are {', '.join(known)}")


def require_all(given: Iterable[str], known: Sequence[str], *, argument: str, kind: str) -> None:
    """Raise ``ValueError`` unless the user wrote exactly the names that exist; arguments as :func:`require_known`."""
    given = list(given)
    require_known(given, known, argument=argument, kind=kind)
    missing = [name for name in known if name not in given]
    if missing:
        raise ValueError(f"{argument} says nothing about {kind} {missing[0]!r}; add it")


def in_order(shares: Shares, teachers: Sequence[str], *, argument: str) -> list[float]:
    """Return the weights in the teachers' order.

    Raises:
        ValueError: The names are not the teachers'.
    """
    require_all(shares, teachers, argument=argument, kind="teacher")
    return [float(shares[teacher]) for teacher in teachers]


def for_each(
    table: Mapping[str, Shares], names: Sequence[str], teachers: Sequence[str], *, argument: str, kind: str
) -> list[list[float]]:
    """Return the weights for each name, in the teachers' order; a name that the table leaves out counts all alike.

    Raises:
        ValueError: The table names what does not exist, or a set does not name exactly the teachers.
    """
    require_known(table, names, argument=argument, kind=kind)
    even = [1 / len(teachers)] * len(teachers)
    return [in_order(table[name], teachers, argument=argument) if name in table else even for name in names]


def extremes(each: Sequence[Shares], *, n_teachers: int, argument: str) -> tuple[float, float]:
    """Return the least and largest weight in any of the mappings, each scaled to sum to 1 exactly.

    Raises:
        ValueError: A mapping does not have ``n_teachers`` entries.
    """
    for shares in each:
        if len(shares) != n_teachers:
            raise ValueError(f"{argument} weighs {len(shares)} teachers, but n_teachers={n_teachers}; list each once")
    # Rules normalise what they are given, so a sum that is 1 only within the tolerance must not show in the range.
    values = [share / math.fsum(shares.values()) for shares in each for share in shares.values()]
    return min(values), max(values)
