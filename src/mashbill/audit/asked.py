"""Which axioms are asked of which kind of operator, in the order of the answers."""

from collections.abc import Collection

from mashbill.audit.axioms import AXIOMS
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
