"""The audit of rules inside a sequence: Bayes and fixed share keep what they state, and cheats are found."""

import json
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch

from mashbill.audit.moods import Stage
from mashbill.audit.sequence_checks import SEQUENCE_AXIOMS, check_sequence, replay_sequence
from mashbill.audit.sequence_forms import KIND
from mashbill.audit.sequences import best_path_losses, losses
from mashbill.audit.verdicts import Certificate
from mashbill.weights import Bayes, FixedShare, regret

CAUSAL, REGRET, TRACKING = SEQUENCE_AXIOMS


@dataclass(frozen=True)
class DeclaringBayes:
    temperature: float = 1.0
    prior: dict[str, float] | None = None
    form: dict[str, str] = field(default_factory=lambda: {"forecaster": "bayes"})
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})

    def __call__(self, evidence, /):
        return Bayes(prior=self.prior, temperature=self.temperature)(evidence)


@dataclass(frozen=True)
class DeclaringShare:
    rate: float = 0.1
    prior: None = None
    form: dict[str, str] = field(default_factory=lambda: {"forecaster": "fixed_share"})
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})

    def __call__(self, evidence, /):
        return FixedShare(rate=self.rate)(evidence)


def known(evidence):
    said = evidence.statistics.label_logprob
    return torch.where(evidence.mask & ~said.isnan().any(dim=0), said, 0.0)


def hindsight(evidence, /):
    whole = known(evidence).mean(dim=-1, keepdim=True)
    return torch.log_softmax(whole.expand_as(known(evidence)), dim=0)


def own_label(evidence, /):
    return torch.log_softmax(known(evidence), dim=0)


def eager(evidence, /):
    """Believes each label three times."""
    past = 3 * (known(evidence).cumsum(dim=-1) - known(evidence))
    return torch.log_softmax(past, dim=0)


def blind(evidence, /):
    return torch.log_softmax(-evidence.statistics.gini, dim=0)


class Forgetful(DeclaringShare):
    """States a rate and does not share."""

    def __call__(self, evidence, /):
        return Bayes()(evidence)


def verdicts(rule, **options) -> dict[str, str]:
    return {result.axiom: result.verdict for result in check_sequence(rule, **options)}


def test_bayes_and_fixed_share_keep_what_they_state() -> None:
    assert verdicts(Bayes()) == {CAUSAL: "survived", REGRET: "survived", TRACKING: "not applicable"}
    assert verdicts(Bayes(temperature=2.0), axioms=[REGRET]) == {REGRET: "survived"}
    assert verdicts(FixedShare(0.1)) == dict.fromkeys(SEQUENCE_AXIOMS, "survived")
    stage = Stage(teachers=("wise", "poor"), n_entries=5)
    uneven = Bayes(prior={"wise": 0.9, "poor": 0.1})
    assert verdicts(uneven, stage=stage, axioms=[REGRET]) == {REGRET: "survived"}


def test_a_bound_of_the_callers_own_is_attacked() -> None:
    (result,) = check_sequence(Bayes(), axioms=[REGRET], bound=math.log(2) - 0.01)
    assert result.verdict == "falsified"
    (result,) = check_sequence(Bayes(temperature=2.0), axioms=[REGRET], bound=math.log(2))
    assert result.verdict == "falsified"
    assert result.witness is not None
    assert replay_sequence(result.witness.inputs, Bayes(temperature=2.0)) == pytest.approx(result.witness.violation)


def test_what_does_not_apply_says_why() -> None:
    found = {result.axiom: result for result in check_sequence(Bayes(temperature=0.5))}
    assert found[REGRET].reason == "a temperature below 1 states no bound"
    assert {result.reason for result in check_sequence(blind)} == {"the rule reads no labels"}


@pytest.mark.parametrize(
    ("rule", "axiom"),
    [(hindsight, CAUSAL), (own_label, CAUSAL), (eager, REGRET), (Forgetful(), TRACKING)],
)
def test_cheats_are_found_and_replay(rule, axiom) -> None:
    (result,) = check_sequence(rule, axioms=[axiom])
    witness = result.witness
    assert witness is not None
    assert witness.violation > 1e-6
    assert len(witness.inputs["p"]) == 2
    inputs = json.loads(json.dumps(witness.inputs))
    assert replay_sequence(inputs, rule) == pytest.approx(witness.violation)
    assert len(witness.replay.splitlines()) == 3
    exec(witness.replay, {"operator": rule})


def test_a_witness_of_foresight_needs_no_more_positions_than_the_label() -> None:
    (result,) = check_sequence(own_label, axioms=[CAUSAL])
    assert result.witness is not None
    assert len(result.witness.inputs["labels"]) == result.witness.inputs["position"] + 1


def test_losses_are_those_of_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    said = (3 * torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)).sigmoid().log()
    said[:, 1, 2] = torch.nan
    weights = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64).log_softmax(0)
    pooled, each = losses(said, weights)
    torch.testing.assert_close(pooled, regret.mixture_loss(said, weights))
    torch.testing.assert_close(each, regret.teacher_losses(said))
    for n_switches in (0, 1, 3):
        torch.testing.assert_close(best_path_losses(said, n_switches), regret.best_path_loss(said, n_switches))


@pytest.mark.parametrize(
    ("rule", "axiom"),
    [
        (DeclaringBayes(), REGRET),
        (DeclaringBayes(temperature=2.0), REGRET),
        (DeclaringShare(), REGRET),
        (DeclaringShare(), TRACKING),
    ],
)
def test_declared_forecasters_are_certified_and_certificates_break_when_changed(rule, axiom) -> None:
    (result,) = check_sequence(rule, axioms=[axiom])
    assert result.certificate is not None
    numbers = result.certificate.numbers
    assert result.certificate.recheck()
    for name, value in (("temperature", 1.5), ("rate", 0.2), ("prior", [0.4, 0.3, 0.3])):
        assert not Certificate(KIND, "", "", {**numbers, name: value}).recheck()
    for n, stored in enumerate(numbers["instances"]):
        for name in ("p", "weights"):
            rows = [list(row) for row in stored[name]]
            rows[0][1 if name == "weights" else 0] *= 1.05
            instances = [*numbers["instances"][:n], {**stored, name: rows}, *numbers["instances"][n + 1 :]]
            assert not Certificate(KIND, "", "", {**numbers, "instances": instances}).recheck()


def test_another_forecaster_than_declared_is_not_certified() -> None:
    (result,) = check_sequence(replace(DeclaringShare(), form={"forecaster": "bayes"}), axioms=[REGRET])
    assert result.verdict == "survived"

    class Flat(DeclaringBayes):
        def __call__(self, evidence, /):
            return FixedShare(rate=0.001)(evidence)

    (result,) = check_sequence(Flat(), axioms=[REGRET], budget="quick")
    assert result.certificate is None


def test_rules_that_fail_or_waver_are_left_to_the_contract() -> None:
    answers = iter(range(1000))

    def wavering(evidence, /):
        return torch.log_softmax(next(answers) * evidence.statistics.gini, dim=0)

    def failing(evidence, /):
        raise RuntimeError("no such thing")

    assert {result.reason for result in check_sequence(wavering)} == {"the rule answers the same evidence in two ways"}
    assert {result.reason for result in check_sequence(failing)} == {"the operator raised RuntimeError: no such thing"}
    assert {result.verdict for result in check_sequence(failing)} == {"not applicable"}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"axiom='pool.unsafe' is asked of no sequence"):
        check_sequence(Bayes(), axioms=["pool.unsafe"])
    with pytest.raises(ValueError, match="kind='pool' must be 'sequence'"):
        replay_sequence({"kind": "pool"}, Bayes())
