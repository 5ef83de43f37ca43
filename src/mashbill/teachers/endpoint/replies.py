"""Whether the numbers in a reply can be log-probabilities: finite, at most 0, enough of them, at most 1 together."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mashbill.teachers.endpoint.asking import Listed, Read, bad
from mashbill.teachers.endpoint.rounding import Rounding

SENTINEL = -1000.0
"""Servers write -9999 and the like where they have no number; nothing that a model says is so improbable."""
TOLERANCE = 1e-3
"""How far above 1 a sum of probabilities may be; engines round."""
_ABOVE_ZERO = 1e-4


def guarded(read: Read, reply: Any) -> Any:
    """Return what is read from a reply, whatever shape it has.

    Raises:
        Failed: It cannot be read, or not believed.
    """
    try:
        return read(reply)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise bad(f"its reply has another shape than what was asked for ({type(error).__name__})") from error


def member(value: Any, *keys: str | int) -> Any:
    """Return what stands at a path inside a reply.

    Raises:
        Failed: There is nothing.
    """
    for depth, key in enumerate(keys):
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise bad(f"its reply has no `{'.'.join(map(str, keys[: depth + 1]))}`") from None
    return value


def sequence(value: Any, *keys: str | int, n_least: int, n_most: int | None = None) -> Sequence[Any]:
    """Return the list at a path inside a reply, of the right length.

    Raises:
        Failed: There is none, or it is too short or too long.
    """
    found, name = member(value, *keys), ".".join(map(str, keys))
    if not isinstance(found, list):
        raise bad(f"`{name}` of its reply is no list")
    if len(found) < n_least or (n_most is not None and len(found) > n_most):
        wanted = f"{n_least}" if n_most == n_least else f"at least {n_least}"
        raise bad(f"`{name}` of its reply has {len(found)} entries, and {wanted} are needed")
    return found


def logprob(value: Any) -> float:
    """Return a log-probability in nats.

    Raises:
        Failed: It is no number, not finite, or above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad(f"a log-probability in its reply is no number: {str(value)[:40]!r}")
    if isinstance(value, int) and abs(value) > 10**9:
        raise bad("a log-probability in its reply is not finite")
    if not math.isfinite(value):
        raise bad("a log-probability in its reply is not finite")
    if value > _ABOVE_ZERO:
        raise bad(f"a log-probability in its reply is above 0: {value:.6g}")
    return min(float(value), 0.0)


def listed(
    pairs: Iterable[tuple[int | None, Any]],
    *,
    n_least: int,
    label: int | None = None,
    label_logprob: Any = None,
    is_top: bool = True,
) -> Listed:
    """Return what a reply says about one position.

    Args:
        pairs: Id and log-probability of each entry; no id where the student has no such token.
        n_least: Entries that there must be.
        label: The row's own token.
        label_logprob: What the reply says about it apart from the list; None if nothing.
        is_top: The list holds the most probable tokens, and besides them at most the row's own.

    Raises:
        Failed: It can be no distribution.
    """
    top: dict[int, float] = {}
    others: list[float] = []
    n = 0
    for id, value in pairs:
        n += 1
        number = logprob(value)
        if number <= SENTINEL:
            continue
        if id is None:
            others.append(number)
        elif id in top and abs(top[id] - number) > TOLERANCE:
            raise bad(f"its reply lists the token {id} twice, with different numbers")
        else:
            top[id] = number
    if n < n_least:
        raise bad(f"its reply lists {n} entries at a position, and {n_least} were asked for")
    if not top and not others:
        raise bad("its reply has no number at a position")
    own = top.get(label) if label is not None else None
    if label is not None and label_logprob is not None:
        apart = logprob(label_logprob)
        if own is not None and abs(own - apart) > TOLERANCE * (1 + abs(own)):
            raise bad(f"its reply says two things about one token: {own:.6g} and {apart:.6g}")
        own = own if own is not None else apart if apart > SENTINEL else None
    outside = [] if own is None or label in top else [own]
    rounding = Rounding.of([*top.values(), *others])
    total = math.fsum(map(math.exp, [*top.values(), *others, *outside]))
    if total > 1 + TOLERANCE:
        raise bad(f"the probabilities in its reply sum to {total:.6g} at a position")
    if own is not None and label in top and len(top) > 1 and own <= min(top.values()):
        del top[label]  # It may have been added to a list whose top it is not in; what is left is a top in any case.
    if total > 1:  # Rounding of the engine, within the tolerance.
        shift = math.log(total)
        top = {id: number - shift for id, number in top.items()}
        own = None if own is None else own - shift
    return Listed(top, own, is_top and not others, n, rounding)
