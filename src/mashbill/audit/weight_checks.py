"""The audit of a weight rule: attack every axiom that applies, then see what can be proved of what survived."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mashbill.audit import certificates
from mashbill.audit.axioms import AXIOMS, Axiom
from mashbill.audit.moods import Stage
from mashbill.audit.reducing import shrink
from mashbill.audit.situations import Case
from mashbill.audit.slopes import excess
from mashbill.audit.subject import Subject
from mashbill.audit.supply import Budget, require_budget
from mashbill.audit.telling import tell_case
from mashbill.audit.verdicts import Certificate, CheckResult, Witness
from mashbill.audit.violations import (
    VIOLATIONS,
    disorder,
    jump,
    ordered_pairs,
    out_of_bounds,
    out_of_range,
    silenced,
    sum_off,
    weights_of,
)
from mashbill.audit.weight_searches import searches_for
from mashbill.audit.worlds import World
from mashbill.weights.evidence import Declared, WeightOperator, needs_of

KINDS = ("weights", "composition", "contract")
REPLAY = """from mashbill.audit import replay
inputs = ...  # the `inputs` of this witness
print(replay(inputs, operator))  # above 0: still violated"""
_OF_ANSWERS = ("contract.answer", "contract.shape")
_Found = tuple[Case, str] | None


def check_weights(
    rule: WeightOperator,
    *,
    name: str,
    axioms: Collection[str] | None = None,
    stage: Stage | None = None,
    budget: Budget = "quick",
    seed: int = 0,
) -> Iterator[CheckResult]:
    """Yield a verdict for each axiom of weight rules, compositions and the contract, as it is reached.

    Args:
        rule: The operator.
        name: What to call it.
        axioms: Only these ids.
        stage: The names that the operator was made for.
        budget: How hard to try.
        seed: Of every search.
    """
    audit = _Audit(Subject(rule, name, stage or Stage(), require_budget(budget), seed))
    for axiom in AXIOMS.values():
        if axiom.kind in KINDS and (axioms is None or axiom.id in axioms):
            yield audit.verdict(axiom)


@dataclass(frozen=True)
class _Audit:
    """Reaches one verdict after another about a subject."""

    subject: Subject

    # Verdicts

    def verdict(self, axiom: Axiom) -> CheckResult:
        """Attack, then prove."""
        tell = replace
        result = CheckResult(
            self.subject.name, axiom.id, "not applicable", self.subject.applies(axiom), seed=self.subject.seed
        )
        if result.reason:
            return result
        if self.subject.unreadable and axiom.id not in _OF_ANSWERS:
            return tell(result, verdict="error", reason=self.subject.unreadable)
        try:
            found, attempts, searches = self._attack(axiom)
            result = tell(result, attempts=attempts, searches=searches)
            if found is not None:
                return self._falsified(result, axiom, *found)
            certificate = self._prove(axiom)
        except Exception as error:  # whatever the operator's own code raises
            told = str(error).strip().splitlines()
            reason = f"the operator raised {type(error).__name__}: {told[0] if told else ''}"
            return tell(result, verdict="error", reason=reason[:300])
        if certificate is not None:
            return tell(result, verdict="certified", reason=certificate.claim, certificate=certificate)
        reason = f"{attempts} situations, {', '.join(searches)}: no violation found"
        return tell(result, verdict="survived", reason=reason)

    def _falsified(self, result: CheckResult, axiom: Axiom, case: Case, search: str) -> CheckResult:
        measure, rule = VIOLATIONS.get(axiom.id, _steepness), self._asked(axiom)
        case = shrink(case, lambda smaller: _still_exceeds(measure, rule, smaller), self.subject.stage)
        violation = measure(rule, case)
        told = self.subject.unreadable or tell_case(self.subject.rule, axiom, case)
        inputs = {"axiom": axiom.id, **case.to_json()}
        witness = Witness(told, inputs, violation, search, REPLAY)
        return replace(result, verdict="falsified", reason=told, witness=witness)

    # Attacks

    def _attack(self, axiom: Axiom) -> tuple[_Found, int, tuple[str, ...]]:
        """Return the first violation with its search, how many situations were tried, and by which searches."""
        attempts, names = 0, []
        rule = self._asked(axiom)
        for search, cases in searches_for(self.subject, axiom):
            names.append(search)
            for case in cases():
                if case is None:
                    attempts += 1
                    continue
                attempts += case.world.logits.shape[1]
                if _exceeds(VIOLATIONS.get(axiom.id, _steepness), rule, case):
                    return (case, search), attempts, tuple(names)
        return None, attempts, tuple(names)

    def _asked(self, axiom: Axiom) -> WeightOperator:
        """Return who is asked: for a memory a copy that has not been asked before."""
        return self.subject.fresh if axiom.id == "contract.state" else self.subject.rule

    # Proofs

    def _prove(self, axiom: Axiom) -> Certificate | None:
        if axiom.id == "composition.feasible":
            return certificates.certify_feasible(self.subject.bounds or (0.0, 1.0), self.subject.sizes)
        if axiom.id in ("task.III.14", "composition.student"):
            reads = certificates.OF_THE_STUDENT & needs_of(self.subject.rule) or not hasattr(self.subject.rule, "needs")
            return None if reads else certificates.certify_student_free(self.subject.rule)
        if self.subject.promise is None:
            return None
        return self._prove_by_structure(axiom.id, self.subject.promise)

    def _prove_by_structure(self, axiom: str, promise: Declared) -> Certificate | None:
        kind, largest = VIOLATIONS.get(axiom), self.subject.sizes[-1]
        if kind is sum_off:
            outputs = [_one(self.subject.rule, world) for _, world in self.subject.usable[:5]]
            return certificates.certify_last_step(self.subject.rule, outputs, largest)
        if kind in (silenced, out_of_bounds, out_of_range):
            return certificates.certify_range(self.subject.rule, promise, self.subject.sizes)
        if kind is jump or axiom == "contract.lipschitz":
            return certificates.certify_slope(self.subject.rule, promise, largest)
        if kind is disorder:
            return certificates.certify_order(self.subject.rule, list(self._ordered_answers()), largest)
        return None

    def _ordered_answers(self) -> Iterator[dict[str, Any]]:
        for _, world in self.subject.usable[:5]:
            pairs = ordered_pairs(self.subject.rule, world, world.contexts[int(world.context[0])])
            yield {"weights": _one(self.subject.rule, world), "pairs": [list(pair) for pair in pairs]}


def _one(rule: WeightOperator, world: World) -> list[float]:
    return weights_of(rule, world, normalise=False)[:, 0, 0].tolist()


def _exceeds(measure: Callable[[WeightOperator, Case], float], rule: WeightOperator, case: Case) -> bool:
    violation = measure(rule, case)
    return violation > 0 or math.isnan(violation)


def _still_exceeds(measure: Callable[[WeightOperator, Case], float], rule: WeightOperator, case: Case) -> bool:
    """The same of a smaller situation, which the rule may not be made for."""
    try:
        return _exceeds(measure, rule, case)
    except Exception:  # whatever the operator's own code raises
        return False


def _steepness(rule: WeightOperator, case: Case) -> float:
    return excess(rule, case)
