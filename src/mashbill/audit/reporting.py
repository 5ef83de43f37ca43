"""From a search's outcome to a verdict; the operator's own exceptions become a verdict too, in one sentence."""

from collections.abc import Callable
from typing import Any

from mashbill.audit.searching import Tally
from mashbill.audit.verdicts import Certificate, CheckResult, Witness

Checked = Witness | Certificate | str | None
"""What a check comes to: broken, proved, impossible to ask (in words), or neither."""


class NotApplicable(Exception):  # noqa: N818 - it is no error: it says why an axiom is not asked
    """Raised where an axiom does not apply, with the reason."""


def report(*, name: str, axiom: str, seed: int, check: Callable[[Tally], Checked]) -> CheckResult:
    """Run one check and return its result."""
    tally = Tally()
    try:
        outcome = check(tally)
    except NotApplicable as reason:
        return CheckResult(name, axiom, "not applicable", str(reason), seed=seed)
    except Exception as error:  # whatever a stranger's operator raises is a verdict
        outcome = told_error(error)
    done = {"attempts": tally.attempts, "searches": tuple(tally.searches), "seed": seed}
    if isinstance(outcome, Witness):
        return CheckResult(name, axiom, "falsified", outcome.told, witness=outcome, **done)
    if isinstance(outcome, Certificate):
        return CheckResult(name, axiom, "certified", outcome.claim, certificate=outcome, **done)
    if outcome:
        return CheckResult(name, axiom, "error", outcome, **done)
    how = f"nothing found in {tally.attempts:,} cases ({', '.join(tally.searches)}; seed {seed})"
    return CheckResult(name, axiom, "survived", "; ".join([how, *tally.notes]), **done)


def told_error(error: Exception) -> str:
    """Return an exception as one sentence: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"the operator raised {type(error).__name__}" + (f": {lines[0]}" if lines else "")


def named(operator: Any) -> str:
    """Return what an operator calls itself."""
    inner = getattr(operator, "func", operator)  # functools.partial
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)
