"""What may go wrong inside an operator, and how it is told: in one sentence, without a traceback of ours."""

import copy
from typing import TypeVar

_Operator = TypeVar("_Operator")

FAULTS = (Exception, SystemExit)
"""Whatever the operator's own code raises; an operator that leaves the program must not end the audit in silence."""


def raised(error: BaseException) -> str:
    """Return what an operator raised, in one line."""
    return f"the operator raised {named(error)}"[:300]


def named(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + told[0] if told else ''}"


def copied(operator: _Operator) -> _Operator:
    """Return a copy of an operator; the operator itself if its parts have no copies."""
    try:
        return copy.deepcopy(operator)
    except FAULTS:
        return operator
