"""The audit of weight rules: right verdicts, witnesses that replay, proofs that notice a changed number."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from audit.specimens import changed

import mashbill as mb
from mashbill.audit.axioms import AXIOMS
from mashbill.audit.checking import check
from mashbill.audit.moods import Stage
from mashbill.audit.replaying import replay
from mashbill.audit.supply import require_budget
from mashbill.audit.verdicts import Certificate, CheckResult
from mashbill.weights import EntropySoftmax, Performance, published
from mashbill.weights.evidence import Declared, Evidence


def verdicts(results: list[CheckResult]) -> dict[str, str]:
    return {result.axiom: result.verdict for result in results if result.verdict != "not applicable"}


def surer(evidence: Evidence, /) -> torch.Tensor:
    return torch.log_softmax(-evidence.statistics.gini, dim=0)


FINISHED = mb.product(token=EntropySoftmax(2.0), task=Performance(), bounds=(0.05, 0.9), order="scorecard")


CERTIFIABLE = [
    *(f"token.III.{number}" for number in range(1, 6)),
    *(f"composition.{name}" for name in ("box", "order", "feasible", "student")),
]


@pytest.fixture(scope="module")
def finished() -> list[CheckResult]:
    return check(FINISHED, name="finished", axioms=CERTIFIABLE)


def test_a_finished_product_is_certified_in_all_that_its_structure_implies(finished: list[CheckResult]) -> None:
    found = verdicts(finished)
    assert "falsified" not in found.values()
    assert "error" not in found.values()
    certified = {axiom for axiom, verdict in found.items() if verdict == "certified"}
    assert certified == set(CERTIFIABLE)
    for result in finished:
        assert result.verdict == "not applicable" or result.reason


def test_every_certificate_holds_and_notices_a_changed_number(finished: list[CheckResult]) -> None:
    certificates = [result.certificate for result in finished if result.certificate is not None]
    assert len(certificates) >= 9
    for certificate in certificates:
        numbers = json.loads(json.dumps(certificate.numbers))
        assert replace(certificate, numbers=numbers).recheck(), certificate.kind
        tampered = [replace(certificate, numbers=other) for other in changed(numbers)]
        assert not any(one.recheck() for one in tampered), certificate.kind


def test_an_unknown_kind_proves_nothing() -> None:
    assert not Certificate("hope", "all is well", "none", {}).recheck()


def falsified(rule: Callable[[Evidence], torch.Tensor], axiom: str, **options: Any) -> CheckResult:
    (result,) = check(rule, axioms=[axiom], kind="weights", **options)
    assert result.verdict == "falsified", result.reason
    assert result.witness is not None
    again = json.loads(json.dumps(result.witness.inputs))
    assert replay(again, rule) > 0
    return result


def shifted(evidence: Evidence, /) -> torch.Tensor:
    return surer(evidence) + 1e-4


def bumped(evidence: Evidence, /) -> torch.Tensor:
    gini = evidence.statistics.gini
    return torch.log_softmax(-gini + 0.01 * ((gini > 0.3) & (gini < 0.31)), dim=0)


def mixed_up(evidence: Evidence, /) -> torch.Tensor:
    gini = evidence.statistics.gini
    return torch.log_softmax(-gini + gini.mean(dim=1, keepdim=True), dim=0)


def favouring(evidence: Evidence, /) -> torch.Tensor:
    return torch.log_softmax(-evidence.statistics.gini + torch.arange(evidence.n_teachers).reshape(-1, 1, 1), dim=0)


def flattering(evidence: Evidence, /) -> torch.Tensor:
    return torch.log_softmax(-evidence.given("divergence:student"), dim=0)


flattering.needs = frozenset({"divergence:student"})


@pytest.mark.parametrize(
    ("rule", "axiom"),
    [
        (shifted, "token.III.1"),
        (bumped, "token.III.4"),
        (surer, "token.III.5"),
        (mixed_up, "contract.rows"),
        (favouring, "contract.permutation"),
        (flattering, "contract.gradient"),
    ],
)
def test_a_fault_is_found_and_its_witness_replays(rule: Callable[[Evidence], torch.Tensor], axiom: str) -> None:
    falsified(rule, axiom)


def test_a_witness_is_small() -> None:
    inputs = falsified(surer, "token.III.5").witness.inputs  # pyright: ignore[reportOptionalMemberAccess]
    assert inputs["world"]["logits"]["shape"][:3] == [2, 1, 1]


def test_a_lie_about_range_or_slope_is_found() -> None:
    class Boaster:
        needs = frozenset({"gini"})

        def __call__(self, evidence: Evidence, /) -> torch.Tensor:
            return surer(evidence)

        def declared(self, n_teachers: int) -> Declared:
            return Declared(0.9 / n_teachers, 1.0, 0.2, "teacher probabilities, l1", "hope", score_lipschitz=0.4)

    found = verdicts(check(Boaster(), kind="weights", axioms=["contract.range", "contract.lipschitz"]))
    assert found["contract.range"] == "falsified"
    assert found["contract.lipschitz"] == "falsified"


def test_exceptions_are_one_sentence() -> None:
    def fails(evidence: Evidence, /) -> torch.Tensor:
        raise KeyError("nothing\nhere")

    results = check(fails, kind="weights", axioms=["token.III.1", "contract.answer", "contract.shape"])
    assert {result.verdict for result in results} <= {"falsified", "error", "not applicable", "survived"}
    assert any("KeyError" in result.reason for result in results)
    assert all("\n" not in result.reason for result in results)


def test_scales_are_asked_their_own_axioms_only() -> None:
    axioms = ["token.III.1", "task.III.11", "task.III.14"]
    results = {result.axiom: result for result in check(published.CAMKD(), name="CA-MKD", axioms=axioms)}
    assert results["token.III.1"].verdict == "not applicable"
    assert results["task.III.11"].verdict == "falsified"
    assert results["task.III.14"].verdict == "certified"


def test_the_same_seed_gives_the_same_results() -> None:
    axioms = ["token.III.5"]
    first, second = (check(EntropySoftmax(), axioms=axioms, seed=3) for _ in range(2))
    assert [result.to_json() for result in first] == [result.to_json() for result in second]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        check(surer, axioms=["token.III.6"])
    with pytest.raises(ValueError, match="does not exist"):
        check(surer, known={"token.9": "because"})
    with pytest.raises(ValueError, match="must be one of quick"):
        require_budget("long")
    with pytest.raises(ValueError, match="not a class"):
        check(EntropySoftmax)


def test_a_stage_with_names_is_kept_to() -> None:
    rule = mb.weights.Static({"a": 0.7, "b": 0.3})
    found = verdicts(check(rule, stage=Stage(teachers=("a", "b")), axioms=["task.III.12", "contract.permutation"]))
    assert "error" not in found.values()
    assert found["task.III.12"] == "certified"


def test_axioms_are_complete_data() -> None:
    assert len(AXIOMS) >= 50
    for axiom in AXIOMS.values():
        assert axiom.statement.endswith(".")
        assert axiom.formula
        assert axiom.source
