"""Operators that say what is not so, or say what is so in a way that proves nothing: no proof, and the right blame."""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from audit.specimens import changed
from mutants import MUTANTS

import mashbill as mb
from mashbill.audit.checking import check
from mashbill.audit.moods import Stage
from mashbill.audit.replaying import replay
from mashbill.audit.verdicts import CheckResult
from mashbill.weights import EntropySoftmax, InverseVariance
from mashbill.weights.evidence import Declared, Evidence


def only(rule: Any, axiom: str, **options: Any) -> CheckResult:
    (result,) = check(rule, axioms=[axiom], kind="weights", **options)
    return result


class Says:
    """A softmax of a score in [0, 1], or the answer that is given, with a promise."""

    needs = frozenset({"gini"})

    def __init__(self, score: Callable[[Evidence], torch.Tensor], promise: Declared | None = None) -> None:
        self.score, self.promise = score, promise

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(self.score(evidence), dim=0)

    def declared(self, n_teachers: int) -> Declared:
        low, high = 1 / (1 + (n_teachers - 1) * math.e), 1 / (1 + (n_teachers - 1) / math.e)
        return self.promise or Declared(low, high, 0.5, "teacher probabilities, l1", "gini", score_lipschitz=1.0)


def gini(evidence: Evidence) -> torch.Tensor:
    return -evidence.statistics.gini


class Ordered(Says):
    """Says how it is put together."""

    ordered: Any = None

    def structure(self, n_teachers: int) -> dict[str, Any]:
        return {"parts": [], "bounds": None, "guard": "kl", "ordered": self.ordered}


def test_a_constant_in_a_metric_that_sees_nothing_proves_no_regularity() -> None:
    promise = Declared(0.1, 0.9, 0.5, "token strings, discrete", "two values", score_lipschitz=1.0)
    stepped = Says(lambda evidence: (evidence.statistics.gini * 1e4).round() % 2, promise)
    for axiom in ("token.III.4", "contract.lipschitz"):
        assert only(stepped, axiom).verdict != "certified"
    blind = Says(gini, replace(promise, metric="context features, l2"))
    result = only(blind, "token.III.4")
    assert result.verdict == "survived"
    assert "does not see all" in result.reason


def test_many_teachers_are_certified_or_survive() -> None:
    rule = mb.product(token=EntropySoftmax(), task=InverseVariance(), bounds=(0.02, 0.6))
    stage = Stage(teachers=tuple(f"t{k}" for k in range(8)))
    assert only(rule, "composition.box", stage=stage).verdict == "certified"
    three = mb.product(token=EntropySoftmax(), task=InverseVariance(), context=InverseVariance(), bounds=(0.001, 0.6))
    stage = Stage(teachers=tuple(f"t{k}" for k in range(40)))
    assert only(three, "composition.box", stage=stage).verdict in ("certified", "survived")


def test_who_reads_the_student_is_not_certified_to_ignore_it() -> None:
    network = torch.nn.Linear(1, 1)

    def follows(evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(evidence.statistics.gini * network.weight.detach().double().sigmoid(), dim=0)

    assert only(follows, "composition.student").verdict == "survived"
    declares = Says(gini, replace(Says(gini).declared(2), reads_student=True))
    assert only(declares, "composition.student").verdict == "survived"
    assert only(Says(gini), "composition.student").verdict == "certified"


@pytest.mark.parametrize("ordered", [None, [], [[1, 0]]])
def test_an_order_of_its_own_does_not_excuse_the_certified_one(ordered: Any) -> None:
    rule = Ordered(gini)
    rule.ordered = ordered
    assert only(rule, "token.III.5").verdict == "falsified"
    assert only(rule, "composition.order").verdict == ("falsified" if ordered else "not applicable")


def test_sums_are_certified_only_of_who_says_that_it_normalises() -> None:
    assert only(Ordered(gini), "token.III.1").verdict == "survived"
    assert only(mb.product(token=EntropySoftmax()), "token.III.1").verdict == "certified"


def test_both_declared_bounds_are_held() -> None:
    low = Says(lambda evidence: torch.linspace(0, 9, evidence.n_teachers).reshape(-1, 1, 1) + 0 * gini(evidence))
    low.promise = Declared(1e-9, 0.3, None, "teacher probabilities, l1", "hope")
    assert only(low, "token.III.3").verdict == "falsified"


@pytest.mark.parametrize("guard", ["kl", "l2", "squash"])
def test_no_number_of_a_proof_is_idle(guard: Any) -> None:
    rule = mb.product(token=EntropySoftmax(2.0), bounds=(0.05, 0.9), order="scorecard", guard=guard)
    axioms = ["token.III.1", "token.III.3", "token.III.4", "token.III.5", "composition.order", "composition.feasible"]
    results = check(rule, axioms=axioms)
    proved = [result for result in results if result.certificate is not None]
    assert len(proved) >= 4
    for result in proved:
        assert result.certificate is not None
        numbers = json.loads(json.dumps(result.certificate.numbers))
        for other in changed(numbers):
            assert not replace(result.certificate, numbers=other).recheck(), (result.axiom, other)


def test_honest_float32_raises_no_alarm() -> None:
    def narrow(evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(evidence.statistics.margin.float(), dim=0)

    def widened(evidence: Evidence, /) -> torch.Tensor:
        return narrow(evidence).double()

    axioms = ["token.III.1", "contract.rows", "contract.permutation", "contract.precision", "composition.student"]
    for rule in (narrow, widened):
        for seed in (0, 1):
            assert not [one.reason for one in check(rule, kind="weights", axioms=axioms, seed=seed) if one.is_violated]


def test_steep_and_bounded_is_bounded() -> None:
    def steep(evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(-14.9 * evidence.statistics.entropy / math.log(evidence.n_entries), dim=0)

    assert only(steep, "token.III.3").verdict == "survived"


def test_small_jumps_are_found() -> None:
    def stepped(evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(2e-5 * (evidence.statistics.gini > 0.3).double(), dim=0)

    assert only(stepped, "token.III.4").verdict == "falsified"


def test_leaving_the_program_is_a_fault() -> None:
    def leaves(evidence: Evidence, /) -> torch.Tensor:
        raise SystemExit(0)

    assert only(leaves, "contract.answer").verdict == "falsified"
    assert "SystemExit" in only(leaves, "token.III.1").reason


def test_what_an_operator_says_of_itself_is_looked_at() -> None:
    rule = Says(gini)
    rule.scale = "tokens"
    assert "must be token, task or context" in only(rule, "token.III.1").reason
    for broken in (lambda: 1 / 0, lambda n_teachers: (0.1, 0.9)):
        rule = Says(gini)
        rule.declared = broken
        result = only(rule, "token.III.1")
        assert result.verdict == "error"
        assert "declared(n_teachers)" in result.reason


def test_a_scale_above_tokens_has_one_answer_for_all_positions() -> None:
    rule = Says(gini)
    rule.scale = "task"
    assert only(rule, "contract.shape").verdict == "falsified"


def test_a_leak_of_any_teacher_is_one() -> None:
    def leaking(evidence: Evidence, /) -> torch.Tensor:
        near = torch.softmax(-evidence.given("divergence:student")[1:], dim=0) * (1 - 1 / evidence.n_teachers)
        return torch.cat([torch.full_like(near[:1], 1 / evidence.n_teachers), near]).log()

    leaking.needs = frozenset({"divergence:student"})
    assert only(leaking, "contract.gradient").verdict == "falsified"


@pytest.mark.parametrize("name", ["third call differs", "remembers the last signal"])
def test_a_memory_is_blamed_on_nothing_else(name: str) -> None:
    (mutant,) = (one for one in MUTANTS if one.name == name)
    axioms = ["contract.state", "contract.rows", "contract.permutation", "composition.student", "token.III.4"]
    results = check(mutant.make(), kind="weights", axioms=axioms, stage=mutant.stage)
    assert [one.axiom for one in results if one.is_violated] == ["contract.state"]


def test_a_memory_without_copies_is_found_before_it_is_full() -> None:
    class Counts:
        needs = frozenset({"gini"})

        def __init__(self) -> None:
            self.lock, self.n_calls = threading.Lock(), 0  # a lock has no copy

        def __call__(self, evidence: Evidence, /) -> torch.Tensor:
            with self.lock:
                self.n_calls += 1
            return torch.log_softmax((1 if self.n_calls <= 5 else 2) * gini(evidence), dim=0)

    results = check(Counts(), kind="weights", axioms=["contract.state", "contract.rows", "contract.permutation"])
    (state,) = (one for one in results if one.axiom == "contract.state")
    assert state.verdict == "falsified"
    assert state.witness is not None
    assert replay(state.witness, Counts()) > 0
    assert [one.axiom for one in results if one.is_violated] == ["contract.state"]


def test_what_is_told_of_bounds_is_what_was_measured() -> None:
    def silent(evidence: Evidence, /) -> torch.Tensor:
        return torch.log_softmax(-60 * evidence.statistics.gini, dim=0)

    assert "below 1e-09 / K = 5e-10, and no bound is declared" in only(silent, "token.III.3").reason
    declares = Says(silent, Declared(0.0, 1.0, None, "teacher probabilities, l1", "none"))
    assert "below 1e-06, and no bound above 0 is declared" in only(declares, "token.III.3").reason
