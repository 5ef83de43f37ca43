"""The audit inside somebody else's tests: one test for each operator and axiom.

Not covered: running the tests; that is pytest's, which has to be installed for this and for nothing else here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mashbill.audit import check
from mashbill.audit.asked import axioms_of, require_arguments
from mashbill.audit.axioms import AXIOMS
from mashbill.audit.calling import OperatorKind, called, kind_of
from mashbill.audit.moods import Stage
from mashbill.audit.supply import Budget
from mashbill.audit.verdicts import CheckResult
from mashbill.errors import MashbillError

if TYPE_CHECKING:
    import pytest

LONGEST_NAME = 60
"""Characters of an operator's name in a test's id."""


def parametrize_with_axioms(
    operators: Sequence[Callable[..., Any]],
    *,
    kind: OperatorKind | None = None,
    axioms: Collection[str] | None = None,
    known: Mapping[str, str] | None = None,
    budget: Budget = "quick",
    seed: int = 0,
    stage: Stage | None = None,
) -> "pytest.MarkDecorator":
    """Make one test of each operator and axiom; the test calls its argument ``check``.

    An axiom that does not apply is skipped. A known failure is expected to fail: the test fails when it no longer does.
    Operators that fail differently get a test function each. Each operator is audited once, when its first test runs.

    Args:
        operators: Rules, pools, softenings, recursions; instances and functions, not classes.
        kind: What they are; by default told from their arguments, which a recursion's do not.
        axioms: Ids to ask; all of the operator's kind by default.
        known: Failures that are expected, ``{axiom id: reason}``.
        budget: As for :func:`mashbill.audit.check`.
        seed: As for :func:`mashbill.audit.check`.
        stage: As for :func:`mashbill.audit.check`.

    Raises:
        ValueError: No such axiom, no operator, or a known failure that is not asked.
        TypeError: A class, or a value, stands among the operators, or an argument is of the wrong type.
        MashbillError: pytest is not installed.

    >>> import torch
    >>> def calm(evidence):
    ...     return torch.log_softmax(0 * evidence.statistics.gini, dim=0)
    >>> @parametrize_with_axioms([calm], known={"token.III.5": "it knows no order"})
    ... def test_axioms(check):
    ...     check()
    """
    try:
        import pytest
    except ImportError as error:
        raise MashbillError("parametrize_with_axioms needs pytest", help="install it with the tests") from error
    require_arguments(axioms, known, seed)
    reasons, cases = dict(known or {}), []
    for operator in _operators(operators):
        audit = _Audit(operator, kind or kind_of(operator), axioms, {"budget": budget, "seed": seed, "stage": stage})
        cases += [AxiomCheck(audit, axiom) for axiom in audit.asked]
    if not cases:
        raise ValueError(f"axioms={list(axioms or ())!r} are asked of none of these operators")
    for axiom in reasons.keys() - {case.axiom for case in cases}:
        raise ValueError(f"known={axiom!r} is not asked of these operators; take it away, or add it to `axioms`")
    parameters = [pytest.param(case, id=str(case), marks=_marks(pytest, reasons.get(case.axiom))) for case in cases]
    return pytest.mark.parametrize("check", parameters)


@dataclass(frozen=True)
class AxiomCheck:
    """One operator against one axiom: call it in a test.

    Attributes:
        audit: Of the operator, shared by its axioms.
        axiom: Id.
    """

    audit: "_Audit"
    axiom: str

    def __str__(self) -> str:
        """Return the test's id."""
        return f"{self.audit.name}-{self.axiom}"

    def __call__(self) -> CheckResult:
        """Fail if the axiom is violated, skip if it does not apply; return what was found."""
        import pytest

        result = self.audit.results[self.axiom]
        if result.verdict == "not applicable":
            pytest.skip(f"not applicable: {result.reason}")
        if result.is_violated:
            pytest.fail(told(result), pytrace=False)  # the frames of the audit would tell nobody anything
        return result


def told(result: CheckResult) -> str:
    """Return a violation as text: the axiom, the counter-example, and how to see it again."""
    axiom = AXIOMS[result.axiom]
    lines = [f"{result.operator}: {result.axiom} is {result.verdict}: {axiom.statement}", result.reason]
    if result.witness is not None:
        found = f"found by {result.witness.search} with seed {result.seed}, {result.witness.violation:.3g} too far"
        lines += [found, f"inputs = {dict(result.witness.inputs)}", result.witness.replay]
    return "\n".join(line for line in lines if line)


@dataclass(frozen=True)
class _Audit:
    operator: Callable[..., Any]
    kind: OperatorKind
    axioms: Collection[str] | None
    options: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        shown = repr(self.operator) if is_dataclass(self.operator) else ""
        if 0 < len(shown) <= LONGEST_NAME and "\n" not in shown and " at 0x" not in shown:
            return shown
        return getattr(self.operator, "__name__", type(self.operator).__name__)

    @cached_property
    def asked(self) -> tuple[str, ...]:
        return axioms_of(self.kind, self.axioms)

    @cached_property
    def results(self) -> dict[str, CheckResult]:
        found = check(self.operator, name=self.name, kind=self.kind, axioms=self.asked, **self.options)
        return {result.axiom: result for result in found}


def _operators(operators: Sequence[Callable[..., Any]]) -> Sequence[Callable[..., Any]]:
    if not operators:
        raise ValueError("operators=[] has nothing to audit")
    for place, operator in enumerate(operators):
        if isinstance(operator, type) or not callable(operator):
            raise TypeError(
                f"operators[{place}]={called(operator)} must be a rule, pool or softening that can be called"
            )
    return operators


def _marks(pytest: Any, reason: str | None) -> Sequence[Any]:
    return () if reason is None else (pytest.mark.xfail(reason=reason, strict=True),)
