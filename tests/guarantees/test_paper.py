"""The papers' claims: falsified by what replays, corrected by what can be checked again."""

import copy
import json
from typing import Any

import pytest

from mashbill.audit.verdicts import Certificate, Witness
from mashbill.guarantees import Claim, claims

ITEMS = {
    "appendix",
    "template",
    "family.A",
    "family.B",
    "product.bounds",
    "product.order",
    "token.hull",
    "pareto",
    "kl.vanishes",
    "rate",
    "rate.and.kl",
    "noise",
    "contraction",
    "variance",
    "safety.dilution",
    "safety.front",
    "safety.multiplier",
    "safety.preserved",
}


@pytest.fixture(scope="module")
def found() -> dict[str, Claim]:
    return {claim.id: claim for claim in claims()}


def test_all_claims_are_there_and_falsified(found: dict[str, Claim]) -> None:
    assert set(found) == ITEMS
    assert {claim.verdict for claim in found.values()} == {"falsified"}
    assert {claim.corrected_verdict for claim in found.values()} == {"certified", "survived"}


def test_claims_are_plain_data(found: dict[str, Claim]) -> None:
    for claim in found.values():
        assert json.loads(json.dumps(claim.to_json()))["item"] == claim.item


@pytest.mark.parametrize("id", sorted(ITEMS))
def test_every_counter_example_replays_in_three_lines(found: dict[str, Claim], id: str) -> None:
    witness = found[id].witness
    scope: dict[str, Any] = {}
    exec(witness.replay, scope)  # what a reader would type
    assert len(witness.replay.splitlines()) == 3
    assert scope["violation"] == pytest.approx(witness.violation, rel=1e-6)
    assert scope["violation"] > 0


def leaves(numbers: Any, path: tuple = ()) -> list[tuple]:
    if isinstance(numbers, dict):
        return [leaf for key, value in numbers.items() for leaf in leaves(value, (*path, key))]
    if isinstance(numbers, list | tuple):
        return [leaf for n, value in enumerate(numbers) for leaf in leaves(value, (*path, n))]
    return [path] if isinstance(numbers, int | float) else []


def test_every_certificate_rechecks_and_fails_once_a_number_is_changed(found: dict[str, Claim]) -> None:
    proofs = [claim.certificate for claim in found.values() if claim.certificate]
    assert len(proofs) == 9
    for proof in proofs:
        plain = json.loads(json.dumps(dict(proof.numbers)))
        assert Certificate(proof.kind, proof.claim, proof.premise, plain).recheck()
        for path in leaves(plain):
            numbers = copy.deepcopy(plain)
            at: Any = numbers
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] += 1 if isinstance(at[path[-1]], int) else 1e-3
            assert not Certificate(proof.kind, proof.claim, proof.premise, numbers).recheck(), (proof.kind, path)


def test_what_survived_was_attacked(found: dict[str, Claim]) -> None:
    tried = {claim.id: claim.attempts for claim in found.values() if claim.corrected_verdict == "survived"}
    assert min(tried.values()) > 100


def numbers_of(found: dict[str, Claim], id: str) -> Any:
    return found[id].witness.inputs


def test_golden_numbers(found: dict[str, Claim], golden) -> None:
    def close(value: Any, id: str) -> None:
        assert value == pytest.approx(golden(id)["expected"], abs=golden(id)["tol"])

    close(found["kl.vanishes"].certificate.numbers["kl"], "F78")  # pyright: ignore[reportOptionalMemberAccess]  # certified
    close([numbers_of(found, "variance")["uniform"], numbers_of(found, "variance")["adaptive"]], "F54")
    close(numbers_of(found, "safety.dilution")["expected"], "F82")
    close(numbers_of(found, "product.order")["weights"], "F28")
    assert numbers_of(found, "noise")["kl"] == pytest.approx(golden("F56")["expected"][0], abs=1e-9)
    corrected = found["appendix"].certificate
    assert corrected is not None
    assert corrected.numbers["weights"] == pytest.approx(golden("F03")["expected"][0], abs=1e-9)
    assert corrected.numbers["target"] == pytest.approx(golden("F03")["expected"][1], abs=1e-9)
    bounds = found["product.bounds"].certificate
    assert bounds is not None
    assert [bounds.numbers["low"], bounds.numbers["high"]] == pytest.approx(golden("F26")["expected"][0], abs=1e-9)


def test_figures_of_the_theory(found: dict[str, Claim]) -> None:
    assert found["template"].witness.inputs["weights"] == pytest.approx([0.231, 0.769], abs=1e-3)
    assert found["token.hull"].witness.inputs["normalised"] == pytest.approx([0.586207, 0.25, 0.163793], abs=1e-6)
    assert found["token.hull"].certificate.numbers["margin"] == pytest.approx(9.51e-5, rel=1e-3)  # pyright: ignore[reportOptionalMemberAccess]  # certified
    assert found["rate.and.kl"].witness.violation == pytest.approx(0.00888206, abs=1e-8)
    assert found["safety.front"].witness.inputs["fonseca"] == pytest.approx(0.958, abs=1e-3)
    assert found["rate"].witness.inputs["scaled_errors"][:2] == pytest.approx([225, 1419], abs=0.5)


def test_a_claim_cannot_say_what_its_witness_does_not_show() -> None:
    harmless = Witness("nothing", {}, 0.0, "calculation", "violation = 0")
    with pytest.raises(ValueError, match=r"verdict='falsified' with a violation of 0\.0"):
        Claim("x", "x", "x", "falsified", harmless, "y", "survived")
    shown = Witness("something", {}, 1.0, "calculation", "violation = 1")
    with pytest.raises(ValueError, match="only a proof certifies"):
        Claim("x", "x", "x", "falsified", shown, "y", "certified")
