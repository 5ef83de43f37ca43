"""Operators asked at a few places are the same operators."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from mashbill.distributions import Dense, Logits, Statistics, measure
from mashbill.losses import compiled, distillation_loss
from mashbill.weights import (
    Bayes,
    EntropySoftmax,
    FixedShare,
    GradientAlignment,
    Hybrid,
    InverseLoss,
    InverseVariance,
    Margin,
    PartitionOfUnity,
    Performance,
    RankedSafety,
    Static,
    Tracked,
    Uniform,
    average,
    between,
    conform,
    product,
)
from mashbill.weights.boundary import Blend
from mashbill.weights.evidence import Evidence, Observation, needs_of
from mashbill.weights.gibbs import Gibbs
from mashbill.weights.order import SafetyOrder
from mashbill.weights.published import AEKD, CAMKD, EBKD, Kendall, NeMoRL, Route

B, T, V, K = 6, 4, 7, 3
TEACHERS = ("small", "middle", "large")
CLASSES = torch.tensor([0, 1, 1, 0, 1, 0, -1])


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits ``[K B T V]``, labels and a mask."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(K, B, T, V, generator=generator, dtype=torch.float64)
    return (
        logits,
        torch.randint(V, (B, T), generator=generator),
        torch.rand(B, T, generator=generator) < 0.8,
    )


def unread(mask: torch.Tensor) -> Evidence:
    """Return evidence that knows everything but what the teachers say."""
    generator = torch.Generator().manual_seed(7)
    skill = {
        name: torch.rand(K, 2, generator=generator, dtype=torch.float64) for name in ("accuracy", "safety", "loss")
    }
    return replace(
        Evidence.unread(TEACHERS, mask, n_entries=V, n_classes=2),
        tasks=("ask", "tell"),
        task=torch.tensor([0, 1, 1, 0, 1, 0]),
        contexts=("home", "away"),
        context=torch.tensor([1, 1, 0, 0, 1, 0]),
        features=torch.rand(B, 2, generator=generator, dtype=torch.float64),
        route=torch.tensor([-1, 0, 2, 1, -1, 0]),
        scores={"task": skill, "context": skill},
        orders={"home": ((0, 2), (1, 2)), "away": ((2, 1),)},
        variance=torch.rand(K, *mask.shape, generator=generator, dtype=torch.float64),
    )


def needed(operator, mask: torch.Tensor) -> Evidence:
    """Return that, with a variance only if the operator wants it: evidence by place is put together at each call."""
    known = unread(mask)
    return known if "variance" in needs_of(operator) else replace(known, variance=None)


def read(evidence: Evidence, logits: torch.Tensor, labels: torch.Tensor) -> Evidence:
    """Return the same evidence with the statistics in it."""
    each = [measure(Dense.from_logits(one), labels=labels, classes=CLASSES, n_classes=2) for one in logits]
    return replace(evidence, statistics=Statistics.stack(each))


def of_class_mass(evidence: Evidence) -> torch.Tensor:
    return torch.log_softmax(evidence.statistics.class_mass[..., 1], dim=0)


def of_label(evidence: Evidence) -> torch.Tensor:
    return torch.log_softmax(evidence.statistics.label_logprob, dim=0)


OPERATORS = {
    "uniform": Uniform(),
    "static": Static({"ask": {"small": 0.5, "middle": 0.3, "large": 0.2}}, by="task"),
    "route": Route(floor=0.05),
    "entropy": EntropySoftmax(beta=2.0),
    "gini": InverseVariance(),
    "supplied variance": InverseVariance(source="supplied"),
    "margin": Margin(),
    "hybrid": Hybrid(),
    "performance": Performance(),
    "inverse loss": InverseLoss(),
    "ranked safety": RankedSafety(),
    "contexts": PartitionOfUnity(),
    "features": PartitionOfUnity(anchors={"home": [0.0, 0.0], "away": [1.0, 1.0]}),
    "classes": of_class_mass,
    "labels": of_label,
    "learned": Kendall(K, n_tasks=2),
    "product": product(
        token=EntropySoftmax(beta=4.0),
        task=Performance(),
        context=RankedSafety(),
        temperatures={"task": 2.0},
        order="scorecard",
        bounds=(0.1, 0.6),
    ),
    "product, l2": product(
        token=InverseVariance(), order=SafetyOrder(K, ((0, 1), (1, 2))), bounds=(0.05, 0.8), guard="l2"
    ),
    "product, squash": product(token=Margin(), task=Route(), bounds=(0.05, 0.8), guard="squash"),
    "conformed": conform(of_label, bounds=(0.2, 0.5), order="scorecard"),
    "blend": Blend(EntropySoftmax(), RankedSafety(), {"contexts": ["home"], "balls": [([0.0, 0.0], 0.3)]}),
    "mean": average(EntropySoftmax(), PartitionOfUnity()),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_at_a_few_places_an_operator_says_what_it_says_of_the_whole_batch(name: str) -> None:
    operator, (logits, labels, mask) = OPERATORS[name], drawn(0)
    evidence = read(unread(mask), logits, labels)
    whole = operator(evidence).expand(K, B, T).flatten(1)
    rule = between(operator, unread(mask))
    for places in mask.flatten().nonzero().squeeze(1).split(5):
        found = rule(at(evidence.statistics, places), places)
        torch.testing.assert_close(found, whole[:, places], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", OPERATORS)
def test_over_memory_that_is_filled_again_it_says_the_same(name: str) -> None:
    operator, (logits, labels, mask) = OPERATORS[name], drawn(0)
    evidence = read(unread(mask), logits, labels)
    rule: Any = between(operator, needed(operator, mask))
    memory = at(evidence.statistics, torch.arange(2))
    answer = rule.over(memory)
    # Within a row, across two, and back in the first.
    for places in torch.tensor([[0, 1], [2, 3], [3, 4], [8, 9], [10, 12], [0, 2]]):
        here = at(evidence.statistics, places)
        for values, anew in zip(vars(memory).values(), vars(here).values(), strict=True):
            values.copy_(anew)
        assert torch.equal(answer(places), rule(here, places))


def at(statistics: Statistics, places: torch.Tensor) -> Statistics:
    return Statistics(**{f.name: getattr(statistics, f.name).flatten(1, 2)[:, places] for f in fields(Statistics)})


def test_what_is_supplied_by_row_is_found_by_row() -> None:
    logits, labels, mask = drawn(1)
    known = unread(mask)
    known = replace(known, variance=None if known.variance is None else known.variance[..., :1])
    evidence, places = read(known, logits, labels), torch.tensor([2, 9, 23])
    operator = InverseVariance(source="supplied")
    found = between(operator, known)(at(evidence.statistics, places), places)
    everywhere = replace(evidence, mask=torch.ones_like(mask))
    assert torch.equal(found, operator(everywhere)[..., 0][:, [0, 2, 5]])


def test_a_learner_is_asked_as_it_is_now() -> None:
    logits, labels, mask = drawn(2)
    evidence = read(unread(mask), logits, labels)
    rule = Tracked(EntropySoftmax(), gain=0.5)
    with pytest.raises(ValueError, match="depend on others"):
        between(rule, unread(mask))  # until it has seen a task, it takes the mean over a row
    rule.observe(Observation(1, evidence, rule(evidence), torch.zeros(K, B, T)))
    asked, places = between(rule, unread(mask)), torch.arange(B) * T
    before = asked(at(evidence.statistics, places), places)
    torch.testing.assert_close(before, rule(evidence)[..., 0])
    other = read(evidence, *drawn(3)[:2])
    rule.observe(Observation(2, other, rule(other), torch.zeros(K, B, T)))
    assert not torch.allclose(asked(at(evidence.statistics, places), places), before)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Gibbs(reference="mean"), "Gibbs needs divergence:mean"),
        (GradientAlignment(), "GradientAlignment needs gram"),
        (AEKD(), "AEKD needs logprobs, student_logprobs"),
        (product(token=EntropySoftmax(), task=AEKD()), "Product needs logprobs"),
    ],
)
def test_rules_that_need_more_than_statistics_are_refused(operator, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        between(operator, unread(drawn(0)[2]))
    assert "log_weights=operator(evidence)" in str(caught.value)


def test_a_variance_must_be_supplied() -> None:
    with pytest.raises(ValueError, match=r"needs variance.*Evidence\(variance="):
        between(InverseVariance(source="supplied"), replace(unread(drawn(0)[2]), variance=None))


def batch_normalised(evidence: Evidence) -> torch.Tensor:
    entropy = evidence.statistics.entropy
    return torch.log_softmax(entropy / entropy.std(), dim=0)


def task_normalised(evidence: Evidence) -> torch.Tensor:
    entropy = evidence.statistics.entropy
    alike = (evidence.task.unsqueeze(0) == evidence.task.unsqueeze(1)).to(entropy)
    return torch.log_softmax((alike @ entropy) / alike.sum(dim=0).unsqueeze(-1), dim=0)


def looks_at_the_length(evidence: Evidence) -> torch.Tensor:
    return torch.log_softmax(evidence.statistics.entropy * evidence.mask.sum(dim=-1, keepdim=True), dim=0)


MIXING = [Bayes(), FixedShare(), EBKD(), CAMKD(), NeMoRL(metric="entropy"), batch_normalised, task_normalised]


@pytest.mark.parametrize(
    "operator", [*MIXING, looks_at_the_length, product(token=EntropySoftmax(), task=EBKD(), bounds=(0.1, 0.8))]
)
def test_rules_that_look_at_other_positions_are_refused(operator) -> None:
    with pytest.raises(ValueError, match="depend on others") as caught:
        between(operator, unread(drawn(0)[2]))
    assert "log_weights=operator(evidence)" in str(caught.value)


@pytest.mark.parametrize("operator", MIXING)
def test_with_one_position_a_row_only_those_that_look_at_other_rows(operator) -> None:
    logits, labels, _ = drawn(4)
    known = unread(torch.ones(B, 1, dtype=torch.bool))
    if operator in (NeMoRL(metric="entropy"), batch_normalised, task_normalised):
        with pytest.raises(ValueError, match="depend on others"):
            between(operator, known)
        return
    evidence, places = read(known, logits[:, :, :1], labels[:, :1]), torch.arange(B)
    found = between(operator, known)(at(evidence.statistics, places), places)
    torch.testing.assert_close(found, operator(evidence).squeeze(-1), rtol=0, atol=1e-14)


def test_a_class_is_no_rule() -> None:
    with pytest.raises(TypeError, match=r"operator=EntropySoftmax is a class; .* EntropySoftmax\(\)"):
        between(EntropySoftmax, unread(drawn(0)[2]))  # pyright: ignore[reportArgumentType]


def test_an_operator_that_does_not_fit_the_evidence_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="safety"):
        between(RankedSafety(safety={"nobody": 1.0}), unread(drawn(0)[2]))


def test_several_threads_may_ask() -> None:
    logits, labels, mask = drawn(5)
    evidence = read(unread(mask), logits, labels)
    rule = between(OPERATORS["product"], unread(mask))
    places = torch.arange(B * T).split(1)
    expected = [rule(at(evidence.statistics, one), one) for one in places]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda one: rule(at(evidence.statistics, one), one), places * 5))
    assert all(torch.equal(one, other) for one, other in zip(found, expected * 5, strict=True))


@pytest.mark.parametrize("impl", ["auto", "chunked", "reference"])
@pytest.mark.parametrize("name", ["entropy", "product", "classes", "labels", "supplied variance"])
def test_the_loss_asks_the_rule(name: str, impl) -> None:
    _require_asked(OPERATORS[name], *drawn(6), impl=impl, tolerance=1e-12)


@pytest.mark.parametrize("n_each", [1, 3, 100])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_compiled_loss_asks_the_rule(name: str, n_each: int, monkeypatch) -> None:
    monkeypatch.setattr(compiled, "N_KEPT", n_each * K * V)
    logits, labels, mask = drawn(6)
    _require_asked(OPERATORS[name], logits.float(), labels, mask, impl="native", tolerance=2e-6)


def _require_asked(operator, logits, labels, mask, *, impl, tolerance: float) -> None:
    student = torch.randn(B, T, V, generator=torch.Generator().manual_seed(1), dtype=logits.dtype).requires_grad_()
    teachers = [Logits(one) for one in logits]
    options: dict[str, Any] = {"mask": mask, "labels": labels, "classes": CLASSES}
    whole = operator(read(unread(mask), logits, labels)).expand(K, B, T).to(logits.dtype)
    given = distillation_loss(student, teachers, whole, impl="reference", **options)
    rule = between(operator, needed(operator, mask))
    asked = distillation_loss(student, teachers, rule, look=True, impl=impl, **options)
    expected, found = (torch.autograd.grad(one.total, student)[0] for one in (given, asked))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert asked.seen is not None
    torch.testing.assert_close(asked.seen.log_weights[:, mask], whole[:, mask], rtol=10 * tolerance, atol=tolerance)
