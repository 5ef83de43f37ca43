"""The audit of a weight rule: attack every axiom that applies, then see what can be proved of what survived."""

import itertools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mashbill.audit import certificates, range_certificates
from mashbill.audit.axioms import AXIOMS, Axiom
from mashbill.audit.faults import FAULTS, raised
from mashbill.audit.metrics import covers
from mashbill.audit.moods import Stage
from mashbill.audit.reducing import shrink
from mashbill.audit.situations import Case
from mashbill.audit.slopes import excess
from mashbill.audit.subject import Forgetful, Subject
from mashbill.audit.supply import Budget, require_budget
from mashbill.audit.telling import tell_case
from mashbill.audit.verdicts import Certificate, CheckResult, Witness
from mashbill.audit.violations import (
    VIOLATIONS,
    disorder,
    disorder_of_stated,
    jump,
    out_of_bounds,
    out_of_range,
    remembers,
    silenced,
    stated_pairs,
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
    subject = Subject(rule, name, stage or Stage(), require_budget(budget), seed)
    audit = _Audit(subject)
    remembered = None if subject.unusable else _memory(subject)
    if remembered is not None:
        # Asked as it is, it would break whatever compares two answers.
        audit = _Audit(replace(subject, rule=Forgetful(subject.fresh)))
    for axiom in AXIOMS.values():
        if axiom.kind in KINDS and (axioms is None or axiom.id in axioms):
            if axiom.id == "contract.state" and remembered is not None:
                yield _Audit(subject).remembering(axiom, *remembered)
            else:
                yield audit.verdict(axiom)


@dataclass(frozen=True)
class _Audit:
    """Reaches one verdict after another about a subject."""

    subject: Subject

    # Verdicts

    def verdict(self, axiom: Axiom) -> CheckResult:
        """Attack, then prove."""
        tell = replace
        faulty = self.subject.unusable
        reason = "" if faulty else self.subject.applies(axiom)
        result = CheckResult(self.subject.name, axiom.id, "not applicable", reason, seed=self.subject.seed)
        if reason:
            return result
        if not faulty and axiom.id not in _OF_ANSWERS:
            faulty = self.subject.unreadable
        if faulty:
            return tell(result, verdict="error", reason=faulty)
        try:
            found, attempts, searches = self._attack(axiom)
            result = tell(result, attempts=attempts, searches=searches)
            if found is not None:
                return self._falsified(result, axiom, *found)
        except FAULTS as error:
            return tell(result, verdict="error", reason=raised(error))
        certificate, note = self._proved(axiom)
        if certificate is not None:
            return tell(result, verdict="certified", reason=certificate.claim, certificate=certificate)
        reason = f"{attempts} situations, {', '.join(searches)}: no violation found"
        return tell(result, verdict="survived", reason=reason + note)

    def remembering(self, axiom: Axiom, case: Case, violation: float) -> CheckResult:
        """Return the verdict on an operator that was seen to remember; one without copies may be sated by now."""
        search, told = "repetition", tell_case(self.subject.fresh, axiom, case)
        witness = Witness(told, {"axiom": axiom.id, **case.to_json()}, violation, search, REPLAY)
        n_asked = case.world.logits.shape[1]
        return CheckResult(
            self.subject.name,
            axiom.id,
            "falsified",
            told,
            witness=witness,
            attempts=n_asked,
            searches=(search,),
            seed=self.subject.seed,
        )

    def _falsified(self, result: CheckResult, axiom: Axiom, case: Case, search: str) -> CheckResult:
        measure, rule = _measure(axiom), self._asked(axiom)
        case = shrink(case, lambda smaller: _still_exceeds(measure, rule, smaller), self.subject.stage)
        violation = measure(rule, case)
        told = self.subject.unreadable or tell_case(rule, axiom, case)
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
                if _exceeds(_measure(axiom), rule, case):
                    return (case, search), attempts, tuple(names)
        return None, attempts, tuple(names)

    def _asked(self, axiom: Axiom) -> WeightOperator:
        """Return who is asked: for a memory a copy that has not been asked before."""
        return self.subject.fresh if axiom.id == "contract.state" else self.subject.rule

    # Proofs

    def _proved(self, axiom: Axiom) -> tuple[Certificate | None, str]:
        """Return a proof, or why there is none: a proof that fails says nothing of the operator."""
        try:
            return self._prove(axiom), ""
        except FAULTS as error:
            return None, f"; no proof: {error}"[:120]

    def _prove(self, axiom: Axiom) -> Certificate | None:
        if axiom.id == "composition.feasible":
            return certificates.certify_feasible(self.subject.bounds or (0.0, 1.0), self.subject.sizes)
        if axiom.id in ("task.III.14", "composition.student"):
            promise = self.subject.promise
            reads = certificates.OF_THE_STUDENT & needs_of(self.subject.rule) or (promise and promise.reads_student)
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
            return range_certificates.certify_range(self.subject.rule, promise, self.subject.sizes)
        if kind is jump or axiom == "contract.lipschitz":
            if not covers(promise.metric, needs_of(self.subject.rule)):
                raise ValueError(f"the metric `{promise.metric}` is unknown, or does not see all that the rule reads")
            return certificates.certify_slope(self.subject.rule, promise, largest)
        if kind is disorder_of_stated or (kind is disorder and self.subject.structure.get("ordered") == "scorecard"):
            shown = list(itertools.islice(self._ordered_answers(), 5))
            return certificates.certify_order(self.subject.rule, shown, largest)
        return None

    def _ordered_answers(self) -> Iterator[dict[str, Any]]:
        for _, world in self.subject.usable:
            pairs = stated_pairs(self.subject.rule, world, world.contexts[int(world.context[0])])
            if pairs:
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
    except FAULTS:
        return False


def _memory(subject: Subject) -> tuple[Case, float] | None:
    """Return where the operator answers the same question differently the second time, and how, at a glance."""
    worlds = [world for _, world in subject.supply[:8]]
    cases = [Case(worlds[0]), *(Case(world, other) for world, other in itertools.pairwise(worlds))]
    try:
        found = ((case, remembers(subject.fresh, case)) for case in cases)
        return next(((case, violation) for case, violation in found if violation > 0), None)
    except FAULTS:
        return None


def _measure(axiom: Axiom) -> Callable[[WeightOperator, Case], float]:
    return VIOLATIONS.get(axiom.id, excess)  # the declared slope has a file of its own
