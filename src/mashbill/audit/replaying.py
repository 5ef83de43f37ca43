"""Showing a counter-example again, from the numbers that its witness carries."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mashbill.audit.situations import Case
from mashbill.audit.slopes import excess
from mashbill.audit.verdicts import Witness
from mashbill.audit.violations import VIOLATIONS

_ELSEWHERE = {
    "pool": ("pool_checks", "replay_pool"),
    "softening": ("softening_checks", "replay_softening"),
    "recursion": ("recursion_checks", "replay_recursion"),
    "sequence": ("sequence_checks", "replay_sequence"),
}
"""Where witnesses of other kinds are shown again; imported when there is one."""


def replay(witness: Witness | Mapping[str, Any], operator: Any) -> float:
    """Return the violation of a witness, computed again; above 0 it still refutes.

    Args:
        witness: A witness, or its ``inputs`` as read back from JSON.
        operator: What was audited.

    Raises:
        ValueError: The inputs are of no known kind.
    """
    inputs = witness.inputs if isinstance(witness, Witness) else witness
    kind = inputs.get("kind")
    if kind in _ELSEWHERE:
        module, name = _ELSEWHERE[kind]
        return getattr(import_module(f"mashbill.audit.{module}"), name)(inputs, operator)
    if kind != "weights":
        raise ValueError(f"kind={kind!r} is no kind of witness; it must be one of weights, {', '.join(_ELSEWHERE)}")
    case = Case.from_json(inputs)
    if inputs["axiom"] == "contract.lipschitz":
        return excess(operator, case)
    return VIOLATIONS[inputs["axiom"]](operator, case)
