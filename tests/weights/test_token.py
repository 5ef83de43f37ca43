import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mashbill.distributions import (
    Dense,
    Statistics,
    TopK,
    entropy_from_samples,
    entropy_interval,
    gini_interval,
    max_varentropy,
    measure,
    paraphrase_consistency,
)
from mashbill.weights.evidence import Evidence
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
        (lambda: InverseVariance(v_max=2.0), r"v_max=2\.0 is for source='supplied'"),
        (lambda: InverseVariance(source="supplied", v_max=math.inf), r"v_max=inf must be finite and positive"),
        # Without the run-time type check of the test suite, which production does not have.
        (
            lambda: InverseVariance.__post_init__(SimpleNamespace(**{**vars(InverseVariance()), "source": "guess"})),
            r"source='guess' must be 'gini' or 'supplied'",
        ),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def supplied(make_evidence, variance) -> Evidence:
    n_teachers, n_rows, n_positions = variance.shape
    even = torch.full((n_teachers, n_rows, max(n_positions, 2), 2), 0.5, dtype=DOUBLE)
    return make_evidence(even, variance=variance)


def test_inverse_variance_golden(golden, make_evidence) -> None:
    variance = torch.tensor([1.0, 4.0, 0.25], dtype=DOUBLE).reshape(3, 1, 1)
    rule = InverseVariance(source="supplied", epsilon=1e-12, v_max=4.0)
    assert rule.needs == {"variance"}
    weights = rule(supplied(make_evidence, variance)).exp().flatten()
    assert weights.tolist() == pytest.approx(golden("F53")["expected"], abs=golden("F53")["tol"])


def test_variance_over_paraphrases(make_evidence) -> None:
    answers = [["yes", "yes", "no", "yes", "maybe"], ["no"] * 5]
    variance = torch.tensor([1 - paraphrase_consistency(one) for one in answers], dtype=DOUBLE).reshape(2, 1, 1)
    weights = InverseVariance(source="supplied", epsilon=0.1)(supplied(make_evidence, variance)).exp()
    assert weights.flatten().tolist() == pytest.approx([(1 / 0.5) / (1 / 0.5 + 1 / 0.1), (1 / 0.1) / (1 / 0.5 + 10)])


def test_supplied_variances_are_cut_and_their_range_is_reached(make_evidence) -> None:
    rule = InverseVariance(exponent=2.0, epsilon=0.5, source="supplied", v_max=3.0)
    promise = rule.declared(3)
    variance = torch.tensor([[1e6, 0.0, 3.0], [-1.0, 0.0, 0.0], [0.0, 70.0, 3.0]], dtype=DOUBLE).unsqueeze(1)
    weights = rule(supplied(make_evidence, variance)).exp()
    assert weights.shape == (3, 1, 3)
    assert float(weights.min()) == pytest.approx(promise.lowest)
    assert float(weights[1, 0, 2]) == pytest.approx(promise.highest)
    assert promise.metric == "supplied variances, sup"


def test_unknown_variances_where_nothing_counts_spoil_nothing(make_evidence) -> None:
    by_row = torch.tensor([[0.1, math.nan], [0.2, math.nan]], dtype=DOUBLE).unsqueeze(-1)
    evidence = supplied(make_evidence, by_row)
    mask = torch.tensor([[True, False], [False, False]])
    rule = InverseVariance(source="supplied")
    assert rule(replace(evidence, mask=mask)).exp()[:, 1, 0].tolist() == pytest.approx([0.5, 0.5])
    by_position = torch.where(mask, by_row, math.nan)
    weights = rule(replace(evidence, variance=by_position, mask=mask)).exp()
    assert weights[:, 0, 0].tolist() == pytest.approx([0.21 / 0.32, 0.11 / 0.32])
    assert weights.isfinite().all()
    with pytest.raises(ValueError, match="needs='variance' is not in the evidence"):
        rule(replace(evidence, variance=None))


def test_entropy_is_not_lipschitz_in_probabilities() -> None:
    ratios = []
    for e in (1e-2, 1e-4, 1e-8, 1e-12):
        p = torch.tensor([1 - e, e], dtype=DOUBLE)
        # Written as a log of one minus e: 1 - 1e-12 has lost digits.
        entropy = measure(Dense(torch.stack([torch.log1p(-p[1]), p[1].log()]))).entropy
        ratios.append(float(entropy) / (2 * e))
    assert ratios == pytest.approx([2.8, 5.1, 9.7, 14.3], abs=0.05)


def stored_evidence(k=3, *, is_top=True, n_entries=12) -> tuple[Evidence, Evidence]:
    """Return the evidence of teachers that stored their top entries, and of the same teachers in full."""
    logits = 2 * torch.randn(3, 4, 5, n_entries, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    full = [Dense.from_logits(one) for one in logits]
    cut = [measure(TopK.from_logprobs(one.logprobs, k=k), is_top=is_top) for one in full]
    names = ("a", "b", "c")
    whole = Evidence.plain(names, Statistics.stack([measure(one) for one in full]), n_entries=n_entries)
    return Evidence.plain(names, Statistics.stack(cut), n_entries=n_entries), whole


@pytest.mark.parametrize("is_top", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_weight_interval_holds_the_true_weights(is_top, normalise) -> None:
    rule = EntropySoftmax(beta=3.0, normalise=normalise)
    evidence, whole = stored_evidence(is_top=is_top)
    low, high = rule.weight_interval(evidence)
    truth = rule(whole).exp()
    assert (low <= truth + 1e-12).all()
    assert (truth <= high + 1e-12).all()
    assert (high - low).max() > 0.05
    for end in rule.weight_interval(whole):
        torch.testing.assert_close(end, truth)


def test_the_weight_interval_is_attained_and_no_wider_than_the_constant_says() -> None:
    rule = EntropySoftmax(beta=3.0)
    evidence, _ = stored_evidence()
    low, high = rule.weight_interval(evidence)
    ends = evidence.statistics.entropy_low, evidence.statistics.entropy
    for k in range(3):
        for found, own, others in ((low, 1, 0), (high, 0, 1)):
            entropies = torch.stack([ends[own if j == k else others][j] for j in range(3)])
            statistics = replace(evidence.statistics, entropy=entropies)
            torch.testing.assert_close(rule(replace(evidence, statistics=statistics)).exp()[k], found[k])
    widest = (ends[1] - ends[0]).amax(0)
    assert (high - low <= 3.0 / (2 * math.log(12)) * widest + 1e-12).all()


def test_the_interval_of_inverse_variances(random_evidence) -> None:
    rule = InverseVariance(exponent=1.5, epsilon=0.05)
    logits = 2 * torch.randn(3, 50, 9, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    full = [Dense.from_logits(one) for one in logits]
    ends = [gini_interval(TopK.from_logprobs(one.logprobs, k=2)) for one in full]
    low, high = rule.interval(*(torch.stack(side) for side in zip(*ends, strict=True)))
    gini = torch.stack([measure(one).gini for one in full])
    truth = (gini + 0.05) ** -1.5 / ((gini + 0.05) ** -1.5).sum(0)
    assert (low <= truth + 1e-12).all()
    assert (truth <= high + 1e-12).all()
    for end in rule.interval(gini, gini):
        torch.testing.assert_close(end, truth)


def test_the_golden_interval_as_weights(golden) -> None:
    head = torch.tensor([0.5, 0.2, 0.1], dtype=DOUBLE)
    one = TopK(torch.arange(3), head.log(), torch.tensor(0.2, dtype=DOUBLE).log(), n_entries=10)
    ends = torch.stack(entropy_interval(one)).unsqueeze(1).expand(2, 2)
    low, high = EntropySoftmax(beta=1.0).interval(*ends, n_entries=10)
    least, most = golden("F49")["expected"]
    expected = 1 / (1 + math.exp((most - least) / math.log(10)))
    assert low.tolist() == pytest.approx([expected] * 2)
    assert high.tolist() == pytest.approx([1 - expected] * 2)


def draws(p, n, repeats, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.multinomial(p, n * repeats, replacement=True, generator=generator)
    return p.log()[ids].reshape(n, repeats)


def test_sampled_weights_and_their_errors() -> None:
    rule, n_entries, n, repeats = EntropySoftmax(beta=4.0), 40, 400, 1000
    teachers = [
        (s * torch.randn(40, generator=torch.Generator().manual_seed(9), dtype=DOUBLE)).softmax(0) for s in (1, 2, 3)
    ]
    reads = torch.stack([draws(p, n, repeats, seed) for seed, p in enumerate(teachers)], dim=1)
    found = rule.sampled(entropy_from_samples(reads), n_entries=n_entries, confidence=0.9)
    entropies = torch.stack([measure(Dense.from_probs(p)).entropy for p in teachers])
    truth = (-4.0 / math.log(40) * entropies).softmax(0).unsqueeze(1)
    weights = found.log_weights.exp()
    torch.testing.assert_close(weights.sum(0), torch.ones(repeats, dtype=DOUBLE))
    torch.testing.assert_close(weights.std(1), found.standard_error.mean(1), rtol=0.06, atol=0)
    inside = ((weights - truth).abs() <= 1.96 * found.standard_error).double().mean(1)
    assert (inside > 0.92).all()
    assert ((found.low <= truth) & (truth <= found.high)).all(0).double().mean() >= 0.9
    assert (found.low <= weights).all()
    assert (weights <= found.high).all()
    assert float(found.low.min()) >= rule.declared(3).lowest - 1e-12


def test_the_guaranteed_weights_are_chebyshevs_at_a_kth_of_the_risk() -> None:
    reads = torch.full((5000, 2, 1), -2.0, dtype=DOUBLE)
    found = EntropySoftmax(beta=1.0).sampled(entropy_from_samples(reads), n_entries=1000, confidence=0.9)
    reach = math.sqrt(max_varentropy(1000) / (5000 * 0.05))
    expected = 1 / (1 + math.exp(2 * reach / math.log(1000)))
    assert found.low.flatten().tolist() == pytest.approx([expected] * 2)
    assert found.standard_error.flatten().tolist() == [0.0, 0.0]
    one = EntropySoftmax().sampled(entropy_from_samples(reads[:1]), n_entries=1000)
    assert one.standard_error.flatten().tolist() == [math.inf] * 2
    assert one.high.isfinite().all()
