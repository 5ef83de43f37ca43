"""Which axioms add something: for each a family that breaks it alone, or the proof that others imply it.

Fifteen axioms at three scales are five properties: N normalisation, P positivity, B boundedness, R regularity, S safety
order, and Pareto compatibility at the task scale. The same families serve every scale, because the properties are the
same ones of functions with different arguments; for that reason scales are independent of each other too.

Every cell is computed: a dense grid and a bisection refute, an exact argument proves, and where both are silent the
cell says *survived*. Which axioms are redundant is read off the cells, not written down.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mashbill.audit.axioms import AXIOMS
from mashbill.audit.independence_families import BOX, Family, families
from mashbill.audit.independence_proofs import Implication, implications
from mashbill.audit.verdicts import Certificate, CheckResult, Witness
from mashbill.shapes import Tensor

PROPERTIES = {"N": "normalised", "P": "positive", "B": "bounded", "R": "regular", "S": "in order"}
"""Letters of the table."""

LETTER_OF = {
    **{f"token.III.{number}": letter for number, letter in zip(range(1, 6), "NPBRS", strict=True)},
    **{f"task.III.{number}": letter for number, letter in zip(range(10, 14), "NPBR", strict=True)},
    "task.III.14": "Pareto",
    **{f"context.III.{number}": letter for number, letter in zip(range(18, 23), "NPBRS", strict=True)},
}
"""Which property each of the fifteen axioms states."""

REACH, N_POINTS = 5.0, 8_001  # small enough that torch starts no threads, which wait on a busy machine
TOLERANCE = 1e-12
JUMP = 1e-3


@dataclass(frozen=True)
class Finding:
    """What became of one axiom.

    Attributes:
        axiom: Its id.
        letter: The property that it states.
        is_independent: Some family breaks it and keeps the other properties of its scale.
        by: That family, or the implication that makes the axiom redundant.
        reason: In words.
    """

    axiom: str
    letter: str
    is_independent: bool
    by: str
    reason: str


@dataclass(frozen=True)
class Independence:
    """The whole answer.

    Attributes:
        cells: For each family, the result for each property.
        formulas: Each family in words.
        implications: What follows from what, proved.
        findings: One for each of the fifteen axioms.
        missing: Duties that no axiom states.
    """

    cells: Mapping[str, Mapping[str, CheckResult]]
    formulas: Mapping[str, str]
    implications: tuple[Implication, ...]
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]

    @property
    def n_independent(self) -> int:
        """How many axioms are left."""
        return sum(finding.is_independent for finding in self.findings)

    def verdicts(self, family: str) -> str:
        """Return a family's row as 1 for kept and 0 for broken, in the order N P B R S."""
        return "".join("0" if cell.verdict == "falsified" else "1" for cell in self.cells[family].values())

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for :func:`json.dumps`."""
        return {
            "families": {
                name: {
                    "formula": self.formulas[name],
                    "verdicts": self.verdicts(name),
                    "cells": {letter: cell.to_json() for letter, cell in row.items()},
                }
                for name, row in self.cells.items()
            },
            "implications": [asdict(one) for one in self.implications],
            "axioms": [asdict(finding) for finding in self.findings],
            "n_axioms": len(self.findings),
            "n_independent": self.n_independent,
            "missing": list(self.missing),
        }

    def table(self) -> str:
        """Return both tables and the proofs as text."""
        width = max(len(name) for name in self.cells)
        lines = [f"{'family':<{width}}  {'  '.join(PROPERTIES)}  weights of x"]
        for name, row in self.cells.items():
            marks = "  ".join(_MARKS[cell.verdict] for cell in row.values())
            lines.append(f"{name:<{width}}  {marks}  {self.formulas[name]}")
        lines += ["", "+ certified   x falsified   ? survived", ""]
        lines += [
            f"{finding.axiom:<16}  {'independent' if finding.is_independent else 'redundant':<11}  {finding.reason}"
            for finding in self.findings
        ]
        lines += ["", f"{len(self.findings)} axioms, {self.n_independent} independent", ""]
        lines += [f"{one.name}: {one.claim}. {one.proof}" for one in self.implications]
        lines += ["", "asked by no axiom:", *(f"  {AXIOMS[id].title}: {AXIOMS[id].statement}" for id in self.missing)]
        return "\n".join(lines)


_MARKS = {"certified": "+", "falsified": "x", "survived": "?"}


@torch.no_grad()
def independence() -> Independence:
    """Work out which of the fifteen axioms of arXiv 2601.17910 are independent.

    Deterministic, under a second.

    Source:
        Answers the paper's first open question (section IX.C).

    >>> independence().n_independent
    11
    """
    every = families()
    cells = {one.name: {letter: check(one, letter) for letter in PROPERTIES} for one in every}
    proved = implications()
    return Independence(
        cells=cells,
        formulas={one.name: one.formula for one in every},
        implications=proved,
        findings=tuple(_finding(id, letter, cells, proved) for id, letter in LETTER_OF.items()),
        missing=tuple(id for id, axiom in AXIOMS.items() if axiom.kind == "composition"),
    )


def check(family: Family, letter: str) -> CheckResult:
    """Hold a family against one property: search, then prove.

    Raises:
        ValueError: There is no such property.
        AssertionError: A search refutes what an argument proves: one of them is wrong.
    """
    if letter not in PROPERTIES:
        raise ValueError(f"letter={letter!r} must be one of {', '.join(PROPERTIES)}")
    witness, attempts = _jump(family) if letter == "R" else _break(family, letter)
    certificate = family.prove(letter)
    assert witness is None or certificate is None, f"{family.name}, {letter}: proved and refuted"
    told = {
        "falsified": witness.told if witness else "",
        "certified": certificate.claim if certificate else "",
        "survived": f"nothing in {attempts} points",
    }
    verdict = "falsified" if witness else "certified" if certificate else "survived"
    return CheckResult(
        operator=family.name,
        axiom=letter,
        verdict=verdict,
        reason=told[verdict],
        certificate=certificate,
        witness=witness,
        attempts=attempts,
        searches=("bisection",) if letter == "R" else ("grid", "bisection"),
    )


def excess(weights: Tensor, letter: str) -> Tensor:
    """Return how far weights ``[n 3]`` break N, P, B or S: at most 0 where they keep it."""
    low, high = (float(w) for w in BOX)
    if letter == "N":
        return (weights.sum(dim=-1) - 1).abs() - TOLERANCE
    if letter == "P":
        # A weight of exactly 0 is a break, though not below 0.
        return torch.where(weights.amin(dim=-1) > 0, -1.0, TOLERANCE - weights.amin(dim=-1))
    if letter == "B":
        return torch.maximum(low - weights.amin(dim=-1), weights.amax(dim=-1) - high) - TOLERANCE
    return -weights.diff(dim=-1).neg().amin(dim=-1) - TOLERANCE


def _break(family: Family, letter: str) -> tuple[Witness | None, int]:
    """Look for a break on a grid, and shrink the first by bisection to the nearest to 0."""
    x = (REACH / (N_POINTS // 2)) * torch.arange(N_POINTS // 2 + 1, dtype=torch.float64)
    x = torch.stack([x, -x], dim=-1).flatten() + 0.0  # from 0 outwards; -0 is 0
    found = (excess(family.weights(x), letter) > 0).nonzero()
    if not len(found):
        return None, len(x)
    kept, broken = 0.0, float(x[found[0, 0]])
    while broken != 0 and abs(broken - kept) > 1e-9:
        middle = (kept + broken) / 2
        is_broken = float(excess(family.weights(torch.tensor([middle], dtype=torch.float64)), letter)) > 0
        kept, broken = (kept, middle) if is_broken else (middle, broken)
    weights = family.weights(torch.tensor([broken], dtype=torch.float64))
    told = f"x = {broken:.6g}: w = {_shown(weights[0])}, sum {float(weights.sum()):.6g}"
    violation = float(excess(weights, letter))
    return _witness(family, letter, told, {"x": broken}, violation), len(x)


def _jump(family: Family) -> tuple[Witness | None, int]:
    """Keep the half with the larger change, 60 times, from the 20 steps of a coarse grid with the largest changes."""
    x = torch.linspace(-REACH, REACH, 1001, dtype=torch.float64)
    change = family.weights(x).diff(dim=0).abs().amax(dim=-1)
    start = change.topk(20).indices
    low, high = x[start], x[start + 1]
    for _ in range(60):
        middle = (low + high) / 2
        at_low, at_middle, at_high = (family.weights(each) for each in (low, middle, high))
        is_left = (at_middle - at_low).abs().amax(dim=-1) >= (at_high - at_middle).abs().amax(dim=-1)
        low, high = torch.where(is_left, low, middle), torch.where(is_left, middle, high)
    before, after = family.weights(low), family.weights(high)
    size, worst = (after - before).abs().amax(dim=-1).max(dim=0)
    if float(size) <= JUMP:
        return None, 20 * 60
    at = int(worst)
    apart = float(high[at] - low[at])
    told = f"x = {float(low[at]):.6g}: {_shown(before[at])} becomes {_shown(after[at])} within {apart:.0e}"
    inputs = {"x": float(low[at]), "y": float(high[at])}
    return _witness(family, "R", told, inputs, float(size) - JUMP), 20 * 60


def _witness(family: Family, letter: str, told: str, inputs: dict[str, float], violation: float) -> Witness:
    search = "bisection" if letter == "R" else "grid"
    points = ", ".join(repr(value) for value in inputs.values())
    lines = [
        "import torch; from mashbill.audit.independence_families import family",
        f"w = family({family.name!r}).weights(torch.tensor([{points}], dtype=torch.float64))",
    ]
    if letter == "R":
        lines.append(f"violation = float(w.diff(dim=0).abs().max()) - {JUMP!r}")
    else:
        lines.append(f"from mashbill.audit.independence import excess; violation = float(excess(w, {letter!r}))")
    return Witness(told, {"kind": "independence", "family": family.name, **inputs}, violation, search, "\n".join(lines))


def _finding(
    id: str, letter: str, cells: Mapping[str, Mapping[str, CheckResult]], proved: tuple[Implication, ...]
) -> Finding:
    """Read off the cells who breaks an axiom alone, among the properties that its scale has."""
    scale = [other for axiom, other in LETTER_OF.items() if AXIOMS[axiom].scale == AXIOMS[id].scale]
    for name, row in cells.items():
        broken = [other for other in scale if other in row and row[other].verdict == "falsified"]
        rest = [row[other].verdict for other in scale if other in row and other != letter]
        if broken == [letter] and all(verdict == "certified" for verdict in rest):
            return Finding(id, letter, True, name, f"{name!r} breaks it alone: {row[letter].reason}")
    for one in proved:
        if one.letter == letter and one.is_proved:
            return Finding(id, letter, False, one.name, one.claim)
    return Finding(id, letter, False, "", "no family found, and no proof")


def _shown(weights: Tensor) -> str:
    return "(" + ", ".join(f"{w:.6g}" for w in weights.tolist()) + ")"


def certificates(found: Independence) -> list[Certificate]:
    """Return every proof object in an answer, so that all can be re-checked."""
    of_cells = [cell.certificate for row in found.cells.values() for cell in row.values() if cell.certificate]
    return of_cells + [one.certificate for one in found.implications if one.certificate]
