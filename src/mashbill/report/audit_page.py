"""Write the page of an audit: a matrix of axioms and operators, and behind every cell what it rests on.

Like the report of a run it loads nothing and runs nothing. Not covered: auditing, which has happened before.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mashbill.audit.axioms import AXIOMS, Axiom
from mashbill.audit.legible import legible, strict
from mashbill.audit.verdicts import VERDICTS, CheckResult
from mashbill.durable import write_text
from mashbill.report.rendering import environment, style
from mashbill.report.text import count, number, plural

MAX_CHARACTERS = 6_000
"""Of the numbers of one certificate or witness; the rest is in the command's ``--json``."""

MARKS = {"certified": "✓", "falsified": "✗", "survived": "○", "not applicable": "–", "error": "!"}
MEANINGS = {
    "certified": "There is a proof object, and its numbers can be checked again by anybody.",
    "falsified": "There is a counter-example, and it replays.",
    "survived": "A search looked for a counter-example and found none. That is no proof.",
    "not applicable": "The axiom asks something that this operator does not do.",
    "error": "The operator raised, or its answer cannot be read.",
}
GROUPS = {
    "token": "Weights, token scale",
    "task": "Weights, task scale",
    "context": "Weights, context scale",
    "composition": "Composition",
    "contract": "Contract of a rule",
    "sequence": "Weights that learn from a sequence",
    "pool": "Pool",
    "softening": "Softening",
    "recursion": "Recursion",
}
"""What the first part of an axiom's id means, in the order of the page."""


class Cell(NamedTuple):
    """One operator and one axiom, ready to show.

    Attributes:
        id: Anchor of its entry.
        axiom: What is asked.
        result: What was found.
        mark: A sign that goes with the word.
        label: The verdict in as few letters as it takes.
        look: Class for the style.
        proof: The certificate's numbers as text.
        holds: Whether the certificate passed its check again when the page was written.
        inputs: The witness's situation as text.
    """

    id: str
    axiom: Axiom
    result: CheckResult
    mark: str
    label: str
    look: str
    proof: str
    holds: bool
    inputs: str


class Operator(NamedTuple):
    """One operator: its whole name, a short one for the head of a column, its cells by axiom, and what follows."""

    id: str
    name: str
    short: str
    cells: Mapping[str, Cell]
    counts: str
    guarantees: Sequence[Mapping[str, Any]]


class Matrix(NamedTuple):
    """One table: operators that are asked the same, and a group of rows for each kind of axiom."""

    caption: str
    operators: Sequence[Operator]
    groups: Sequence[tuple[str, Sequence[Axiom]]]


def write_audit(
    results: Sequence[CheckResult],
    *,
    output: str | Path,
    guarantees: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Path:
    """Write the page and return where it stands.

    Args:
        results: What the audit said, of one operator or of several.
        output: The file to write.
        guarantees: For an operator's name, what follows for it, as plain values.
    """
    place = Path(output)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, render(results, guarantees=guarantees or {}))
    return place


def render(results: Sequence[CheckResult], *, guarantees: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the page."""
    operators = _operators(results, guarantees)
    violated = [result for result in results if result.is_violated]
    values = {
        "style": style("style.css", "audit.css"),
        "headline": _headline(operators, violated),
        "operators": operators,
        "matrices": _matrices(operators),
        "legend": [(MARKS[name], name, _look(name), MEANINGS[name]) for name in VERDICTS],
        "seeds": ", ".join(str(seed) for seed in sorted({result.seed for result in results})),
    }
    engine = environment()
    engine.filters |= {"count": count, "number": number}
    return legible(engine.get_template("audit.html.j2").render(**values))


def _headline(operators: Sequence[Operator], violated: Sequence[CheckResult]) -> str:
    what = f"{plural(len(operators), 'operator')} against {plural(_n_axioms(operators), 'axiom')}"
    if not violated:
        return f"{what}: no axiom is violated that was not known to be."
    who = len({result.operator for result in violated})
    return f"{what}: {plural(len(violated), 'violation')}, in {plural(who, 'operator')}."


def _n_axioms(operators: Sequence[Operator]) -> int:
    return len({axiom for operator in operators for axiom in operator.cells})


def _operators(results: Sequence[CheckResult], guarantees: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Operator]:
    names = list(dict.fromkeys(result.operator for result in results))
    shorts = [name.partition("(")[0].rpartition(":")[2].rpartition("/")[2] or name for name in names]
    twice = {short for short, n in Counter(shorts).items() if n > 1}
    found = []
    for number_, (name, short) in enumerate(zip(names, shorts, strict=True)):
        own = [result for result in results if result.operator == name]
        cells = {result.axiom: _cell(result, f"o{number_}-{place}") for place, result in enumerate(own)}
        head = name if short in twice else short
        found.append(Operator(f"o{number_}", name, head, cells, tally(own), guarantees.get(name, ())))
    return found


def tally(results: Sequence[CheckResult]) -> str:
    """Return how many axioms have which verdict, in words; a failure that is known counts apart.

    >>> tally([])
    'nothing was asked'
    """
    counts = Counter(result.verdict for result in results)
    known = sum(bool(result.known) and result.verdict in ("falsified", "error") for result in results)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    parts += [f"{known} of the failures known"] * bool(known)
    return ", ".join(parts) or "nothing was asked"


def _cell(result: CheckResult, id: str) -> Cell:
    is_known = bool(result.known) and result.verdict in ("falsified", "error")
    proof, witness = result.certificate, result.witness
    return Cell(
        id=id,
        axiom=AXIOMS[result.axiom],
        result=result,
        mark=MARKS[result.verdict],
        label="known" if is_known else {"not applicable": "n/a"}.get(result.verdict, result.verdict),
        look="known" if is_known else _look(result.verdict),
        proof=_json(proof.numbers) if proof is not None else "",
        holds=proof is not None and proof.recheck(),
        inputs=_json(witness.inputs) if witness is not None else "",
    )


def _look(verdict: str) -> str:
    return verdict.split(maxsplit=1)[0]


def _json(values: Mapping[str, Any]) -> str:
    text = legible(json.dumps(strict(values), ensure_ascii=False, allow_nan=False))
    left_out = len(text) - MAX_CHARACTERS
    return text if left_out <= 0 else f"{text[:MAX_CHARACTERS]} ... and {count(left_out)} more characters"


def _matrices(operators: Sequence[Operator]) -> list[Matrix]:
    """Put operators that were asked axioms of the same groups into one table."""
    by_kind: dict[str, list[Operator]] = {}
    for operator in operators:
        groups = {axiom.partition(".")[0] for axiom in operator.cells}
        kind = next((name for name in ("pool", "softening", "recursion", "sequence") if name in groups), "weights")
        by_kind.setdefault(kind, []).append(operator)
    captions = {"weights": "Weight rules", "pool": "Pools", "softening": "Softenings", "recursion": "Recursions"}
    captions["sequence"] = "Rules inside a sequence"
    return [Matrix(captions[kind], members, _groups(members)) for kind, members in by_kind.items()]


def _groups(members: Sequence[Operator]) -> list[tuple[str, list[Axiom]]]:
    asked = {axiom for operator in members for axiom in operator.cells}
    groups: dict[str, list[Axiom]] = {}
    for axiom in AXIOMS.values():  # in the order of the axioms' own file
        if axiom.id in asked:
            groups.setdefault(axiom.id.partition(".")[0], []).append(axiom)
    return [(GROUPS.get(name, name), groups[name]) for name in sorted(groups, key=_place)]


def _place(group: str) -> int:
    names = list(GROUPS)
    return names.index(group) if group in names else len(names)
