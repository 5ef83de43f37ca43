"""Which axioms are asked of which kind of operator, in the order of the answers."""

from collections.abc import Collection, Mapping
from typing import Any

from mashbill.audit.axioms import AXIOMS, require_axiom
from mashbill.audit.weight_checks import KINDS


def axioms_of(kind: str, axioms: Collection[str] | None = None) -> tuple[str, ...]:
    """Return the ids that are asked of a kind of operator, or those of them that the caller chose.

    Args:
        kind: ``"weights"``, ``"pool"``, ``"softening"``, ``"recursion"`` or ``"sequence"``.
        axioms: Only these ids.

    >>> axioms_of("recursion")
    ('recursion.anchoring', 'recursion.contraction', 'recursion.fixed_point')
    """
    return tuple(id for id in _all_of(kind) if axioms is None or id in axioms)


PLURALS = {
    "weights": "weight rules",
    "pool": "pools",
    "softening": "softenings",
    "recursion": "recursions",
    "sequence": "rules inside a sequence",
}
"""What operators of each kind are called."""


def require_asked(kind: str, axioms: Collection[str] | None) -> tuple[str, ...]:
    """Return the ids that are asked of a kind of operator; one at least.

    Raises:
        ValueError: The caller chose none of them; names the kinds that the chosen ones belong to.

    >>> require_asked("weights", ["pool.regret"])
    Traceback (most recent call last):
        ...
    ValueError: axioms=['pool.regret'] asks nothing of weight rules: pool.regret is asked of pools
    """
    asked = axioms_of(kind, axioms)
    if asked:
        return asked
    if not axioms:
        raise ValueError(f"axioms={axioms!r} asks nothing; leave it out and all of the kind are asked")
    belong = "; ".join(f"{id} is asked of {' and '.join(_kinds_of(id))}" for id in axioms)
    raise ValueError(f"axioms={list(axioms)!r} asks nothing of {PLURALS[kind]}: {belong}")


def require_arguments(axioms: Any, known: Any, seed: Any) -> None:
    """Refuse arguments of the wrong type before anything is asked.

    Raises:
        TypeError: One of them is not what it should be.
        ValueError: No such axiom or seed, or a failure is expected without a reason.
    """
    if isinstance(axioms, str) or not isinstance(axioms, Collection | None):
        raise TypeError(f"axioms={axioms!r} must be a list of ids, for example ['token.III.1']")
    if not isinstance(known, Mapping | None):
        raise TypeError(f"known={known!r} must map ids to reasons, for example {{'token.III.5': 'it knows no order'}}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed={seed!r} must be a whole number")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r} must be between 0 and 2^63 - 1")
    for id in (*(axioms or ()), *(known or {})):
        if not isinstance(id, str):
            raise TypeError(f"axiom={id!r} must be an id, for example 'token.III.1'")
        require_axiom(id)
    for id, reason in (known or {}).items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"known={{{id!r}: {reason!r}}} must say in words why the failure is expected")


def _kinds_of(id: str) -> list[str]:
    return [plural for kind, plural in PLURALS.items() if id in _all_of(kind)]


def _all_of(kind: str) -> tuple[str, ...]:
    if kind == "pool":
        from mashbill.audit.pool_checks import POOL_AXIOMS

        return POOL_AXIOMS
    if kind == "softening":
        from mashbill.audit.softening_checks import SOFTENING_AXIOMS

        return SOFTENING_AXIOMS
    if kind == "sequence":
        from mashbill.audit.sequence_checks import SEQUENCE_AXIOMS

        return SEQUENCE_AXIOMS
    if kind == "recursion":
        from mashbill.audit.recursion_checks import RECURSION_AXIOMS

        return RECURSION_AXIOMS
    return tuple(axiom.id for axiom in AXIOMS.values() if axiom.kind in KINDS)
