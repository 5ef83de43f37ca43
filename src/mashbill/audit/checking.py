"""One call for every kind of operator: what it keeps, what it breaks, and what nobody could tell."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from mashbill.audit.asked import require_arguments, require_asked
from mashbill.audit.calling import OperatorKind, called, kind_of, missing_options
from mashbill.audit.legible import legible
from mashbill.audit.moods import Stage
from mashbill.audit.supply import Budget, require_budget
from mashbill.audit.verdicts import CheckResult
from mashbill.audit.weight_checks import check_weights
from mashbill.progress import Progress, Silent

__all__ = ["OperatorKind", "check", "kind_of"]


def check(
    operator: Callable[..., Any],
    *,
    name: str | None = None,
    kind: OperatorKind | None = None,
    axioms: Collection[str] | None = None,
    stage: Stage | None = None,
    budget: Budget = "quick",
    seed: int = 0,
    known: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """Audit an operator: one verdict for each axiom of its kind, the same for the same seed.

    Args:
        operator: A weight rule, a pool, a softening or one step of a recursion.
        name: What to call it; its own name by default.
        kind: What it is; by default told from its arguments. A ``"sequence"`` is a weight rule that learns inside a row
            and is asked what it may lose against the best teacher.
        axioms: Ids to look at; all of the kind by default.
        stage: For weight rules, the names of teachers, tasks and contexts that it was made for.
        budget: ``"quick"`` seconds, ``"standard"`` within a minute, ``"deep"`` minutes.
        seed: Of every search.
        known: Failures that are expected, ``{axiom id: reason}``.
        progress: Shown one step an axiom.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: No such axiom, budget or kind, no axiom of the operator's kind, or the operator cannot be called.

    >>> import torch
    >>> rule = lambda evidence: torch.log_softmax(-evidence.statistics.gini, dim=0)
    >>> [result.verdict for result in check(rule, name="surer", axioms=["token.III.1", "token.III.5"])]
    ['survived', 'falsified']
    """
    require_arguments(axioms, known, seed)
    require_budget(budget)
    if not isinstance(stage, Stage | None):
        raise TypeError(f"stage={stage!r} must be a Stage, for example Stage(teachers=('a', 'b'))")
    if not callable(operator) or isinstance(operator, type):
        raise ValueError(  # noqa: TRY004  # one kind of error for every operator that cannot be audited
            f"operator={called(operator)} must be an operator that can be called, not a class or a value"
        )
    told = legible(name or getattr(operator, "__name__", type(operator).__name__))
    found = kind or kind_of(operator)
    if found not in get_args(OperatorKind):
        raise ValueError(f"kind={found!r} must be one of {', '.join(get_args(OperatorKind))}")
    for absent in missing_options(operator, found):
        help = f"give it with functools.partial(operator, {absent}=...)"
        raise ValueError(f"operator={called(operator)} needs `{absent}`; {help}")
    asked, reasons = require_asked(found, axioms), known or {}
    results = _checks(operator, found, name=told, axioms=axioms, stage=stage, budget=budget, seed=seed)
    complete = _complete(results, asked, name=told, seed=seed)
    return [
        replace(_legible(result), known=reasons.get(result.axiom, ""))
        for result in _shown(complete, told, len(asked), progress or Silent())
    ]


def _checks(operator: Any, kind: str, *, name: str, stage: Stage | None, **options: Any) -> Iterable[CheckResult]:
    if kind == "weights":
        yield from check_weights(operator, name=name, stage=stage, **options)
    elif kind == "pool":
        from mashbill.audit.pool_checks import check_pool

        yield from check_pool(operator, name=name, **options)
    elif kind == "softening":
        from mashbill.audit.softening_checks import check_softening

        yield from check_softening(operator, name=name, **options)
    elif kind == "sequence":
        from mashbill.audit.sequence_checks import check_sequence

        yield from check_sequence(operator, name=name, stage=stage, **options)
    else:
        from mashbill.audit.recursion_checks import check_recursion

        yield from check_recursion(operator, name=name, **options)


def _complete(results: Iterable[CheckResult], asked: Sequence[str], *, name: str, seed: int) -> Iterator[CheckResult]:
    """Yield the results; where the operator leaves the program, an error for each axiom that it leaves open."""
    done = set()
    try:
        for result in results:
            done.add(result.axiom)
            yield result
    except SystemExit as error:
        reason = f"the operator raised SystemExit: {error}"
        yield from (CheckResult(name, axiom, "error", reason, seed=seed) for axiom in asked if axiom not in done)


def _legible(result: CheckResult) -> CheckResult:
    """Return a result whose texts can be shown anywhere; parts of them are the operator's own words."""
    proof, witness = result.certificate, result.witness
    if proof is not None:
        proof = replace(proof, claim=legible(proof.claim), premise=legible(proof.premise))
    if witness is not None:
        witness = replace(witness, told=legible(witness.told))
    return replace(result, reason=legible(result.reason), certificate=proof, witness=witness)


def _shown(results: Iterable[CheckResult], name: str, n_axioms: int, progress: Progress) -> Iterator[CheckResult]:
    progress.start(n_axioms, f"auditing {name}")
    try:
        for result in results:
            progress.advance(1)
            yield result
    finally:
        progress.done()
