"""The audit of a recursion's step: the mixture with the base is certified, the geometric anchor keeps less."""

import contextlib
import io
import math

import pytest
import torch

from mashbill.audit.recursion_checks import RECURSION_AXIOMS, check_recursion, replay_recursion
from mashbill.audit.recursion_forms import KIND
from mashbill.audit.verdicts import Certificate

ANCHORING, CONTRACTION, FIXED = RECURSION_AXIOMS


class Mixing:
    """``a base + (1 - a) student``."""

    def __init__(self, used, stated=None, mean=None) -> None:
        self.used = used
        if stated is not None:
            self.anchor = stated
        if mean is not None:
            self.form = {"mean": mean}

    def __call__(self, base, student):
        return torch.logaddexp(base + math.log(self.used), student + math.log1p(-self.used))


class Geometric(Mixing):
    def __call__(self, base, student):
        return torch.log_softmax(self.used * base + (1 - self.used) * student, dim=-1)


def student_alone(base, student):
    return student


class Stating:
    """The student alone, which states a share and a form all the same."""

    def __init__(self, anchor, mean="arithmetic") -> None:
        self.anchor, self.form = anchor, {"mean": mean}

    def __call__(self, base, student):
        return student.clone()


def drifting(base, student):
    """A hundredth of uniform is mixed in, so the base is no fixed point."""
    mixed = 0.3 * base.exp() + 0.69 * student.exp() + 0.01 / base.shape[-1]
    return mixed.log()


def squaring(base, student):
    """Histories part: what is likely becomes likelier."""
    return torch.log_softmax((2 * student).clamp_min(-1e4), dim=-1)


def verdicts(step) -> dict[str, str]:
    return {result.axiom: result.verdict for result in check_recursion(step)}


def test_the_mixture_survives_and_is_certified_if_declared() -> None:
    assert verdicts(Mixing(0.3, 0.3)) == dict.fromkeys(RECURSION_AXIOMS, "survived")
    assert verdicts(Mixing(0.3, 0.3, "arithmetic")) == dict.fromkeys(RECURSION_AXIOMS, "certified")


def test_a_geometric_anchor_keeps_its_fixed_point_alone() -> None:
    expected = {ANCHORING: "falsified", CONTRACTION: "falsified", FIXED: "certified"}
    assert verdicts(Geometric(0.3, 0.3, "geometric")) == expected


def test_without_an_anchor_an_entry_of_the_base_is_lost() -> None:
    found = {result.axiom: result for result in check_recursion(student_alone)}
    assert found[ANCHORING].verdict == "falsified"
    assert found[CONTRACTION].verdict == "not applicable"
    assert "the step states no rate" in found[CONTRACTION].reason
    assert found[FIXED].verdict == "falsified"


@pytest.mark.parametrize(
    ("step", "axiom"),
    [
        (Mixing(0.3, 0.31), ANCHORING),
        (Mixing(0.3, 0.31), CONTRACTION),
        (Geometric(0.3, 0.3), ANCHORING),
        (Geometric(0.3, 0.3), CONTRACTION),
        (student_alone, ANCHORING),
        (student_alone, FIXED),
        (Stating(0.0), ANCHORING),
        (Stating(1e-300), ANCHORING),
        (Mixing(0.3, 0.0), ANCHORING),
        (drifting, FIXED),
        (squaring, CONTRACTION),
    ],
)
def test_faults_are_found_and_replay(step, axiom) -> None:
    (result,) = check_recursion(step, axioms=[axiom])
    witness = result.witness
    assert witness is not None
    assert witness.violation > 1e-6
    assert replay_recursion(witness.inputs, step) == pytest.approx(witness.violation)
    assert len(witness.replay.splitlines()) == 3
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(witness.replay, {"operator": step})
    assert float(out.getvalue()) == pytest.approx(witness.violation, rel=1e-6)


def test_a_false_form_is_told_and_certificates_break_when_changed() -> None:
    (result,) = check_recursion(Mixing(0.3, 0.25, "arithmetic"), axioms=[ANCHORING])
    assert result.verdict == "survived"
    assert "it declares the arithmetic mean, but differs from it by" in result.reason
    for axiom in RECURSION_AXIOMS:
        (result,) = check_recursion(Mixing(0.3, 0.3, "arithmetic"), axioms=[axiom])
        assert result.certificate is not None
        numbers = result.certificate.numbers
        assert result.certificate.recheck()
        assert not Certificate(KIND, "", "", {**numbers, "anchor": 0.31}).recheck()
        for anchor in (1.5, 0.0, 1e-300, math.nan, -0.3):
            assert not Certificate(KIND, "", "", {**numbers, "anchor": anchor}).recheck()
        assert not Certificate(KIND, "", "", {**numbers, "mean": "geometric"}).recheck()
        for n, stored in enumerate(numbers["instances"]):
            for role, row in stored.items():
                changed = [[row[0][0] + 0.01, *row[0][1:]], *row[1:]] if role == "next" else [row[0] + 0.01, *row[1:]]
                instances = [*numbers["instances"][:n], {**stored, role: changed}, *numbers["instances"][n + 1 :]]
                assert not Certificate(KIND, "", "", {**numbers, "instances": instances}).recheck()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda base, student: base.exp() + student.exp(), "answered no distribution but a sum of"),
        (lambda base, student: base[..., :2], r"answered shape \[\d+, 2\] to \[\d+, 4\], but must keep it"),
        (lambda base, student: None, "answered NoneType"),
        (lambda base: base, "the operator raised TypeError"),
    ],
)
def test_what_is_no_step_gets_one_sentence(step, message) -> None:
    results = check_recursion(step)
    assert {result.verdict for result in results} == {"error"}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(results[0].reason)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"anchor=1.5 must be the share of the base"):
        check_recursion(Mixing(0.3, 1.5))
    with pytest.raises(ValueError, match=r"axiom='pool.unsafe' is asked of no recursion"):
        check_recursion(student_alone, axioms=["pool.unsafe"])
    with pytest.raises(ValueError, match="kind=None must be 'recursion'"):
        replay_recursion({}, student_alone)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("anchor", [0.0, 1e-300, 1e-12])
def test_a_recursion_without_an_anchor_is_certified_for_nothing(anchor, mean) -> None:
    assert "certified" not in verdicts(Stating(anchor, mean)).values()
    assert verdicts(Stating(anchor, mean))[FIXED] == "falsified"


def test_a_stated_share_of_0_is_no_share() -> None:
    found = {result.axiom: result for result in check_recursion(Mixing(0.3, 0.0, "arithmetic"))}
    assert {axiom: result.verdict for axiom, result in found.items()} == {
        ANCHORING: "falsified",
        CONTRACTION: "not applicable",
        FIXED: "survived",
    }
    witness = found[ANCHORING].witness
    assert witness is not None
    assert "the share of the base that the step states is 0" in witness.told
    assert replay_recursion(witness.inputs, Mixing(0.3, 0.3)) == 0


def test_a_slow_student_is_not_said_to_stand_still() -> None:
    for step in (Mixing(1e-8), Geometric(1e-8)):
        (result,) = check_recursion(step, axioms=[FIXED])
        assert result.verdict == "survived"


def test_a_step_that_anchors_small_vocabularies_alone_is_not_certified() -> None:
    def step(base, student):
        return Mixing(0.3)(base, student) if base.shape[-1] <= 10 else student

    step.anchor, step.form = 0.3, {"mean": "arithmetic"}
    for result in check_recursion(step):
        assert result.verdict == "survived"
        assert "it declares the arithmetic mean, but differs from it" in result.reason
    (result,) = check_recursion(Mixing(0.3, 0.3, "arithmetic"), axioms=[ANCHORING])
    assert result.certificate is not None
    assert "entries 2 to 4099; seed 0); nothing else was tried" in result.certificate.premise
