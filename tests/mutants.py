"""Broken operators, each with one fault and the axioms that it breaks: what an audit has to find.

python tests/mutants.py [--budget quick|standard|deep] [--only WORD]

prints for each the first search that found it, or MISSED, and what else was blamed. Each is shown to be broken without
the audit, at a known input, by ``Mutant.violation``.
"""

import argparse
import time
from dataclasses import dataclass

import torch
from audit.mutants_answers import ANSWERS, NANS, SHAPES
from audit.mutants_composition import COMPOSITION
from audit.mutants_neighbours import NEIGHBOURS, STATE
from audit.mutants_pools import POOLS
from audit.mutants_promises import FOLLOWING, PROMISES
from audit.mutants_recursion import RECURSION
from audit.mutants_scales import CONTEXT, TASK
from audit.mutants_sequences import SEQUENCES
from audit.mutants_softening import SOFTENING
from audit.mutants_token import TOKEN
from audit.specimens import Mutant

from mashbill.audit.supply import Budget
from mashbill.audit.verdicts import CheckResult

MUTANTS: list[Mutant] = [
    *TOKEN,
    *TASK,
    *CONTEXT,
    *SHAPES,
    *ANSWERS,
    *NANS,
    *NEIGHBOURS,
    *STATE,
    *FOLLOWING,
    *PROMISES,
    *COMPOSITION,
    *SEQUENCES,
    *POOLS,
    *SOFTENING,
    *RECURSION,
]


@dataclass(frozen=True)
class Found:
    """What an audit says of a mutant.

    Attributes:
        mutant: The mutant.
        search: The first search that found its fault; empty if none did.
        blamed: Axioms that it breaks and that were falsified.
        unrelated: Axioms that it keeps and that were falsified, or could not be looked at.
        attempts: Situations until it was found.
        seconds: Of the whole audit.
    """

    mutant: Mutant
    search: str
    blamed: tuple[str, ...]
    unrelated: tuple[str, ...]
    attempts: int
    seconds: float


def find(mutant: Mutant, *, budget: Budget = "quick", seed: int = 0, is_whole: bool = True) -> Found:
    """Audit a fresh mutant: by all axioms, or by the one that it breaks first."""
    from mashbill import audit

    start = time.perf_counter()
    results = audit.check(
        mutant.make(),
        name=mutant.name,
        kind=mutant.kind,
        axioms=None if is_whole else (mutant.axiom,),
        stage=mutant.stage,
        budget=budget,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    broken = {result.axiom: result for result in results if result.verdict in ("falsified", "error")}
    primary = broken.get(mutant.axiom)
    search = "" if primary is None else primary.witness.search if primary.witness else "raised"
    return Found(
        mutant,
        search,
        tuple(axiom for axiom in mutant.breaks if axiom in broken),
        tuple(axiom for axiom, result in broken.items() if axiom not in mutant.breaks and _blames(mutant, result)),
        0 if primary is None else primary.attempts,
        seconds,
    )


def _blames(mutant: Mutant, result: CheckResult) -> bool:
    """Whether a verdict blames: what does not answer cannot be looked at further, and each axiom says so."""
    return result.verdict == "falsified" or mutant.axiom not in ("contract.shape", "contract.answer")


def table(found: list[Found]) -> str:
    """Return a table of mutants and the searches that found them."""
    width = max(len(one.mutant.name) for one in found)
    lines = []
    for one in found:
        said = f"{one.search}, {one.attempts} situations" if one.search else "MISSED"
        also = f"  also blamed: {', '.join(one.unrelated)}" if one.unrelated else ""
        lines.append(f"{one.mutant.name:<{width}}  {one.mutant.axiom:<28} {said:<32} {one.seconds:5.1f} s{also}")
    n_found = sum(bool(one.search) for one in found)
    n_clean = sum(not one.unrelated for one in found)
    lines.append(f"{n_found} of {len(found)} found, {n_clean} without unrelated blame")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=("quick", "standard", "deep"), default="quick")
    parser.add_argument("--only", default="", help="mutants whose name or axiom contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [one for one in MUTANTS if arguments.only in one.name or arguments.only in one.axiom]
    print(table([find(one, budget=arguments.budget) for one in chosen]))


if __name__ == "__main__":
    main()
