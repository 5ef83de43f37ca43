"""The decorator makes one test of each operator and axiom, and each ends as the verdict says."""

import sys
from dataclasses import dataclass, replace

import pytest
import torch
from report.audited import results

from mashbill import audit
from mashbill.audit import decorator
from mashbill.audit.asked import axioms_of
from mashbill.audit.axioms import AXIOMS
from mashbill.audit.decorator import parametrize_with_axioms, told
from mashbill.errors import MashbillError


@dataclass(frozen=True)
class Surer:
    """Knows no order."""

    beta: float = 1.0

    def __call__(self, evidence):
        return torch.log_softmax(-self.beta * evidence.statistics.gini, dim=0)


def sum_off(evidence):
    return Surer()(evidence) + 1e-3


def pool(logprobs, log_weights):
    return torch.logsumexp(logprobs + log_weights.unsqueeze(-1), dim=0)


def parameters(mark) -> dict:
    """Each test's id, its argument and its marks."""
    name, values = mark.args
    assert (mark.name, name) == ("parametrize", "check")
    return {value.id: (value.values[0], value.marks) for value in values}


@pytest.fixture
def stubbed(monkeypatch) -> list:
    """An audit that finds one of everything; how often it ran is kept."""
    calls = []

    def check(operator, **options):
        calls.append(options)
        return results(options["name"])

    monkeypatch.setattr(decorator, "check", check)
    return calls


def test_one_test_an_operator_and_axiom_with_names_that_say_which():
    found = parameters(parametrize_with_axioms([Surer(), sum_off, Surer(beta=2.0)], axioms=["token.III.1"]))
    assert list(found) == ["Surer(beta=1.0)-token.III.1", "sum_off-token.III.1", "Surer(beta=2.0)-token.III.1"]


def test_operators_are_asked_the_axioms_of_their_kind():
    rule = {id.partition("-")[2] for id in parameters(parametrize_with_axioms([Surer()]))}
    assert {"token.III.1", "context.III.22", "composition.box", "contract.state"} <= rule
    assert {AXIOMS[axiom].kind for axiom in rule} == {"weights", "composition", "contract"}
    pools = {id.partition("-")[2] for id in parameters(parametrize_with_axioms([pool]))}
    assert {AXIOMS[axiom].kind for axiom in pools} == {"pool", "contract"}
    step = parameters(parametrize_with_axioms([pool], kind="recursion"))
    assert {AXIOMS[case.axiom].kind for case, _ in step.values()} == {"recursion"}
    results = audit.check(pool, axioms=["pool.normalised", "contract.state"])
    assert [result.axiom for result in results] == list(axioms_of("pool", ["pool.normalised", "contract.state"]))


def test_each_test_ends_as_the_verdict_says(stubbed):
    found = {case.axiom: case for case, _ in parameters(parametrize_with_axioms([Surer()])).values()}
    assert found["token.III.1"]().verdict == "certified"
    assert found["token.III.4"]().verdict == "survived"
    with pytest.raises(pytest.skip.Exception, match="not applicable: the rule reads no task"):
        found["task.III.10"]()
    with pytest.raises(pytest.fail.Exception, match=r"token.III.5 is falsified: A teacher that is"):
        found["token.III.5"]()
    with pytest.raises(pytest.fail.Exception, match="it raised ValueError: boom"):
        found["contract.state"]()
    assert len(stubbed) == 1, "one audit serves all of an operator's tests"


def test_what_is_asked_for_reaches_the_audit(stubbed):
    stage = audit.Stage(teachers=("a", "b"))
    mark = parametrize_with_axioms([Surer()], axioms=["token.III.1"], budget="deep", seed=3, stage=stage)
    next(iter(parameters(mark).values()))[0]()
    assert stubbed == [
        {"name": "Surer(beta=1.0)", "kind": "weights", "axioms": ("token.III.1",), "budget": "deep", "seed": 3}
        | {"stage": stage}
    ]


def test_a_known_failure_is_expected_strictly_and_with_its_reason(stubbed):
    found = parameters(parametrize_with_axioms([Surer()], known={"token.III.5": "it knows no order"}))
    case, (mark,) = found["Surer(beta=1.0)-token.III.5"]
    assert (mark.name, mark.kwargs) == ("xfail", {"reason": "it knows no order", "strict": True})
    assert not found["Surer(beta=1.0)-token.III.1"][1]
    with pytest.raises(pytest.fail.Exception):
        case()  # it still has to fail, or the expectation is out of date


def test_a_failure_is_told_with_its_witness_and_how_to_see_it_again():
    text = told(results()[2])
    assert "my_rules:Surer: token.III.5 is falsified" in text
    assert "gini (0.5, 0.1) gives (0.2, 0.8)" in text
    assert "found by plain worlds with seed 7, 0.6 too far" in text
    assert "inputs = {'world'" in text
    assert "audit.replay(witness, operator)" in text
    error = replace(results()[5], reason="it raised ValueError: boom")
    assert told(error).splitlines()[1:] == ["it raised ValueError: boom"]


@pytest.mark.parametrize(
    ("operators", "options", "error", "message"),
    [
        ([], {}, ValueError, "nothing to audit"),
        ([Surer], {}, TypeError, r"operators\[0\]=.*must be a rule, pool or softening"),
        ([Surer()], {"known": {"token.III.5": " "}}, ValueError, "must say in words why"),
        ([Surer()], {"seed": -1}, ValueError, "seed=-1 must be between"),
        ([Surer()], {"axioms": ["token.III.9"]}, ValueError, "axiom='token.III.9' does not exist"),
        ([Surer()], {"axioms": ["pool.regret"]}, ValueError, "are asked of none of these operators"),
        ([Surer()], {"known": {"order": "no"}}, ValueError, "axiom='order' does not exist"),
        ([Surer()], {"known": {"pool.regret": "no"}}, ValueError, "known='pool.regret' is not asked"),
        ([Surer()], {"axioms": ["token.III.1"], "known": {"token.III.5": "no"}}, ValueError, "is not asked"),
    ],
)
def test_a_mistake_is_found_where_it_stands(operators, options, error, message):
    with pytest.raises(error, match=message):
        parametrize_with_axioms(operators, **options)


def test_without_pytest_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(MashbillError, match="needs pytest"):
        parametrize_with_axioms([Surer()])


def test_the_package_offers_it_by_name():
    assert audit.parametrize_with_axioms is parametrize_with_axioms
    assert set(audit.__all__) >= {"check", "replay", "CheckResult", "Certificate", "Witness", "AXIOMS", "Stage"}


# With the real audit

FEW = ["token.III.1", "token.III.2", "token.III.5", "task.III.10"]


@parametrize_with_axioms([Surer(), Surer(beta=3.0)], axioms=FEW, known={"token.III.5": "it knows no order"})
def test_a_rule_of_somebodys_own(check):
    check()


def test_a_sum_that_is_off_fails():
    ((case, _),) = parameters(parametrize_with_axioms([sum_off], axioms=["token.III.1"])).values()
    with pytest.raises(pytest.fail.Exception, match="Weights sum to 1"):
        case()
