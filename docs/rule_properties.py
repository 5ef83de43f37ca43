"""Write the table of rules and properties in ``docs/rules.md``: python docs/rule_properties.py [--check].

Every rule that a recipe can name, and every published one, is audited for five properties, whatever its scale. Nothing
here is written by hand but the rules' options. ``--check`` changes nothing and fails if the page says something else.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mashbill import weights
from mashbill.audit.checking import check
from mashbill.audit.moods import Stage
from mashbill.audit.verdicts import CheckResult
from mashbill.weights import published
from mashbill.weights.evidence import Evidence, WeightOperator

PAGE = Path(__file__).parent / "rules.md"
BEGIN, END = "<!-- properties: begin -->\n", "<!-- properties: end -->"
PROPERTIES = {
    "normalised": "token.III.1",
    "positive": "token.III.2",
    "bounded": "token.III.3",
    "continuous": "token.III.4",
    "ordered": "token.III.5",
}
TEACHERS = ("a", "b")


def stirred(rule: torch.nn.Module) -> Any:
    """Return a learned rule as training may leave it: nothing holds its parameters near their start."""
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.normal_(std=10)
    return rule


def rules() -> dict[str, tuple[WeightOperator, Stage]]:
    """Return each rule with ordinary options, and the names that it was given."""
    free, two = Stage(), Stage(teachers=TEACHERS)
    torch.manual_seed(0)  # for the learned rules
    return {
        "uniform": (weights.Uniform(), free),
        "static": (weights.Static({"a": 0.7, "b": 0.3}), two),
        "route": (published.Route(), free),
        "entropy_softmax": (weights.EntropySoftmax(), free),
        "inverse_variance": (weights.InverseVariance(), free),
        "hybrid": (weights.Hybrid(), free),
        "gibbs": (weights.Gibbs(), free),
        "gibbs, student": (weights.Gibbs(reference="student"), free),
        "margin": (weights.Margin(), free),
        "bayes": (weights.Bayes(), free),
        "fixed_share": (weights.FixedShare(), free),
        "performance": (weights.Performance(), free),
        "inverse_loss": (weights.InverseLoss(), free),
        "data_volume": (weights.DataVolume({"a": 1000, "b": 50}), two),
        "gradient_alignment": (weights.GradientAlignment(), free),
        "kendall_optimum": (weights.KendallOptimum(), free),
        "mgda": (weights.MGDA(), free),
        "bounded_mgda": (weights.BoundedMGDA(), free),
        "min_variance": (weights.MinVariance({"a": 1.0, "b": 4.0}), two),
        "ranked_safety": (weights.RankedSafety(), free),
        "partition_of_unity": (weights.PartitionOfUnity(), free),
        "shift_distance": (weights.ShiftDistance({"a": [[0.0, 0.0]], "b": [[1.0, 1.0]]}), two),
        "CA-MKD": (published.CAMKD(), free),
        "EBKD": (published.EBKD(), free),
        "AE-KD": (published.AEKD(), free),
        "MMKD": (stirred(published.MMKD(3, 3)), Stage(teachers=("a", "b", "c"), n_entries=3)),
        "AMTML-KD": (stirred(published.AMTMLKD(3, 2)), Stage(teachers=("a", "b", "c"))),
        "MTKD-RL": (stirred(published.MTKDRL(3, 3)), Stage(teachers=("a", "b", "c"), n_entries=3)),
        "margin-weighted": (published.MarginWeighted(), free),
        "Kendall, learned": (stirred(published.Kendall(2)), two),
        "NeMo-RL, cross-entropy": (published.NeMoRL(), free),
    }


class AtEveryPosition:
    """A rule without its scale: what is asked of token rules is asked of all."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule
        self.needs = getattr(rule, "needs", frozenset())
        self.declared = rule.declared

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        """Return what the rule returns."""
        return self._rule(evidence)


def rows() -> Iterator[str]:
    """Yield the table, a rule a line, then the witnesses."""
    yield "| rule | " + " | ".join(PROPERTIES) + " |\n|---|" + "---|" * len(PROPERTIES) + "\n"
    witnesses: list[str] = []
    for name, (rule, stage) in rules().items():
        found = check(AtEveryPosition(rule), name=name, kind="weights", axioms=list(PROPERTIES.values()), stage=stage)
        marks = [mark(name, title, result, witnesses) for title, result in zip(PROPERTIES, found, strict=True)]
        yield f"| {name} | " + " | ".join(marks) + " |\n"
        print(name, *marks, sep="  ", flush=True)
    yield "\n"
    yield from (f"{number}. {text}\n" for number, text in enumerate(witnesses, start=1))
    yield from released()


def released() -> Iterator[str]:
    """Yield what the coefficients of some released codes sum to, where that is not 1."""
    three = torch.tensor([0.5, 1.5, 5.0], dtype=torch.float64)
    sums = {
        "CA-MKD, cross-entropies (.5, 1.5, 5)": published.camkd.released_coefficients(three),
        "EBKD, entropies (.3, 1.2, 2.4)": published.ebkd.released_coefficients(three.new_tensor([0.3, 1.2, 2.4])),
        "Kendall, log-variances of losses (.2, .5, 1)": weights.kendall_raw(three.new_tensor([0.2, 0.5, 1.0])),
    }
    yield "\nThe rules above divide by the sum. Some released codes multiply each loss with other numbers:\n\n"
    yield "| released code | coefficients | sum |\n|---|---|---|\n"
    for name, values in sums.items():
        yield f"| {name} | {', '.join(f'{x:.4g}' for x in values.tolist())} | {float(values.sum()):.4g} |\n"


def mark(name: str, title: str, result: CheckResult, witnesses: list[str]) -> str:
    """Return a cell of the table; a counter-example is added to the witnesses."""
    kept = {"survived": "yes, tested", "certified": "yes, certified"}
    if result.verdict in kept:
        return kept[result.verdict]
    witnesses.append(f"{name}, not {title}: {result.reason}")
    return f"no [{len(witnesses)}]"


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` compare it."""
    torch.set_num_threads(1)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    wanted = before + BEGIN + "\n" + "".join(rows()) + "\n" + END + after
    if "--check" not in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if page != wanted:
        print("docs/rules.md says something else than the audit; run: python docs/rule_properties.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
