import math

import numpy as np
import pytest
import torch
from weights.labelled import evidence_of, random_logprobs

from mashbill.numerics import LOG_ZERO
from mashbill.weights import product
from mashbill.weights.evidence import Evidence, WeightOperator
from mashbill.weights.sequential import Bayes, FixedShare

DOUBLE = torch.float64
RULES = [
    Bayes(),
    Bayes(temperature=3, prior={"t0": 0.2, "t1": 0.7, "t2": 0.1}),
    FixedShare(rate=0.05),
    FixedShare(rate=0.3, prior={"t0": 0.2, "t1": 0.7, "t2": 0.1}),
]


def step_by_step(rule: Bayes | FixedShare, label_logprob: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Log-weights by the definition, one position after the other, in log space and float64."""
    n_teachers, n_rows, n_positions = label_logprob.shape
    prior = np.full(n_teachers, 1 / n_teachers) if rule.prior is None else np.array(list(rule.prior.values()))
    found = np.zeros_like(label_logprob, dtype=np.float64)
    for b in range(n_rows):
        log_w = np.log(prior)
        for t in range(n_positions):
            found[:, b, t] = log_w
            if not counted[b, t]:
                continue
            temperature = rule.temperature if isinstance(rule, Bayes) else 1.0
            posterior = log_w + label_logprob[:, b, t].astype(np.float64) / temperature
            posterior = posterior - np.logaddexp.reduce(posterior)
            if isinstance(rule, FixedShare):
                keep = math.log1p(-rule.rate) if rule.rate < 1 else -np.inf
                posterior = np.logaddexp(keep + posterior, math.log(rule.rate / n_teachers))
            log_w = posterior
    return np.maximum(found, LOG_ZERO)


def assert_like_the_twin(rule, evidence: Evidence, *, rtol: float, atol: float) -> None:
    given = evidence.statistics.label_logprob
    counted = evidence.mask & ~given.isnan().any(dim=0)
    expected = step_by_step(rule, given.numpy(), counted.numpy())
    np.testing.assert_allclose(rule(evidence).double().numpy(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_weights_are_those_of_the_definition_step_by_step(rule, dtype) -> None:
    evidence = evidence_of(random_logprobs(3, 4, 60, dtype=dtype))
    assert rule(evidence).dtype == dtype
    assert_like_the_twin(
        rule, evidence, **({"rtol": 1e-12, "atol": 1e-12} if dtype == DOUBLE else {"rtol": 2e-6, "atol": 2e-6})
    )


@pytest.mark.parametrize("rule", RULES)
def test_positions_that_do_not_count_change_nothing(rule) -> None:
    values = random_logprobs(3, 5, 40, seed=1)
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(5, 40, generator=generator) < 0.6
    mask[3], mask[4] = False, True  # a row of padding, and one without any
    values[:, 1, 7] = torch.nan
    values[:, 0][:, ~mask[0]] = torch.nan
    evidence = evidence_of(values, mask=mask)
    log_weights = rule(evidence)
    assert bool(log_weights.isfinite().all())
    assert_like_the_twin(rule, evidence, rtol=1e-12, atol=1e-12)
    # The weights of a row are those of the row without its gaps, to the last bit.
    counted = mask[1] & ~values[0, 1].isnan()
    alone = rule(evidence_of(values[:, 1:2][:, :, counted]))
    assert torch.equal(log_weights[:, 1][:, counted], alone[:, 0])
    prior = rule(evidence_of(values[:, :1, :1]))[:, 0]
    assert torch.equal(log_weights[:, 3], prior.expand(3, 40))


@pytest.mark.parametrize("rule", RULES)
def test_a_label_unknown_to_one_teacher_is_no_evidence(rule) -> None:
    values = random_logprobs(3, 1, 9)
    values[1, 0, 4] = torch.nan
    log_weights = rule(evidence_of(values))
    assert bool(log_weights.isfinite().all())
    assert torch.equal(log_weights[..., 4], log_weights[..., 5])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("change", [-7.0, LOG_ZERO, math.nan])
def test_a_label_changes_no_weight_at_its_own_or_an_earlier_position(rule, change) -> None:
    values = random_logprobs(3, 3, 130, dtype=torch.float32)
    before = rule(evidence_of(values))
    for t in (0, 1, 50, 128):
        other = values.clone()
        other[0, :, t] = change
        after = rule(evidence_of(other))
        assert torch.equal(before[..., : t + 1], after[..., : t + 1])
        assert bool((before[..., t + 1] != after[..., t + 1]).any())


@pytest.mark.parametrize("rule", RULES)
def test_every_row_starts_again_and_knows_nothing_of_the_others(rule) -> None:
    values = random_logprobs(3, 4, 30)
    together = rule(evidence_of(values))
    prior = together[:, :1, :1]
    torch.testing.assert_close(together[:, :, :1], prior.expand(3, 4, 1), rtol=0, atol=0)
    alone = rule(evidence_of(values[:, 2:3]))
    torch.testing.assert_close(together[:, 2:3], alone, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rule", [Bayes(), FixedShare(rate=0.2)])
def test_one_teacher_has_all_the_weight(rule) -> None:
    assert rule(evidence_of(random_logprobs(1, 2, 5))).eq(0).all()
    assert (rule.declared(1).lowest, rule.declared(1).highest) == (1.0, 1.0)


@pytest.mark.parametrize("rule", [Bayes(), Bayes(temperature=20), FixedShare(rate=1e-9), FixedShare(rate=0.5)])
def test_sixty_four_teachers(rule) -> None:
    evidence = evidence_of(random_logprobs(64, 2, 150, spread=8.0))
    assert_like_the_twin(rule, evidence, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rate", [1.0, 0.5, 1e-3, 1e-12, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_no_evidence_is_too_extreme(rate, dtype) -> None:
    values = random_logprobs(3, 4, 400, seed=3, dtype=dtype)
    values[:, 0] = LOG_ZERO  # nobody knew anything
    values[:, 1, ::7] = LOG_ZERO
    values[0, 2, ::2], values[1, 2, 1::2], values[2, 2] = LOG_ZERO, LOG_ZERO, -500  # whoever is trusted is wrong next
    values[0, 3, :200], values[1:, 3, 200:] = LOG_ZERO, LOG_ZERO
    prior = {"t0": 1e-30, "t1": 0.5, "t2": 0.5}
    for rule in (FixedShare(rate=rate), FixedShare(rate=rate, prior=prior), Bayes(prior=prior)):
        evidence = evidence_of(values)
        assert bool(rule(evidence).isfinite().all())
        tolerance = 1e-9 if dtype == DOUBLE else 2e-6
        assert_like_the_twin(rule, evidence, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", [Bayes(), FixedShare(rate=0.01)])
def test_thousands_of_positions_lose_no_digits_in_float32(rule) -> None:
    # Every teacher loses about 80,000 nats; what separates them is a few.
    values = random_logprobs(4, 2, 8192, seed=4, spread=20.0, dtype=torch.float32)
    values[1:] = values[:1] + 1e-3 * random_logprobs(3, 2, 8192, seed=5, dtype=torch.float32)
    single, double = rule(evidence_of(values)), rule(evidence_of(values.double()))
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=2e-6)
    # A float32 sum is off by far more than that.
    naive = torch.log_softmax(values.cumsum(dim=-1)[..., :-1], dim=0)
    exact = torch.log_softmax(values.double().cumsum(dim=-1)[..., :-1], dim=0)
    assert float((naive - exact).abs().max()) > 1e-3


def test_in_float64_a_long_row_is_that_of_the_twin() -> None:
    for rule in (Bayes(temperature=2.0), FixedShare(rate=0.002)):
        assert_like_the_twin(rule, evidence_of(random_logprobs(2, 1, 9000, spread=12.0)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_gradients(rule) -> None:
    values = random_logprobs(3, 2, 7).requires_grad_()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 2], mask[1, 5:] = False, False

    def weights(label_logprob):
        return rule(evidence_of(label_logprob, mask=mask)).exp()

    assert torch.autograd.gradcheck(weights, (values,))
    assert torch.autograd.gradgradcheck(weights, (values,), atol=1e-4)
    with torch.no_grad():
        plain = weights(values)
    torch.testing.assert_close(weights(values), plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_missing_labels_do_not_poison_gradients(rule) -> None:
    values = random_logprobs(3, 2, 7)
    values[:, 0, 3] = torch.nan
    values.requires_grad_()
    (gradient,) = torch.autograd.grad(rule(evidence_of(values))[0].sum(), values)
    assert bool(gradient.isfinite().all())
    assert gradient[:, 0, 3].eq(0).all()


def test_without_shares_fixed_share_is_bayes() -> None:
    evidence = evidence_of(random_logprobs(3, 2, 50))
    torch.testing.assert_close(FixedShare(rate=1e-30)(evidence), Bayes()(evidence), rtol=1e-10, atol=1e-10)


def test_a_share_of_everything_is_uniform_after_the_prior() -> None:
    rule = FixedShare(rate=1, prior={"t0": 0.9, "t1": 0.1})
    weights = rule(evidence_of(random_logprobs(2, 1, 5))).exp()
    torch.testing.assert_close(weights[:, 0, 0], torch.tensor([0.9, 0.1], dtype=DOUBLE))
    torch.testing.assert_close(weights[..., 1:], torch.full((2, 1, 4), 0.5, dtype=DOUBLE))


def test_fixed_share_follows_a_change_of_domain_and_bayes_does_not() -> None:
    values = torch.full((2, 1, 400), -1.0, dtype=DOUBLE)
    values[1, :, :300] = -3.0
    values[0, :, 300:] = -3.0
    evidence = evidence_of(values)
    tracking, posterior = FixedShare(rate=0.01)(evidence).exp(), Bayes()(evidence).exp()
    assert tracking[1, 0, 310] > 0.99
    assert posterior[1, 0, 310] < 1e-100


@pytest.mark.parametrize(
    ("rule", "n_teachers"),
    [
        (FixedShare(rate=0.04), 4),
        (FixedShare(rate=0.9), 4),
        (FixedShare(rate=0.04, prior={"t0": 0.002, "t1": 0.998}), 2),
        (FixedShare(rate=0.5, prior={"t0": 0.001, "t1": 0.999}), 2),
    ],
)
def test_the_declared_range_holds_and_is_attained(rule, n_teachers) -> None:
    values = random_logprobs(n_teachers, 20, 40)
    values[:, 0], values[0, 0] = LOG_ZERO, 0.0
    weights, promise = rule(evidence_of(values)).exp(), rule.declared(n_teachers)
    assert float(weights.min()) == pytest.approx(promise.lowest, rel=1e-12)
    assert float(weights.max()) == pytest.approx(promise.highest, rel=1e-12)


@pytest.mark.parametrize("n_teachers", [2, 3, 6])
@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_fixed_share_keeps_its_lipschitz_constant(n_teachers, rate) -> None:
    rule = FixedShare(rate=rate)
    constant = rule.declared(n_teachers).lipschitz
    values = random_logprobs(n_teachers, 500, 60, seed=6, spread=1.0)
    signs = random_logprobs(n_teachers, 500, 60, seed=7).sign() * torch.where(values < -0.5, 1, -1)
    signs[:, :250] = torch.where(torch.arange(n_teachers) == 0, 1, -1)[:, None, None]
    for size in (1e-5, 0.1, 1.0):
        change = rule(evidence_of(values + size * signs)).exp() - rule(evidence_of(values)).exp()
        assert float(change.abs().max()) <= constant * size * (1 + 1e-6)


def test_the_lipschitz_constant_is_attained_by_two_teachers() -> None:
    rule = FixedShare(rate=0.2)
    values = torch.full((2, 1, 300), -1.0, dtype=DOUBLE)
    step = torch.tensor([1e-6, -1e-6], dtype=DOUBLE)[:, None, None]
    change = rule(evidence_of(values + step))[..., -1].exp() - rule(evidence_of(values))[..., -1].exp()
    assert float(change.abs().max()) / 1e-6 == pytest.approx(rule.declared(2).lipschitz, rel=1e-4)


def test_the_lipschitz_constant_of_bayes_is_in_cumulative_losses() -> None:
    rule = Bayes(temperature=4.0)
    values = torch.full((2, 1, 2), -1.0, dtype=DOUBLE)
    step = torch.tensor([1e-6, -1e-6], dtype=DOUBLE)[:, None, None]
    change = rule(evidence_of(values + step))[..., -1].exp() - rule(evidence_of(values))[..., -1].exp()
    promise = rule.declared(2)
    assert promise.metric == "cumulative label log-loss, sup"
    assert float(change.abs().max()) / 1e-6 == pytest.approx(promise.lipschitz, rel=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_they_are_token_rules_of_a_product(rule) -> None:
    assert isinstance(rule, WeightOperator)
    assert (rule.scale, rule.needs) == ("token", {"label_logprob"})
    evidence = evidence_of(random_logprobs(3, 2, 20))
    weights = product(token=rule, bounds=(0.1, 0.6))(evidence).exp()
    assert weights.shape == (3, 2, 20)
    assert float(weights.min()) >= 0.1 - 1e-9
    assert not rule.declared(3).reads_student
    assert not rule.declared(3).mixes_rows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bayes(temperature=0), r"temperature=0 must be finite and positive"),
        (lambda: Bayes(temperature=math.nan), r"temperature=nan"),
        (lambda: FixedShare(rate=0.0), r"rate=0.0 must be between 1e-30 and 1; for less use Bayes"),
        (lambda: FixedShare(rate=1.5), r"rate=1.5"),
        (lambda: FixedShare(rate=math.nan), r"rate=nan"),
        (lambda: Bayes(prior={"a": 1.0, "b": 0.0}), r"prior\['b'\]=0.0 must be at least 1e-30"),
        (lambda: FixedShare(prior={"a": 0.5, "b": 0.2}), r"prior=.* sum to 0.7"),
    ],
)
def test_options_out_of_range_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_prior_for_other_teachers_is_refused() -> None:
    with pytest.raises(ValueError, match="prior names teacher 'x', which does not exist"):
        Bayes(prior={"x": 0.5, "t1": 0.5})(evidence_of(random_logprobs(2, 1, 3)))
