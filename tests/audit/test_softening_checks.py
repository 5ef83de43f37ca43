"""The audit of softenings: both families survive, or are certified if declared, and faults are found where they are."""

import contextlib
import io
import math

import pytest
import torch

from mashbill.audit.searching import effort_of
from mashbill.audit.softening_checks import SOFTENING_AXIOMS, check_softening, replay_softening
from mashbill.audit.softening_forms import KIND
from mashbill.audit.verdicts import Certificate
from mashbill.distributions import soften

RANKING, CONTINUITY, ENTROPY, IDENTITY, BOUNDARY = (
    f"softening.{name}" for name in ("ranking", "continuity", "entropy", "identity", "boundary")
)


class Declaring:
    def __init__(self, function, family) -> None:
        self.function, self.form = function, {"family": family}

    def __call__(self, log_p, *, temperature):
        return self.function(log_p, temperature=temperature)


def verdicts(function, **options) -> dict[str, str]:
    return {result.axiom: result.verdict for result in check_softening(function, **options)}


@pytest.mark.parametrize("function", [soften.power, soften.mixture])
def test_both_families_are_certified_by_what_they_declare_and_survive_without(function) -> None:
    assert verdicts(function) == dict.fromkeys(SOFTENING_AXIOMS, "certified")
    assert verdicts(lambda log_p, *, temperature: function(log_p, temperature=temperature)) == dict.fromkeys(
        SOFTENING_AXIOMS, "survived"
    )


@pytest.mark.parametrize("family", ["power", "mixture"])
def test_declared_families_are_certified_and_certificates_break_when_changed(family) -> None:
    results = check_softening(Declaring(getattr(soften, family), family))
    assert {result.verdict for result in results} == {"certified"}
    for result in results:
        assert result.certificate is not None
        assert result.certificate.recheck()
        numbers = result.certificate.numbers
        for n, stored in enumerate(numbers["instances"]):
            for v, value in enumerate(stored["p"]):
                other = {**stored, "p": [*stored["p"][:v], value + 0.01, *stored["p"][v + 1 :]]}
                instances = [*numbers["instances"][:n], other, *numbers["instances"][n + 1 :]]
                assert not Certificate(KIND, "", "", {**numbers, "instances": instances}).recheck()
            for t, row in enumerate(stored["softened"]):
                each = [*stored["softened"][:t], [row[0] * 1.01, *row[1:]], *stored["softened"][t + 1 :]]
                instances = [*numbers["instances"][:n], {**stored, "softened": each}, *numbers["instances"][n + 1 :]]
                assert not Certificate(KIND, "", "", {**numbers, "instances": instances}).recheck()
        other = "mixture" if family == "power" else "power"
        assert not Certificate(KIND, "", "", {**numbers, "family": other}).recheck()


def test_another_family_than_declared_is_not_certified() -> None:
    results = check_softening(Declaring(soften.power, "mixture"), axioms=[IDENTITY, BOUNDARY])
    assert {result.verdict for result in results} == {"survived"}
    assert "it declares the mixture family, but differs from it by" in results[0].reason


def folded(log_p, *, temperature):
    p = log_p.exp()
    bent = torch.where(p > 0.5, (p - 3 * (1 - 1 / temperature) * (p - 0.5)).clamp_min(0.02), p)
    return soften.power((bent / bent.sum(-1, keepdim=True)).log().clamp_min(-1e4), temperature=temperature)


def stepped(log_p, *, temperature):
    return soften.power(log_p, temperature=temperature * 1.05 if 2.3 < temperature < 2.31 else temperature)


def truncated(log_p, *, temperature):
    kept = log_p if temperature == 1 else torch.where(log_p < -4.6, -1e4, log_p)
    return soften.power(kept, temperature=temperature)


def sharpening(log_p, *, temperature):
    return soften.power(log_p, temperature=1 / temperature)


def shifted(log_p, *, temperature):
    return soften.power(log_p, temperature=temperature + 0.01)


def capped(log_p, *, temperature):
    return soften.power(log_p, temperature=min(temperature, 5.0))


def unnormalised_when_hot(log_p, *, temperature):
    return soften.power(log_p, temperature=temperature) + (0.1 if temperature > 100 else 0)


@pytest.mark.parametrize(
    ("function", "axiom"),
    [
        (folded, RANKING),
        (stepped, CONTINUITY),
        (truncated, CONTINUITY),
        (sharpening, ENTROPY),
        (shifted, IDENTITY),
        (capped, BOUNDARY),
        (unnormalised_when_hot, BOUNDARY),
    ],
)
def test_faults_are_found_and_replay(function, axiom) -> None:
    (result,) = check_softening(function, axioms=[axiom])
    witness = result.witness
    assert witness is not None
    assert witness.violation > 1e-6
    assert len(witness.inputs["p"]) <= 3
    assert replay_softening(witness.inputs, function) == pytest.approx(witness.violation, rel=1e-5)
    assert len(witness.replay.splitlines()) == 3
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(witness.replay, {"operator": function})
    assert float(out.getvalue()) == pytest.approx(witness.violation, rel=1e-5)


def test_only_the_fault_is_blamed() -> None:
    others = [RANKING, ENTROPY, IDENTITY, BOUNDARY]
    assert {axiom for axiom, verdict in verdicts(shifted, axioms=others).items() if verdict == "falsified"} == {
        IDENTITY
    }
    assert {axiom for axiom, verdict in verdicts(capped, axioms=others).items() if verdict == "falsified"} == {BOUNDARY}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda log_p, *, temperature: log_p / temperature, "answered no distribution: at T = 2"),
        (lambda log_p, *, temperature: log_p[..., :1], r"answered shape \[1\] to \[3\], but must keep it"),
        (lambda log_p, *, temperature: None, "answered NoneType, but must answer floating-point"),
        (lambda log_p: log_p, "the operator raised TypeError"),
    ],
)
def test_what_is_no_softening_gets_one_sentence(function, message) -> None:
    results = check_softening(function)
    assert {result.verdict for result in results} == {"error"}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(results[0].reason)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"axiom='pool.unsafe' is asked of no softening; these are: softening"):
        check_softening(soften.power, axioms=["pool.unsafe"])
    with pytest.raises(ValueError, match="budget='endless' must be one of quick, standard, deep"):
        effort_of("endless")
    with pytest.raises(ValueError, match="kind='pool' must be 'softening'"):
        replay_softening({"kind": "pool"}, soften.power)


def turned_when_large(log_p, *, temperature):
    return soften.power(log_p, temperature=temperature) if log_p.shape[-1] <= 10 else log_p.flip(-1)


def turned_when_warm(log_p, *, temperature):
    return log_p.flip(-1) if 20 < temperature <= 1e5 else soften.power(log_p, temperature=temperature)


@pytest.mark.parametrize("liar", [turned_when_large, turned_when_warm])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_family_is_not_believed_of_small_vocabularies_and_few_temperatures(liar, seed) -> None:
    results = check_softening(Declaring(liar, "power"), axioms=[RANKING, IDENTITY, BOUNDARY], seed=seed)
    for result in results:
        assert result.verdict == "survived"
        assert "it declares the power family, but differs from it by" in result.reason


def test_the_premise_says_what_was_compared_and_no_number_is_nan() -> None:
    (result,) = check_softening(soften.power, axioms=[RANKING])
    assert result.certificate is not None
    assert "entries 2 to 4099, temperature 1 to 1e+07; seed 0); nothing else" in result.certificate.premise
    numbers = result.certificate.numbers
    first = numbers["instances"][0]
    bad = {**first, "softened": [[math.nan, *first["softened"][0][1:]], *first["softened"][1:]]}
    assert not Certificate(KIND, "", "", {**numbers, "instances": [bad, *numbers["instances"][1:]]}).recheck()
