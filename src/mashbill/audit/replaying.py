"""Showing a counter-example again, from the numbers that its witness carries."""

from collections.abc import Mapping
from typing import Any

from mashbill.audit.situations import Case
from mashbill.audit.verdicts import Witness
from mashbill.audit.violations import VIOLATIONS


def replay(witness: Witness | Mapping[str, Any], operator: Any) -> float:
    """Return the violation of a witness, computed again; above 0 it still refutes.

    Args:
        witness: A witness, or its ``inputs`` as read back from JSON.
        operator: What was audited.

    Raises:
        ValueError: The inputs are of no known kind.
    """
    inputs = witness.inputs if isinstance(witness, Witness) else witness
    if inputs.get("kind") != "weights":
        raise ValueError(f"kind={inputs.get('kind')!r} is no kind of witness; expected weights")
    case = Case.from_json(inputs)
    if inputs["axiom"] == "contract.lipschitz":
        from mashbill.audit.slopes import excess

        return excess(operator, case)
    return VIOLATIONS[inputs["axiom"]](operator, case)
