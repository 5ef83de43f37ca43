"""``mashbill audit``: which axioms an operator satisfies, with evidence that somebody else can check again."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mashbill.cli.audit_guarantees import guarantee_rows, guarantees_of
from mashbill.cli.audit_requests import chosen_axioms, expected_failures, require_askable, require_page, stage_of
from mashbill.cli.audit_targets import Opened, open_targets
from mashbill.cli.audit_text import advice_lines, aligned, axiom_facts, axiom_lines, failed, result_lines
from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, prepare_libraries
from mashbill.cli.reply import Reply
from mashbill.errors import MashbillError

if TYPE_CHECKING:
    from mashbill.audit.verdicts import CheckResult
    from mashbill.guarantees import Guarantee
    from mashbill.progress import Progress

Budget = Literal["quick", "standard", "deep"]
Kind = Literal["weights", "pool", "softening", "recursion", "sequence"]
VIOLATED = 1
"""Exit code when an axiom is broken, or the operator failed, and nobody expected it; or when it was and did not."""


def audit(  # noqa: PLR0917  # the command line's options, not a call's arguments
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET...",
            help="`module:Name`, `file.py:Name`, an installed rule, a recipe (.yaml), or the folder of a run.",
        ),
    ] = None,
    axioms: Annotated[str | None, typer.Option(metavar="ID,...", help="Ask these axioms only.")] = None,
    budget: Annotated[
        Budget, typer.Option(help="How hard to search: seconds, up to a minute, or minutes for each operator.")
    ] = "quick",
    seed: Annotated[int, typer.Option(min=0, help="Of every search.")] = 0,
    kind: Annotated[
        Kind | None,
        typer.Option(help="What the operators are, where their arguments do not tell: a recursion's do not."),
    ] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIOM=REASON", help="A failure that is expected, and why; it must really fail. Repeatable."
        ),
    ] = None,
    teachers: Annotated[
        str | None, typer.Option(metavar="N|ID,...", help="How many teachers a weight rule is made for, or their ids.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(metavar="NAME,...", help="The tasks that a weight rule knows.")] = None,
    contexts: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="The contexts that a weight rule knows.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the matrix of axioms as a page.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the axioms.")] = False,
    independence: Annotated[
        bool, typer.Option("--independence", help="Show which axioms are independent of the others, and why.")
    ] = False,
    plugin: PluginOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the operator, or a value of the recipe."),
    ] = None,
) -> Reply:
    """Say of each operator which axioms are certified, falsified or survived; exit with 1 if one is violated."""
    if list_ or independence:
        _require_alone(targets, "--list" if list_ else "--independence", both=list_ and independence)
        return Reply(axiom_lines(), {"axioms": axiom_facts()}) if list_ else _independence()
    if not targets:
        raise MashbillError("nothing to audit was named", help="mashbill audit module:Name, a recipe, or a run")
    require_page(html)
    chosen, expected = chosen_axioms(axioms), expected_failures(known or ())
    prepare_libraries()
    with redirect_stdout(sys.stderr):  # what operators print is no part of the answer
        opened = open_targets(targets, plugin or (), set_ or (), stage_of(teachers, tasks, contexts))
        require_askable(opened, kind=kind, axioms=chosen, known=list(expected))
        progress = for_stderr()
        options = {"axioms": chosen, "budget": budget, "seed": seed, "kind": kind, "known": expected}
        found = {one.target.name: checked(one, progress=progress, **options) for one in opened}
        follows = {one.target.name: guarantees_of(one, found[one.target.name]) for one in opened}
    _require_applied(found)
    return _reply(opened, found, follows, html, {"budget": budget, "seed": seed})


def checked(opened: Opened, *, progress: "Progress", **options: Any) -> "list[CheckResult]":
    """Audit one operator; the options are those of :func:`mashbill.audit.check`."""
    from mashbill.audit import check

    target = opened.target
    try:
        return check(target.operator, name=target.name, stage=target.stage, progress=progress, **options)
    except ValueError as error:  # what the audit cannot ask of such an operator
        raise MashbillError(str(error), where=target.name) from error


def _require_applied(found: "Mapping[str, Sequence[CheckResult]]") -> None:
    """Refuse to call conforming what was asked nothing that applies to it."""
    every = [result for results in found.values() for result in results]
    if all(result.verdict == "not applicable" for result in every):
        reasons = "; ".join(dict.fromkeys(result.reason for result in every))
        asked = ", ".join(dict.fromkeys(result.axiom for result in every))
        raise MashbillError(f"nothing that was asked applies to `{', '.join(found)}`", why=f"{asked}: {reasons}")


def _reply(
    opened: Sequence[Opened],
    found: "Mapping[str, Sequence[CheckResult]]",
    follows: "Mapping[str, Sequence[Guarantee]]",
    html: Path | None,
    settings: Mapping[str, Any],
) -> Reply:
    lines: list[str] = []
    operators: list[dict[str, Any]] = []
    for one in opened:
        name = one.target.name
        results, advice = found[name], advice_lines(one, found[name])
        lines += [*([""] if lines else []), *result_lines(name, results), *(f"  help: {line}" for line in advice)]
        if follows[name]:
            lines += ["  what follows", *aligned(guarantee_rows(follows[name]))]
        operators.append(
            {
                "operator": name,
                "kind": one.kind,
                "conforming": not any(result.is_violated for result in results),
                "results": [result.to_json() for result in results],
                "advice": advice,
                "guarantees": [guarantee.to_json() for guarantee in follows[name]],
            }
        )
    is_conforming = all(operator["conforming"] for operator in operators)
    passed = _passed([result for results in found.values() for result in results])
    lines += [f"known failure does not fail: {axiom}; take --known {axiom} away" for axiom in passed]
    value: dict[str, Any] = {"conforming": is_conforming, "passed_though_known": passed, **settings}
    value["operators"] = operators
    if html is not None:
        from mashbill.report.audit_page import write_audit

        every = [result for results in found.values() for result in results]
        guarantees = {operator["operator"]: operator["guarantees"] for operator in operators}
        value["page"] = write_audit(every, output=html, guarantees=guarantees)
        lines.append(f"page: {html}")
    return Reply(lines, value, 0 if is_conforming and not passed else VIOLATED)


def _passed(results: "Sequence[CheckResult]") -> list[str]:
    """Return the axioms that were expected to fail, apply, and fail for none of the operators."""
    applied = [result for result in results if result.known and result.verdict != "not applicable"]
    broken = {result.axiom for result in applied if failed(result)}
    return list(dict.fromkeys(result.axiom for result in applied if result.axiom not in broken))


def _independence() -> Reply:
    from mashbill.audit.independence import independence

    found = independence()
    return Reply(found.table().splitlines(), found.to_json())


def _require_alone(targets: Sequence[str] | None, option: str, *, both: bool) -> None:
    if both:
        raise MashbillError("--list and --independence are two questions", help="ask one at a time")
    if targets:
        raise MashbillError(f"{option} is about the axioms and takes no target, not `{targets[0]}`")
