"""What an audit found, as text for people: a compact table for each operator."""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mashbill.audit.axioms import AXIOMS, Axiom
from mashbill.audit.verdicts import VERDICTS, CheckResult
from mashbill.cli.audit_targets import Opened

NARROWEST = 30
"""Columns that a reason gets at least."""


def result_lines(name: str, results: Sequence[CheckResult]) -> list[str]:
    """Return the table of one operator, what does not apply to it, and the count of verdicts."""
    shown = [result for result in results if result.verdict != "not applicable"]
    rows = [("axiom", "", "verdict", "reason"), *_rows(shown)]
    return [name, *aligned(rows), *_not_applicable(results), f"  {tally(results)}"]


def _rows(results: Sequence[CheckResult]) -> Iterator[tuple[str, str, str, str]]:
    """Yield one row for each result; an operator that fails everywhere for one reason gets one row."""
    repeated = Counter(result.reason for result in results if result.verdict == "error")
    told: set[str] = set()
    for result in results:
        row = (result.axiom, title(AXIOMS[result.axiom]), *_said(result))
        if result.verdict == "error" and repeated[result.reason] > 1:
            if result.reason in told:
                continue
            told.add(result.reason)
            row = (f"{repeated[result.reason]} axioms", "", *_said(result))
        yield row


def _said(result: CheckResult) -> tuple[str, str]:
    if result.known and failed(result):
        return f"{result.verdict} (known)", f"{result.reason}; known: {result.known}"
    return result.verdict, result.reason


def failed(result: CheckResult) -> bool:
    """Whether the axiom is broken or the operator failed, expected or not."""
    return result.verdict in ("falsified", "error")


def title(axiom: Axiom) -> str:
    """Return an axiom's title with its variant."""
    return f"{axiom.title}, {axiom.variant}" if axiom.variant else axiom.title


def tally(results: Sequence[CheckResult]) -> str:
    """Return the counts of the verdicts and the judgement.

    >>> tally([])
    'no axiom applies: nothing to conform to'
    """
    counts = Counter(result.verdict for result in results)
    parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    violated = [result.axiom for result in results if result.is_violated]
    known = sum(failed(result) for result in results) - len(violated)
    applied = any(result.verdict != "not applicable" for result in results)
    judgement = f"violated: {len(violated)}" if violated else "conforming" if applied else "nothing to conform to"
    return f"{parts or 'no axiom applies'}: {judgement}{f', {known} known' if known else ''}"


def advice_lines(opened: Opened, results: Sequence[CheckResult]) -> list[str]:
    """Return what to do about findings that have a common cause."""
    verdicts = {result.axiom: result.verdict for result in results if result.is_violated}
    advice = []
    if opened.loaded is not None and verdicts.get("token.III.5") == "falsified":
        recipe = opened.loaded.recipe
        if recipe.weighting.order is None:
            scorecard = "" if recipe.data.scorecard else ", and `scorecard:` under `data`"
            advice.append(f"the recipe states no safety order: add `order: scorecard` under `weighting`{scorecard}")
        elif recipe.weighting.order != "scorecard":
            advice.append("the order that is stated is not the certified one: `order: scorecard` under `weighting` is")
    is_free = opened.kind == "operator" and opened.target.stage is None
    if is_free and verdicts.get("contract.answer") == "falsified":
        advice.append("if it is made for certain teachers, tasks or contexts, name them: --teachers 3, --tasks a,b")
    return advice


def _not_applicable(results: Sequence[CheckResult]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for result in results:
        if result.verdict == "not applicable":
            by_reason.setdefault(result.reason, []).append(result.axiom)
    for reason, axioms in by_reason.items():
        yield from _wrapped(f"  not applicable: {', '.join(axioms)}: {reason}", 4)


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows as lines whose columns stand below each other; the last column is broken for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        start = "  " + "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=False)) + "  "
        yield from _wrapped(f"{start}{' '.join(row[-1].split())}", len(start))


def _wrapped(line: str, indent: int) -> list[str]:
    """Break a line for a terminal; whoever reads a pipe gets it whole."""
    if not sys.stdout.isatty():
        return [line]
    width = max(shutil.get_terminal_size().columns, indent + NARROWEST)
    # The start has runs of blanks that keep the columns; only what follows may be broken.
    rest = textwrap.wrap(line[indent:], width - indent, break_on_hyphens=False) or [""]
    return [line[:indent] + rest[0], *(" " * indent + more for more in rest[1:])]


def axiom_lines() -> list[str]:
    """Return every axiom there is: id, title and statement."""
    width = max(map(len, AXIOMS)) + 2
    return [
        line
        for axiom in AXIOMS.values()
        for line in _wrapped(f"{axiom.id:{width}}{title(axiom)}: {axiom.statement}", width)
    ]


def axiom_facts() -> list[dict[str, Any]]:
    """Return every axiom as plain values."""
    return [asdict(axiom) for axiom in AXIOMS.values()]
