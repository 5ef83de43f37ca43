"""Ascent on the slope of a weight: no declared constant is exceeded, and how near each comes is written down.

The slope against the sup norm of all logits at once is the l1 norm of a weight's gradient; against the l1 norm of each
teacher's probabilities it is half the spread of the gradient over the entries, summed over teachers.
"""

import math

import pytest
import torch

from mashbill.distributions import kl_to, kl_to_mean
from mashbill.distributions.dense import Dense
from mashbill.weights.gibbs import Gibbs
from mashbill.weights.hybrid import Hybrid
from mashbill.weights.margin import Margin
from mashbill.weights.softmax import entropy_lipschitz
from mashbill.weights.token import EntropySoftmax, InverseVariance

DOUBLE = torch.float64


def sup(gradient):
    return gradient.abs().sum(dim=(0, -1))


def l1(gradient):
    return (gradient.amax(-1) - gradient.amin(-1)).sum(0) / 2


def climb(slope, start, *, n_steps=100, rate=0.1):
    """Return the largest slope seen on the way up from many starts, and where it was seen."""
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=rate)
    best, where = torch.tensor(0.0, dtype=DOUBLE), x.detach()
    for _ in range(n_steps):
        optimiser.zero_grad()
        each = slope(x)
        if each.max() > best:
            best, where = each.max().detach(), x.detach()[:, each.argmax()].clone()
        (-each.sum()).backward()
        optimiser.step()
    return float(best), where


def starts(n_teachers, n_entries, n_starts=12, *, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n_teachers, n_starts, n_entries, generator=generator, dtype=DOUBLE)


def slope_in_logits(rule, make_evidence):
    def slope(logits):
        weight = rule(make_evidence_of(logits, make_evidence)).exp()[0]
        (gradient,) = torch.autograd.grad(weight.sum(), logits, create_graph=True)
        return sup(gradient)

    return slope


def make_evidence_of(logits, make_evidence, **changes):
    return make_evidence(logits.softmax(-1).unsqueeze(2), **changes)


@pytest.mark.parametrize(("n_entries", "least"), [(2, 0.999), (5, 0.999)])
@pytest.mark.parametrize("n_teachers", [2, 3])
def test_entropy_softmax(n_teachers, n_entries, least, make_evidence) -> None:
    rule = EntropySoftmax(beta=2.0)
    best, _ = climb(slope_in_logits(rule, make_evidence), starts(n_teachers, n_entries))
    constant = 2.0 * entropy_lipschitz(n_entries) / (2 * math.log(n_entries))
    promise = rule.declared(n_teachers).lipschitz
    assert promise is not None
    assert constant <= promise * (1 + 1e-12)
    # With two teachers it is reached by moving both; a third only takes weight from them.
    assert (least if n_teachers == 2 else 0.9) * constant < best <= constant * (1 + 1e-9)
    if n_entries == 2:
        assert promise == pytest.approx(constant)


def test_hybrid_in_logits_and_in_scores(make_evidence) -> None:
    rule = Hybrid(beta=2.0, skill=3.0)
    in_logits, promise = EntropySoftmax(beta=2.0).declared(2).lipschitz, rule.declared(2).lipschitz
    assert in_logits is not None
    assert promise is not None
    assert promise == pytest.approx(in_logits + 3.0 / 2)

    def slope(x):
        # Logits of two entries, and a third coordinate: each teacher's score.
        logits, safety = x[..., :2], 0.5 + x[..., 2:]
        weights = []
        for n in range(x.shape[1]):
            scores = {"context": {"safety": safety[:, n]}}
            evidence = make_evidence_of(logits[:, n : n + 1], make_evidence, scores=scores)
            weights.append(rule(evidence).exp()[0].sum())
        (gradient,) = torch.autograd.grad(sum(weights), x, create_graph=True)
        return sup(gradient)

    best, _ = climb(slope, starts(2, 3, n_starts=2, spread=0.5), n_steps=60, rate=0.2)
    assert 0.99 * promise < best <= promise * (1 + 1e-9)


@pytest.mark.parametrize("n_entries", [2, 6])
def test_margin_in_logits(n_entries, make_evidence) -> None:
    rule = Margin(beta=2.0)
    start = starts(2, n_entries)
    start[..., :2] += 1.0
    best, _ = climb(slope_in_logits(rule, make_evidence), start)
    promise = rule.declared(2).lipschitz
    assert promise is not None
    assert 0.97 * promise < best <= promise * (1 + 1e-9)


@pytest.mark.parametrize(
    "rule", [Margin(beta=2.0), InverseVariance(exponent=1.5, epsilon=0.05)], ids=["margin", "gini"]
)
@pytest.mark.parametrize("n_entries", [2, 5])
def test_constants_in_probabilities(rule, n_entries, make_evidence) -> None:
    def slope(logits):
        # Entropy is on the way, whose logarithm wants exact zeros kept away; sums are 1 to rounding.
        p = logits.softmax(-1).clamp_min(1e-30)
        weight = rule(make_evidence(p.unsqueeze(2))).exp()[0]
        (gradient,) = torch.autograd.grad(weight.sum(), p, create_graph=True)
        return l1(gradient)

    best, _ = climb(slope, starts(2, n_entries, spread=3.0), n_steps=150, rate=0.2)
    promise = rule.declared(2).lipschitz
    assert promise is not None
    assert 0.98 * promise < best <= promise * (1 + 1e-9)


def test_supplied_variances(make_evidence) -> None:
    rule = InverseVariance(exponent=2.0, epsilon=0.1, source="supplied")
    evidence = make_evidence(torch.full((2, 1, 1, 2), 0.5, dtype=DOUBLE))
    promise = rule.declared(2).lipschitz
    assert promise is not None
    observed = []
    for low, step in ((0.0, 1e-6), (1e-3, 1e-3), (0.5, 0.1)):
        one, two = torch.tensor([low, low + step], dtype=DOUBLE), torch.tensor([low + step, low], dtype=DOUBLE)
        weights = [rule(type(evidence)(**{**vars(evidence), "variance": v.reshape(2, 1, 1)})).exp() for v in (one, two)]
        observed.append(float((weights[0] - weights[1]).abs().max()) / step)
    assert max(observed) <= promise
    assert max(observed) > 0.999 * promise


def plain_kl(p, q):
    return (p * (p.clamp_min(1e-300).log() - q.clamp_min(1e-300).log())).sum(-1)


def test_gibbs_in_the_students_logits(make_evidence) -> None:
    rule = Gibbs(temperature=0.5, reference="student", cap=6.0)

    def log_weights(p, s):
        return (-plain_kl(p, s).clamp(0, rule.cap) / rule.temperature).log_softmax(0)

    def slope(logits):
        p, z = logits[:-1].softmax(-1), logits[-1:]
        (gradient,) = torch.autograd.grad(log_weights(p, z.softmax(-1))[0].exp().sum(), z, create_graph=True)
        return sup(gradient)

    best, where = climb(slope, starts(3, 4), n_steps=150)
    promise = rule.declared(2)
    assert promise.lipschitz is not None
    assert promise.reads_student
    assert 0.99 * promise.lipschitz < best <= promise.lipschitz * (1 + 1e-9)
    # The rule itself, by differences: its gradient is stopped.
    p, z = where[:-1].softmax(-1).reshape(2, 1, 1, 4), where[-1].reshape(1, 1, 4)
    teachers = [Dense.from_probs(one) for one in p]
    slope_of_twin = torch.autograd.functional.jacobian(lambda s: log_weights(p, s.softmax(-1))[0].exp().sum(), z)

    def weight(student):
        return rule(make_evidence(p, divergences={"student": kl_to(teachers, student.log_softmax(-1))})).exp()[0]

    step = 1e-5 * slope_of_twin.sign()
    assert float((weight(z + step) - weight(z - step)) / 2e-5) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize(("n_teachers", "least"), [(2, 0.09), (3, 0.17)])
def test_gibbs_in_the_teachers_logits(n_teachers, least, make_evidence) -> None:
    rule = Gibbs(temperature=0.5)

    def slope(logits):
        p = logits.softmax(-1)
        log_weights = (-plain_kl(p, p.mean(0)) / rule.temperature).log_softmax(0)
        (gradient,) = torch.autograd.grad(log_weights[0].exp().sum(), logits, create_graph=True)
        return sup(gradient)

    best, where = climb(slope, starts(n_teachers, 4, spread=2.0), n_steps=150)
    promise = rule.declared(n_teachers).lipschitz
    assert promise is not None
    # A wide bound: the mean moves with every teacher, and its proof adds up what mostly cancels.
    assert least * promise < best <= promise
    p = where.softmax(-1).reshape(n_teachers, 1, 1, 4)
    evidence = make_evidence(p, divergences={"mean": kl_to_mean([Dense.from_probs(one) for one in p])})
    twin = (-plain_kl(p, p.mean(0)) / rule.temperature).log_softmax(0)
    torch.testing.assert_close(rule(evidence), twin, rtol=0, atol=1e-12)
