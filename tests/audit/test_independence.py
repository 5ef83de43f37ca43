"""Which axioms are independent: every cell against its proof, every witness replayed, every proof tampered with."""

import copy
import json
import math
from typing import Any

import pytest
import torch

from mashbill.audit import pareto, verdicts
from mashbill.audit.axioms import AXIOMS
from mashbill.audit.independence import LETTER_OF, PROPERTIES, Independence, certificates, check, excess, independence
from mashbill.audit.independence_families import BOX, families, family, softmax_slope
from mashbill.audit.independence_proofs import implications
from mashbill.audit.verdicts import Certificate

ROWS = {
    "conforming": "11111",
    "not N": "01111",
    "not B": "11011",
    "not R": "11101",
    "not S": "11110",
    "not P": "10011",
}


@pytest.fixture(scope="module")
def found() -> Independence:
    return independence()


def test_every_family_breaks_what_it_says_and_is_proved_to_keep_the_rest(found: Independence) -> None:
    assert {name: found.verdicts(name) for name in found.cells} == ROWS
    assert {cell.verdict for row in found.cells.values() for cell in row.values()} == {"certified", "falsified"}


def test_fifteen_axioms_reduce_to_eleven(found: Independence) -> None:
    kept = {finding.axiom for finding in found.findings if finding.is_independent}
    dropped = {finding.axiom for finding in found.findings} - kept
    assert (len(found.findings), len(kept), found.n_independent) == (15, 11, 11)
    assert dropped == {"token.III.2", "task.III.11", "task.III.14", "context.III.19"}
    assert all(finding.by for finding in found.findings)


def test_all_axioms_of_the_three_scales_are_there() -> None:
    assert set(LETTER_OF) == {id for id, axiom in AXIOMS.items() if axiom.kind == "weights" and axiom.scale}


def test_the_answer_is_the_same_each_time_and_is_plain_data(found: Independence) -> None:
    assert json.loads(json.dumps(independence().to_json())) == json.loads(json.dumps(found.to_json()))


def test_the_table_shows_rows_counts_and_proofs(found: Independence) -> None:
    text = found.table()
    assert "15 axioms, 11 independent" in text
    assert "not B       +  +  x  +  +" in text
    assert "B => P" in text
    assert "feasibility" in text


def test_every_witness_replays(found: Independence) -> None:
    witnesses = [cell.witness for row in found.cells.values() for cell in row.values() if cell.witness]
    assert len(witnesses) == 6
    for witness in witnesses:
        scope: dict[str, Any] = {}
        exec(witness.replay, scope)  # what a reader would type
        assert scope["violation"] == pytest.approx(witness.violation, rel=1e-12)
        assert scope["violation"] > 0
        assert len(witness.replay.splitlines()) == 3


def test_the_witness_against_a_box_is_the_nearest_to_zero(found: Independence) -> None:
    witness = found.cells["not B"]["B"].witness
    assert witness is not None
    # Where exp(-2 y) = .05 (1 + exp(-y) + exp(-2 y)), y = x^2: a quadratic in exp(-y).
    z = (0.05 + math.sqrt(0.05**2 + 4 * 0.95 * 0.05)) / (2 * 0.95)
    assert abs(witness.inputs["x"]) == pytest.approx(math.sqrt(-math.log(z)), abs=1e-8)


def test_the_softmax_family_is_below_every_lower_bound() -> None:
    for w_min in 10.0 ** -torch.arange(1, 13, dtype=torch.float64):
        x = (-w_min.log() / 2).sqrt().reshape(1)
        assert float(family("not B").weights(x).min()) < float(w_min)


@pytest.mark.parametrize("one", families(), ids=lambda one: one.name)
def test_certified_slopes_are_not_exceeded(one: Any) -> None:
    certificate = one.prove("R")
    if certificate is None:
        assert one.name == "not R"
        return
    numbers = certificate.numbers
    constant = numbers["slope"] if "slope" in numbers else numbers["span"] / numbers["denominator"]
    x = torch.linspace(-4, 4, 100_001, dtype=torch.float64)
    steepest = float(one.weights(x).diff(dim=0).abs().amax()) / float(x[1] - x[0])
    assert steepest <= constant * (1 + 1e-9)


def test_softmax_slope_by_hand() -> None:
    assert softmax_slope((1, 0, -1)) == pytest.approx(math.sqrt(2 / math.e) + math.sqrt(4 / math.e))


def leaves(numbers: Any, path: tuple = ()) -> list[tuple]:
    if isinstance(numbers, dict):
        return [leaf for key, value in numbers.items() for leaf in leaves(value, (*path, key))]
    if isinstance(numbers, list):
        return [leaf for n, value in enumerate(numbers) for leaf in leaves(value, (*path, n))]
    return [path] if isinstance(numbers, int | float) else []


def test_every_certificate_rechecks_and_fails_once_a_number_is_changed(found: Independence) -> None:
    proofs = certificates(found)
    assert len(proofs) > 20
    for proof in proofs:
        assert proof.recheck()
        for path in leaves(proof.numbers):
            numbers = copy.deepcopy(dict(proof.numbers))
            at: Any = numbers
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] += 1 if isinstance(at[path[-1]], int) else 1e-3
            assert not Certificate(proof.kind, proof.claim, proof.premise, numbers).recheck(), (proof.kind, path)


def test_a_box_that_the_ends_leave_is_not_proved() -> None:
    assert family("not P").prove("P") is None
    assert family("not P").prove("B") is None
    assert family("not S").prove("S") is None
    assert family("not N").prove("N") is None


def test_excess_sees_each_break() -> None:
    rows = torch.tensor(
        [[0.5, 0.3, 0.2], [0.5, 0.3, 0.3], [0.9, 0.1, 0.0], [0.9, 0.06, 0.04], [0.3, 0.5, 0.2]]
    ).double()
    broken = {letter: (excess(rows, letter) > 1e-6).tolist() for letter in "NBS"}
    assert broken == {
        "N": [False, True, False, False, False],
        "B": [False, False, True, True, False],
        "S": [False, False, False, False, True],
    }
    assert (excess(rows, "P") > 0).tolist() == [False, False, True, False, False]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="letter='X' must be one of N, P, B, R, S"):
        check(families()[0], "X")
    with pytest.raises(ValueError, match="must be one of conforming"):
        family("nobody")


def test_every_implication_is_proved_and_none_is_proved_by_hearsay() -> None:
    proved = {one.name: one for one in implications()}
    assert all(one.is_proved for one in proved.values())
    assert proved["B => P"].attempts > 1000
    assert proved["III.14 with lambda > 0"].attempts == 2000


def test_a_zero_coefficient_lets_a_minimiser_be_dominated() -> None:
    # The largest target of the box is .05 * .2 + .15 * .3 + .8 * .4 = .375.
    worst = 0.375 * math.log(0.375 / 0.99) + 0.625 * math.log(0.625 / 0.01)
    assert pareto.domination_with_zero() == pytest.approx(worst, rel=1e-12)


def test_weights_that_follow_the_student_keep_the_other_axioms_and_break_pareto() -> None:
    teachers = torch.tensor([0.95, 0.05, 0.5], dtype=torch.float64)
    for student in torch.linspace(0.01, 0.99, 99, dtype=torch.float64):
        w = pareto.follow_student(teachers, student)
        assert float(w.sum()) == pytest.approx(1, abs=1e-12)
        assert float(w.min()) >= 0.05 - 1e-12
    reached, better = pareto.feedback_domination()
    assert reached == pytest.approx(math.log(2), abs=1e-9)
    assert better < reached - 0.3


def test_the_search_for_domination_would_see_one() -> None:
    losses = torch.tensor([[[0.0, 1.0], [0.0, 0.5]], [[0.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)
    assert pareto.dominated(losses, torch.tensor([0, 0])).tolist() == [True, False]
    assert pareto.dominated(losses, torch.tensor([1, 1])).tolist() == [False, False]
    assert pareto.search_domination(50) == (50, None)


def test_the_properties_are_five_and_the_box_is_feasible() -> None:
    assert list(PROPERTIES) == list("NPBRS")
    assert 3 * BOX[0] <= 1 <= 3 * BOX[1]


@pytest.mark.parametrize("n", [0, 1, -1, -8001, 10**12, 8001.0, math.nan])
def test_a_grid_of_no_points_proves_nothing(n: float) -> None:
    (proof,) = (one.certificate for one in implications() if one.name.startswith("P + R => B"))
    assert proof is not None
    assert proof.recheck()
    assert not Certificate(proof.kind, "", "", {**proof.numbers, "n_points": n}).recheck()


def test_no_number_makes_a_verifier_raise(found: Independence) -> None:
    for proof in certificates(found):
        for path in leaves(proof.numbers):
            for value in (-1, -8001, 1e308, math.nan, math.inf, None, "three", [[]]):
                numbers = copy.deepcopy(dict(proof.numbers))
                at: Any = numbers
                for key in path[:-1]:
                    at = at[key]
                if at[path[-1]] == value:
                    continue
                at[path[-1]] = value
                assert not Certificate(proof.kind, "", "", numbers).recheck(), (proof.kind, path, value)


def test_a_verifier_that_fails_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(numbers: Any) -> bool:
        raise RuntimeError(f"no memory for {numbers}")

    monkeypatch.setitem(verdicts._RECHECKS, "of this test", failing)
    assert not Certificate("of this test", "", "", {}).recheck()
