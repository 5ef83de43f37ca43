"""``mashbill audit``: which axioms an operator satisfies, with evidence that somebody else can check again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mashbill.audit.axioms import require_axiom
from mashbill.cli.audit_guarantees import guarantee_rows, guarantees_of
from mashbill.cli.audit_targets import Opened, open_targets
from mashbill.cli.audit_text import aligned, axiom_facts, axiom_lines, result_lines
from mashbill.cli.progress import for_stderr
from mashbill.cli.recipes import PluginOption, prepare_libraries, require_no_folder
from mashbill.cli.reply import Reply
from mashbill.errors import MashbillError

if TYPE_CHECKING:
    from mashbill.audit.verdicts import CheckResult
    from mashbill.progress import Progress

Budget = Literal["quick", "standard", "deep"]
Kind = Literal["weights", "pool", "softening", "recursion", "sequence"]
VIOLATED = 1
"""Exit code when an axiom is broken, or the operator failed, and nobody expected it."""


def audit(  # noqa: PLR0917  # the command line's options, not a call's arguments
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET...", help="`module:Name`, an installed rule, a recipe (.yaml), or the folder of a run."
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
        typer.Option(metavar="AXIOM=REASON", help="A failure that is expected, and why. Repeatable."),
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
    require_no_folder(html)
    chosen, expected = _chosen(axioms), _expected(known or ())
    prepare_libraries()
    opened = open_targets(targets, plugin or (), set_ or ())
    progress = for_stderr()
    options = {"axioms": chosen, "budget": budget, "seed": seed, "kind": kind, "known": expected}
    found = {one.target.name: checked(one, progress=progress, **options) for one in opened}
    return _reply(opened, found, html, {"budget": budget, "seed": seed})


def checked(opened: Opened, *, progress: "Progress", **options: Any) -> "list[CheckResult]":
    """Audit one operator; the options are those of :func:`mashbill.audit.check`."""
    from mashbill.audit import check

    target = opened.target
    try:
        return check(target.operator, name=target.name, stage=target.stage, progress=progress, **options)
    except ValueError as error:  # what the audit cannot ask of such an operator
        what = str(error).replace("give kind=", "give --kind")
        raise MashbillError(what, where=target.name) from error


def _reply(
    opened: Sequence[Opened],
    found: "Mapping[str, list[CheckResult]]",
    html: Path | None,
    settings: Mapping[str, Any],
) -> Reply:
    lines: list[str] = []
    operators: list[dict[str, Any]] = []
    for one in opened:
        results = found[one.target.name]
        follows = guarantees_of(one, results)
        lines += [*([""] if lines else []), *result_lines(one.target.name, results)]
        if follows:
            lines += ["  what follows", *aligned(guarantee_rows(follows))]
        operators.append(
            {
                "operator": one.target.name,
                "kind": one.kind,
                "conforming": not any(result.is_violated for result in results),
                "results": [result.to_json() for result in results],
                "guarantees": [guarantee.to_json() for guarantee in follows],
            }
        )
    is_conforming = all(operator["conforming"] for operator in operators)
    value: dict[str, Any] = {"conforming": is_conforming, **settings, "operators": operators}
    if html is not None:
        from mashbill.report.audit_page import write_audit

        every = [result for results in found.values() for result in results]
        follows = {operator["operator"]: operator["guarantees"] for operator in operators}
        value["page"] = write_audit(every, output=html, guarantees=follows)
        lines.append(f"page: {html}")
    return Reply(lines, value, 0 if is_conforming else VIOLATED)


def _independence() -> Reply:
    from mashbill.audit.independence import independence

    found = independence()
    return Reply(found.table().splitlines(), found.to_json())


def _require_alone(targets: Sequence[str] | None, option: str, *, both: bool) -> None:
    if both:
        raise MashbillError("--list and --independence are two questions", help="ask one at a time")
    if targets:
        raise MashbillError(f"{option} is about the axioms and takes no target, not `{targets[0]}`")


def _chosen(axioms: str | None) -> list[str] | None:
    if axioms is None:
        return None
    names = [name.strip() for name in axioms.split(",") if name.strip()]
    if not names:
        raise MashbillError("--axioms names none", help="`mashbill audit --list` lists all")
    for name in names:
        _require_axiom(name, "--axioms")
    return names


def _expected(known: Sequence[str]) -> dict[str, str]:
    expected = {}
    for each in known:
        name, _, reason = (part.strip() for part in each.partition("="))
        _require_axiom(name, "--known")
        if not reason:
            what = f"why `{name}` is expected to fail is not said"
            raise MashbillError(what, where="--known", help=f'--known "{name}=because ..."')
        expected[name] = reason
    return expected


def _require_axiom(name: str, option: str) -> None:
    try:
        require_axiom(name)
    except ValueError as error:
        raise MashbillError(str(error), where=option) from error
