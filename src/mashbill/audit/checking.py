"""One call for every kind of operator: what it keeps, what it breaks, and what nobody could tell."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from mashbill.audit.asked import axioms_of
from mashbill.audit.axioms import require_axiom
from mashbill.audit.moods import Stage
from mashbill.audit.supply import Budget, require_budget
from mashbill.audit.verdicts import CheckResult
from mashbill.audit.weight_checks import check_weights
from mashbill.progress import Progress, Silent

OperatorKind = Literal["weights", "pool", "softening", "recursion", "sequence"]


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
        ValueError: No such axiom, budget or kind, or the operator cannot be called.

    >>> import torch
    >>> rule = lambda evidence: torch.log_softmax(-evidence.statistics.gini, dim=0)
    >>> [result.verdict for result in check(rule, name="surer", axioms=["token.III.1", "token.III.5"])]
    ['survived', 'falsified']
    """
    for axiom in (*(axioms or ()), *(known or {})):
        require_axiom(axiom)
    require_budget(budget)
    if not callable(operator) or isinstance(operator, type):
        raise ValueError(  # noqa: TRY004  # one kind of error for every argument
            f"operator={operator!r} must be an operator that can be called, not a class or a value"
        )
    told = name or getattr(operator, "__name__", type(operator).__name__)
    found = kind or kind_of(operator)
    if found not in get_args(OperatorKind):
        raise ValueError(f"kind={found!r} must be one of {', '.join(get_args(OperatorKind))}")
    results = _checks(operator, found, name=told, axioms=axioms, stage=stage, budget=budget, seed=seed)
    reasons = known or {}
    return [
        replace(result, known=reasons.get(result.axiom, ""))
        for result in _shown(results, told, len(axioms_of(found, axioms)), progress or Silent())
    ]


def kind_of(operator: Callable[..., Any]) -> OperatorKind:
    """Tell an operator's kind by what it requires: evidence; log-probabilities and weights; a temperature.

    A recursion's step looks like nothing else and has to be named.

    Raises:
        ValueError: It could be anything.
    """
    try:
        parameters = inspect.signature(operator).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"operator={operator!r} does not tell its arguments; give kind=") from error
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters.values() if p.kind in by_place and p.default is inspect.Parameter.empty]
    if "temperature" in parameters:
        return "softening"
    if len(required) == 1:
        return "weights"
    if len(required) == 2:
        return "pool"
    raise ValueError(f"operator={operator!r} requires {len(required)} arguments; give kind=")


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


def _shown(results: Iterable[CheckResult], name: str, n_axioms: int, progress: Progress) -> Iterator[CheckResult]:
    progress.start(n_axioms, f"auditing {name}")
    try:
        for result in results:
            progress.advance(1)
            yield result
    finally:
        progress.done()
