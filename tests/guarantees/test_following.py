"""Which theorems a rule inherits: constants against their functions, premises that fail, measurements beside bounds."""

import json
import math

import pytest

from mashbill.audit.verdicts import CheckResult, Witness
from mashbill.guarantees import Guarantee, Measured, Training, convergence, follow, variance
from mashbill.guarantees.following import table
from mashbill.weights import EntropySoftmax, Performance, conform, product
from mashbill.weights.evidence import Declared

PROMISE = Declared(0.1, 0.7, 2.0, "teacher logits, sup", "a guard")


def found(**options) -> dict[str, Guarantee]:
    declared = options.pop("declared", PROMISE)
    return {one.id: one for one in follow(declared, n_teachers=options.pop("n_teachers", 3), **options)}


def refutation(axiom: str) -> CheckResult:
    return CheckResult("rule", axiom, "falsified", "a weight of 0.01", witness=Witness("w", {}, 0.1, "grid", "w = 1"))


def test_a_guarded_rule_inherits_with_the_constants_of_the_recipe() -> None:
    promise = product(token=EntropySoftmax(), task=Performance(), bounds=(0.05, 0.6)).declared(4)
    has = found(declared=promise, n_teachers=4)
    assert has["weights.range"].constants == {"w_min": 0.05, "w_max": 0.6, "n_teachers": 4}
    assert has["weights.lipschitz"].constants["lipschitz"] == promise.lipschitz
    assert has["variance.fixed"].constants["factor"] == pytest.approx((4 * 0.6) ** 2)
    assert has["variance.varying"].constants["deviation"] == variance.largest_deviation(4, w_min=0.05, w_max=0.6)
    assert has["target.regret"].constants["regret"] == pytest.approx(math.log(20))
    assert has["target.disagreement"].constants["largest"] == pytest.approx(math.log(4))
    assert has["noise.target"].constants["per_delta"] == pytest.approx(4)
    assert has["noise.loss"].constants["per_delta_squared"] == pytest.approx(4 / 0.05)


def test_statements_hold_numbers_and_refusals_hold_reasons() -> None:
    for one in found().values():
        assert one.status in ("inherited", "conditional", "not inherited")
        assert bool(one.reason) == (one.status == "not inherited"), one.id
        assert one.statement or one.status == "not inherited", one.id
        assert one.formula
        assert one.source
        assert json.loads(json.dumps(one.to_json()))["id"] == one.id


def test_what_no_rule_can_inherit_is_never_inherited() -> None:
    has = found(has_order=True)
    assert has["training.target"].status == "not inherited"
    assert "stationary point need not be a minimum" in has["training.target"].reason
    assert has["training.rate"].status == "not inherited"
    assert "Adam" in has["training.rate"].reason
    assert has["noise.student"].status == "not inherited"
    assert has["safety.dilution"].status == "not inherited"


def test_a_rule_that_declares_nothing_inherits_little() -> None:
    has = found(declared=Declared(0.0, 1.0, None, "unknown", "nothing"))
    for id in ("weights.range", "weights.lipschitz", "target.regret", "noise.loss"):
        assert has[id].status == "not inherited"
    assert has["target.log_loss"].status == "inherited"
    assert has["variance.varying"].constants["deviation"] == pytest.approx(4 / 3)


def test_the_log_linear_pool_loses_what_only_mixtures_keep() -> None:
    has = found(pool="log_linear", has_order=True)
    for id in ("target.regret", "target.unsafe", "noise.target", "noise.loss", "safety.mixture"):
        assert has[id].status == "not inherited"
        assert "linear" in has[id].reason
    assert has["target.log_loss"].status == "inherited"


def test_a_premise_that_the_audit_refutes_takes_its_guarantees_along() -> None:
    has = found(audited=[refutation("contract.range")])
    lost = {id for id, one in has.items() if "contract.range says falsified" in one.reason}
    assert lost == {
        "weights.range",
        "variance.fixed",
        "variance.varying",
        "target.regret",
        "target.unsafe",
        "noise.loss",
    }
    assert "0.01" in has["weights.range"].reason
    ordered = found(has_order=True, audited=[refutation("token.III.5")])
    assert ordered["safety.mixture"].status == "not inherited"
    assert found(audited=[refutation("contract.lipschitz")])["weights.lipschitz"].status == "not inherited"
    assert found(audited=[refutation("token.III.1")])["target.log_loss"].status == "not inherited"


def test_how_far_a_premise_was_examined_is_said() -> None:
    assert "not audited" in found()["weights.range"].premise
    tried = CheckResult("rule", "contract.range", "survived", "nothing found", attempts=70)
    assert "survived 70 attempts" in found(audited=[tried])["weights.range"].premise
    absent = CheckResult("rule", "token.III.3", "not applicable", "no bound")
    assert "not audited" in found(audited=[absent])["weights.range"].premise


def test_an_order_gives_the_target_a_floor_under_conditions() -> None:
    assert found()["safety.mixture"].status == "not inherited"
    assert found(has_order=True)["safety.mixture"].status == "conditional"


def test_weights_that_follow_the_student_have_no_fixed_objective() -> None:
    has = found(declared=Declared(0.1, 0.7, None, "", "", reads_student=True))
    for id in ("training.objective", "training.rate", "weights.fixed_point"):
        assert has[id].status == "not inherited"
    assert "batch" in found(declared=Declared(0.1, 0.7, None, "", "", mixes_rows=True))["training.rate"].reason


@pytest.mark.parametrize(
    ("step", "delay", "status", "words"),
    [
        (0.4, 1.0, "not inherited", r"t^-0.8"),
        (0.75, 1.0, "not inherited", "take gamma >= eta_0 L"),
        (0.75, 3.0, "conditional", "tends to 1.125"),
    ],
)
def test_the_rate_needs_a_step_that_is_neither_short_nor_long(step, delay, status, words) -> None:
    known = Training(first_step=step, delay=delay, curvature=1, smoothness=4)
    one = found(training=known)["training.rate"]
    assert one.status == status
    assert words in one.statement + one.reason
    if status == "conditional":
        expected = convergence.asymptotic_constant(step, curvature=1, noise_variance=1)
        assert one.constants["constant"] == pytest.approx(expected)


def test_a_convex_student_has_a_constant_for_noise() -> None:
    one = found(training=Training(curvature=0.1, score=1.5))["noise.student"]
    assert one.status == "conditional"
    assert one.constants["per_delta"] == pytest.approx(1.5 / 0.1 * 2)


def test_the_range_of_the_bare_product_is_shown_for_products() -> None:
    assert "weights.composition" not in found()
    assert "weights.composition" not in found(scales=[(0.1, 0.8)])
    one = found(n_teachers=2, declared=Declared(0.2, 0.8, None, "", ""), scales=[(0.2, 0.8)] * 3)["weights.composition"]
    assert one.constants["w_min"] == pytest.approx(0.0153846, abs=1e-7)
    assert "a guard or temperatures" in one.statement


def measured_as(**values: float) -> dict[str, Measured]:
    names = {name.replace("_", " "): value for name, value in values.items()}
    return {name: Measured(name, value, "probability", "records.jsonl") for name, value in names.items()}


def test_measurements_stand_beside_bounds_and_are_held_against_them() -> None:
    good = found(
        measurements=measured_as(least_weight=0.1, largest_weight=0.69, largest_deviation=0.7, disagreement=0.4)
    )
    assert good["weights.range"].is_met is True
    assert good["variance.varying"].is_met is True
    assert good["target.disagreement"].is_met is True
    assert [one.name for one in good["weights.range"].measured] == ["least weight", "largest weight"]
    bad = found(measurements=measured_as(least_weight=0.05, largest_weight=0.69, regret_on_test=5.0))
    assert bad["weights.range"].is_met is False
    assert bad["target.regret"].is_met is False
    assert "outside the bound" in table(list(bad.values()))
    assert found()["weights.range"].is_met is None


def test_the_student_s_gap_is_stated_only_for_the_divergence_it_is_about() -> None:
    seen = measured_as(divergence=0.02)
    assert found(measurements=seen)["safety.student"].constants["gap"] == pytest.approx(0.1)
    assert found(measurements=seen, divergence="reverse_kl")["safety.student"].constants == {}
    assert found(measurements=seen, temperature=2)["safety.student"].constants == {}


def test_an_impossible_promise_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for 3 teachers"):
        follow(Declared(0.5, 0.8, None, "", ""), n_teachers=3)


def test_one_teacher_and_a_conformed_rule_are_no_special_cases() -> None:
    assert found(n_teachers=1, declared=Declared(1.0, 1.0, 0.0, "", ""))["target.regret"].constants["regret"] == 0
    promise = conform(EntropySoftmax(), bounds=(0.2, 0.5)).declared(3)
    assert found(declared=promise)["weights.range"].constants["w_min"] == pytest.approx(promise.lowest)
