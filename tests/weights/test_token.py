import math

import pytest
import torch

from mashbill.distributions import Dense, measure
from mashbill.weights.token import EntropySoftmax, InverseVariance, entropy_lipschitz, softmax_range

DOUBLE = torch.float64


def test_family_a_golden(golden, appendix) -> None:
    weights = EntropySoftmax(beta=2.0, normalise=False)(appendix()).exp().flatten()
    assert weights.tolist() == pytest.approx(golden("F06")["expected"], abs=golden("F06")["tol"])


def test_normalised_entropies_are_divided_by_the_log_of_the_vocabulary(golden, appendix) -> None:
    weights = EntropySoftmax(beta=2 * math.log(3))(appendix()).exp().flatten()
    assert weights.tolist() == pytest.approx(golden("F06")["expected"], abs=golden("F06")["tol"])


def test_family_b_golden(golden, appendix) -> None:
    variance, expected = golden("F09")["expected"]
    assert appendix().statistics.gini.flatten().tolist() == pytest.approx(variance, abs=1e-12)
    weights = InverseVariance(epsilon=1e-12)(appendix()).exp().flatten()
    assert weights.tolist() == pytest.approx(expected, abs=golden("F09")["tol"])


def test_inverse_variance_golden_through_the_exponent(golden, appendix) -> None:
    # The square root of the variance with exponent 2 is the variance with exponent 1.
    evidence = appendix()
    once = InverseVariance(exponent=1.0, epsilon=1e-12)(evidence)
    assert InverseVariance(exponent=0.0)(evidence).exp().flatten().tolist() == pytest.approx([0.5, 0.5])
    twice = InverseVariance(exponent=2.0, epsilon=1e-12)(evidence)
    assert (twice[0] - twice[1]).item() == pytest.approx(2 * (once[0] - once[1]).item())


@pytest.mark.parametrize("rule", [EntropySoftmax(beta=3.0), InverseVariance(exponent=1.5, epsilon=0.05)])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_weights_are_normalised_and_within_the_declared_range(rule, dtype, random_evidence) -> None:
    evidence = random_evidence(4, 6, 7, 5, dtype=dtype)
    log_weights = rule(evidence)
    assert log_weights.shape == (4, 6, 7)
    assert log_weights.dtype == dtype
    weights, promise = log_weights.exp(), rule.declared(4)
    torch.testing.assert_close(weights.sum(0), torch.ones(6, 7, dtype=dtype))
    assert promise.lowest - 1e-7 <= float(weights.min()) <= float(weights.max()) <= promise.highest + 1e-7


@pytest.mark.parametrize("rule", [EntropySoftmax(beta=3.0), InverseVariance(exponent=2.0, epsilon=0.05)])
def test_the_declared_range_is_attained_by_extreme_teachers(rule, make_evidence) -> None:
    n_entries = 20_000
    certain, even = torch.zeros(n_entries, dtype=DOUBLE), torch.full((n_entries,), 1 / n_entries, dtype=DOUBLE)
    certain[0] = 1.0
    promise = rule.declared(3)
    weights = rule(make_evidence(torch.stack([certain, certain, even]))).exp().flatten()
    assert float(weights[2]) == pytest.approx(promise.lowest, rel=1e-3)
    weights = rule(make_evidence(torch.stack([certain, even, even]))).exp().flatten()
    assert float(weights[0]) == pytest.approx(promise.highest, rel=1e-3)


def attack(rule, make_evidence, change, distance, *, n_entries, n_tries=4000) -> float:
    """Return the largest observed change of a weight over the distance of the teachers that caused it."""
    generator = torch.Generator().manual_seed(n_entries)
    logits = 2.5 * torch.randn(3, n_tries, 1, n_entries, generator=generator, dtype=DOUBLE)
    other = change(logits, generator)
    first, second = (make_evidence(x.softmax(-1)) for x in (logits, other))
    moved = (rule(first).exp() - rule(second).exp()).abs().amax(0)
    return float((moved / distance(logits, other)).max())


@pytest.mark.parametrize("n_entries", [2, 10])
def test_the_entropy_constant_survives_an_attack_in_logits(n_entries, make_evidence) -> None:
    rule = EntropySoftmax(beta=2.0)

    def change(logits, generator):
        # The first entry against the others is the direction in which entropy moves most.
        signs = torch.randint(0, 2, logits[..., :1].shape, generator=generator).to(DOUBLE) * 2 - 1
        pattern = torch.ones(n_entries, dtype=DOUBLE)
        pattern[0] = -1.0
        best = torch.where(logits == logits.amax(-1, keepdim=True), -1.0, 1.0)
        return logits + 1e-3 * signs * torch.where(signs > 0, best, pattern)

    def distance(x, y):
        return (x - y).abs().amax((0, -1))

    observed = attack(rule, make_evidence, change, distance, n_entries=n_entries)
    constant = rule.declared(3).lipschitz
    assert constant is not None
    assert 0.3 * constant < observed <= constant


def test_the_gini_constant_survives_an_attack_in_probabilities(make_evidence) -> None:
    rule = InverseVariance(exponent=1.0, epsilon=0.05)

    def change(logits, generator):
        return logits + 1e-2 * torch.randn(logits.shape, generator=generator, dtype=DOUBLE)

    def distance(x, y):
        return (x.softmax(-1) - y.softmax(-1)).abs().sum(-1).amax(0)

    observed = attack(rule, make_evidence, change, distance, n_entries=3)
    constant = rule.declared(3).lipschitz
    assert constant is not None
    assert 0.1 * constant < observed <= constant


def test_entropy_lipschitz_golden(golden) -> None:
    found = [entropy_lipschitz(n) for n in (3, 1000, 50257)]
    assert found == pytest.approx(golden("F72")["expected"], abs=golden("F72")["tol"])
    assert entropy_lipschitz(1) == 0.0


def test_the_constant_for_every_vocabulary_is_that_of_two_entries() -> None:
    ratios = [entropy_lipschitz(n) / math.log(n) for n in (2, 3, 4, 5, 8, 16, 50, 300, 5000, 50257, 10**6)]
    assert ratios == sorted(ratios, reverse=True)
    assert EntropySoftmax(beta=2.0).declared(3).lipschitz == pytest.approx(ratios[0])


def test_entropy_lipschitz_bounds_the_slope_of_entropy() -> None:
    logits = 3 * torch.randn(4000, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    logits.requires_grad_()
    entropy = measure(Dense.from_logits(logits)).entropy
    (slope,) = torch.autograd.grad(entropy.sum(), logits)
    largest = float(slope.abs().sum(-1).max())
    assert 0.8 * entropy_lipschitz(6) < largest <= entropy_lipschitz(6) + 1e-9


def test_raw_entropy_declares_no_certificate() -> None:
    promise = EntropySoftmax(beta=1.0, normalise=False).declared(3)
    assert (promise.lowest, promise.highest, promise.lipschitz) == (0.0, 1.0, None)


def test_softmax_range_does_not_overflow() -> None:
    assert softmax_range(1e4, 3) == (0.0, 1.0)
    assert softmax_range(0.7, 1) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EntropySoftmax(beta=-1.0), r"beta=-1\.0 must be finite and not negative"),
        (lambda: EntropySoftmax(beta=math.nan), r"beta=nan must be"),
        (lambda: EntropySoftmax(beta=math.inf), r"beta=inf must be"),
        (lambda: InverseVariance(epsilon=0.0), r"epsilon=0\.0 must be positive"),
        (lambda: InverseVariance(exponent=-1), r"exponent=-1 must be finite and not negative"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()
