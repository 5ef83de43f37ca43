"""What may go wrong inside an operator, and how it is told: in one sentence, without a traceback of ours."""

FAULTS = (Exception, SystemExit)
"""Whatever the operator's own code raises; an operator that leaves the program must not end the audit in silence."""


def raised(error: BaseException) -> str:
    """Return what an operator raised, in one line."""
    told = str(error).strip().splitlines()
    return f"the operator raised {type(error).__name__}{': ' + told[0] if told else ''}"[:300]
