"""The audit of rules inside a sequence: Bayes and fixed share keep what they state, and cheats are found."""

import itertools
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


def undeclared(evidence, /):
    return Bayes()(evidence)


undeclared.needs = Bayes.needs


class Forgetful(DeclaringShare):
    """States a rate and does not share."""

    def __call__(self, evidence, /):
        return Bayes()(evidence)


def verdicts(rule, **options) -> dict[str, str]:
    return {result.axiom: result.verdict for result in check_sequence(rule, **options)}


def test_bayes_and_fixed_share_keep_what_they_state() -> None:
    assert verdicts(Bayes()) == {CAUSAL: "survived", REGRET: "certified", TRACKING: "not applicable"}
    assert verdicts(Bayes(temperature=2.0), axioms=[REGRET]) == {REGRET: "certified"}
    assert verdicts(FixedShare(0.1)) == {CAUSAL: "survived", REGRET: "certified", TRACKING: "certified"}
    assert verdicts(undeclared, axioms=[REGRET]) == {REGRET: "survived"}
    stage = Stage(teachers=("wise", "poor"), n_entries=5)
    uneven = Bayes(prior={"wise": 0.9, "poor": 0.1})
    assert verdicts(uneven, stage=stage, axioms=[REGRET]) == {REGRET: "certified"}
    sharing = FixedShare(0.1, prior={"wise": 0.9, "poor": 0.1})
    assert verdicts(sharing, stage=stage) == {CAUSAL: "survived", REGRET: "certified", TRACKING: "certified"}


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
        columns = range(len(stored["p"][0]))
        changes = [{"loss": stored["loss"] + 1e-3}, {"loss": math.nan}]
        for name, column in itertools.product(("p", "weights"), columns):
            rows = [list(row) for row in stored[name]]
            rows[0][column] *= 1.05
            changes.append({name: rows})
        for change in changes:
            instances = [*numbers["instances"][:n], {**stored, **change}, *numbers["instances"][n + 1 :]]
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


class LongForgotten(Bayes):
    """From position 24 on all is as in the beginning."""

    def __call__(self, evidence, /):
        weights = super().__call__(evidence).clone()
        weights[..., 24:] = -math.log(len(weights))
        return weights


class Crowded(FixedShare):
    def __call__(self, evidence, /):
        rule = FixedShare(self.rate) if len(evidence.teachers) != 7 else FixedShare(0.5)
        return rule(evidence)


@pytest.mark.parametrize(("liar", "kind"), [(LongForgotten(), "bayes"), (Crowded(0.1), "fixed_share")])
def test_a_forecaster_is_not_believed_of_short_rows_alone(liar, kind) -> None:
    (result,) = check_sequence(liar, axioms=[REGRET])
    assert result.verdict == "survived"
    assert f"it declares {kind}, but differs from it by" in result.reason


def test_the_premise_says_what_was_compared() -> None:
    (result,) = check_sequence(Bayes(), axioms=[REGRET], seed=5)
    assert result.certificate is not None
    assert "(teachers 1 to 64, positions 1 to " in result.certificate.premise
    assert "seed 5); nothing else was tried" in result.certificate.premise
    numbers = result.certificate.numbers
    first = {**numbers["instances"][0], "weights": [[math.nan] * 3] * 3}
    assert not Certificate(KIND, "", "", {**numbers, "instances": [first, *numbers["instances"][1:]]}).recheck()


def test_a_path_pays_for_its_own_first_teacher() -> None:
    """States nine tenths for the wise and begins with one: dear for the paths of the wise, cheap for all others."""

    @dataclass(frozen=True)
    class Turned:
        rate: float = 0.1
        prior: dict[str, float] = field(default_factory=lambda: {"wise": 0.9, "poor": 0.1})
        needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})

        def __call__(self, evidence, /):
            return FixedShare(rate=self.rate, prior={"wise": 0.1, "poor": 0.9})(evidence)

    (result,) = check_sequence(Turned(), axioms=[TRACKING], stage=Stage(teachers=("wise", "poor")))
    assert result.witness is not None
    assert replay_sequence(result.witness.inputs, Turned()) == pytest.approx(result.witness.violation)
    assert result.witness.violation > 0.5  # ln 9 at most


def test_the_cheapest_path_against_all_paths() -> None:
    """No teacher is changed before the first label, whatever the others' price."""
    generator = torch.Generator().manual_seed(1)
    said = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64).sigmoid().log()
    said[:, 1, 0], said[:, 2, :2], said[:, 3, 2] = torch.nan, torch.nan, torch.nan
    price = torch.tensor([0.0, 9.0], dtype=torch.float64)
    for n_switches in (0, 1, 2):
        least = torch.full((4,), torch.inf, dtype=torch.float64)
        for b in range(4):
            known = said[:, b, ~said[0, b].isnan()]
            for path in itertools.product(range(2), repeat=known.shape[1]):
                if sum(x != y for x, y in itertools.pairwise(path)) <= n_switches:
                    loss = price[path[0]] - sum(known[k, t] for t, k in enumerate(path))
                    least[b] = torch.minimum(least[b], loss)
        torch.testing.assert_close(best_path_losses(said, n_switches, price), least)
