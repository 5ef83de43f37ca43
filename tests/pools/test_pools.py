import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mashbill import numerics, pools
from mashbill.distributions import soften

DOUBLE = torch.float64
APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE)
EVEN = torch.tensor([0.5, 0.5], dtype=DOUBLE).log()
UNANIMOUS = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.3, 0.1]], dtype=DOUBLE)


def test_goldens(golden) -> None:
    logprobs = APPENDIX_A.log()
    for name, found in {
        "F36": pools.linear(logprobs, EVEN),
        "F37": pools.log_linear(logprobs, EVEN),
        "F38": pools.power(logprobs, EVEN, r=0.5),
        "F39": pools.power(logprobs, EVEN, r=-1.0),
    }.items():
        assert found.exp().tolist() == pytest.approx(golden(name)["expected"], abs=golden(name)["tol"])


def test_unanimity_golden(golden) -> None:
    logprobs = UNANIMOUS.log()
    found = [pools.log_linear(logprobs, EVEN), *(pools.power(logprobs, EVEN, r=r) for r in (-1.0, 2.0))]
    expected = golden("F42")["expected"]
    assert [float(pool[0].exp()) for pool in found] == pytest.approx(expected, abs=golden("F42")["tol"])
    assert float(pools.linear(logprobs, EVEN)[0].exp()) == pytest.approx(0.6)


def test_temperature_coherence_golden(golden) -> None:
    logprobs = APPENDIX_A.log()

    def softened(x):
        return soften.power(x, temperature=2.0)

    expected = golden("F44")["expected"]
    found = [
        softened(pools.linear(logprobs, EVEN)),
        pools.linear(softened(logprobs), EVEN),
        softened(pools.log_linear(logprobs, EVEN)),
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.exp().tolist() == pytest.approx(other, abs=golden("F44")["tol"])
    torch.testing.assert_close(pools.log_linear(softened(logprobs), EVEN), found[2])


def test_linear_pool_entropy_is_not_monotone_in_temperature_golden(golden) -> None:
    logprobs = torch.tensor([[1 - 1e-6, 1e-6], [0.1, 0.9]], dtype=DOUBLE).log()
    log_weights = torch.tensor([0.45, 0.55], dtype=DOUBLE).log()
    found = []
    for temperature in (1.0, 2.0, 4.0):
        q = pools.linear(soften.power(logprobs, temperature=temperature), log_weights)
        found.append(float(-(q.exp() * q).sum()))
    assert found == pytest.approx(golden("F45")["expected"], abs=golden("F45")["tol"])


def random_problem(n_teachers=3, n_cases=2000, n_entries=5, *, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n_teachers, n_cases, n_entries, generator=generator, dtype=DOUBLE)
    scores = torch.randn(n_teachers, n_cases, generator=generator, dtype=DOUBLE)
    return logits.log_softmax(-1).to(dtype), scores.log_softmax(0).to(dtype)


def left_itakura_saito(logprobs, log_weights):
    return pools.bregman(logprobs, log_weights, divergence="itakura_saito", side="left")


ALL = [
    pytest.param(pools.harmonic, id="harmonic"),
    pytest.param(left_itakura_saito, id="itakura_saito"),
    pytest.param(pools.linear, id="linear"),
    pytest.param(pools.log_linear, id="log_linear"),
    *(pytest.param(lambda p, w, r=r: pools.power(p, w, r=r), id=f"power {r}") for r in (-2, -1, 1e-3, 0.5, 2)),
]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("pool", ALL)
def test_pools_are_normalised_and_match_their_formula_in_both_precisions(pool, dtype) -> None:
    logprobs, log_weights = random_problem(dtype=dtype)
    q = pool(logprobs, log_weights)
    assert q.dtype == dtype
    assert q.shape == (2000, 5)
    torch.testing.assert_close(q.exp().sum(-1), torch.ones(2000, dtype=dtype))
    torch.testing.assert_close(q.to(DOUBLE), pool(*random_problem()), atol=2e-5 if dtype != DOUBLE else 1e-12, rtol=0)


@pytest.mark.parametrize("r", [-2.0, -1.0, 0.5, 2.0, 3.0])
def test_power_is_the_normalised_power_mean(r) -> None:
    logprobs, log_weights = random_problem()
    mean = (log_weights.exp().unsqueeze(-1) * logprobs.exp() ** r).sum(0) ** (1 / r)
    expected = mean / mean.sum(-1, keepdim=True)
    torch.testing.assert_close(pools.power(logprobs, log_weights, r=r).exp(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_power_meets_its_limits(dtype) -> None:
    logprobs, log_weights = random_problem(dtype=dtype)
    assert torch.equal(pools.power(logprobs, log_weights, r=1), pools.linear(logprobs, log_weights))
    assert torch.equal(pools.power(logprobs, log_weights, r=0), pools.log_linear(logprobs, log_weights))
    limit = pools.log_linear(logprobs, log_weights)
    for r in (1e-6, -1e-6):
        torch.testing.assert_close(pools.power(logprobs, log_weights, r=r), limit, atol=2e-5, rtol=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6))
def test_the_linear_pool_stays_in_the_hull_and_regrets_no_teacher(seed, n_teachers, n_entries) -> None:
    logprobs, log_weights = random_problem(n_teachers, 20, n_entries, seed=seed)
    q = pools.linear(logprobs, log_weights)
    assert bool((q <= logprobs.amax(0) + 1e-12).all())
    assert bool((q >= logprobs.amin(0) - 1e-12).all())
    assert bool((q >= logprobs + log_weights.unsqueeze(-1) - 1e-12).all())


def test_the_hull_is_not_a_property_of_the_geometric_pool() -> None:
    q = pools.log_linear(UNANIMOUS.log(), EVEN)
    assert float(q[0].exp()) > 0.6 + 1e-3


def test_powers_between_zero_and_one_keep_the_log_loss_and_others_do_not() -> None:
    logprobs, log_weights = random_problem()
    mean_loss = -(log_weights.exp().unsqueeze(-1) * logprobs).sum(0)
    for r, keeps in ((0, True), (0.3, True), (1, True), (2, False), (-1, False)):
        excess = float((-pools.power(logprobs, log_weights, r=r) - mean_loss).max())
        assert (excess <= 1e-12) is keeps


@pytest.mark.parametrize("pool", ALL)
def test_a_teacher_of_weight_one_is_the_pool_and_one_of_weight_zero_is_absent(pool) -> None:
    logprobs = numerics.log_of(torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], dtype=DOUBLE))
    off = numerics.log_of(torch.tensor([1.0, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(pool(logprobs, off).exp(), logprobs[0].exp(), atol=1e-9, rtol=0)


def test_what_a_zero_does() -> None:
    logprobs = numerics.log_of(torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]], dtype=DOUBLE))
    assert pools.linear(logprobs, EVEN).exp().tolist() == pytest.approx([0.25, 0.5, 0.25])
    for vetoing in (pools.log_linear(logprobs, EVEN), pools.power(logprobs, EVEN, r=-1)):
        assert vetoing.exp().tolist() == pytest.approx([0.0, 1.0, 0.0])
        assert float(vetoing.min()) >= numerics.LOG_ZERO
    both_zero = numerics.log_of(torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=DOUBLE))
    for r in (-1, 0, 0.5, 1, 2):
        assert pools.power(both_zero, EVEN, r=r).exp().tolist() == pytest.approx([0.0, 1.0])
        assert float(pools.power(both_zero, EVEN, r=r)[0]) >= numerics.LOG_ZERO


@pytest.mark.parametrize("pool", ALL)
def test_gradients_are_those_of_finite_differences(pool) -> None:
    logprobs, log_weights = random_problem(2, 3, 4)
    assert torch.autograd.gradcheck(pool, (logprobs.requires_grad_(), log_weights.requires_grad_()))


@pytest.mark.parametrize("pool", ALL)
def test_gradients_at_zeros_are_finite(pool) -> None:
    logprobs = numerics.log_of(torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])).requires_grad_()
    log_weights = numerics.log_of(torch.tensor([1.0, 0.0])).requires_grad_()
    pool(logprobs, log_weights).exp().square().sum().backward()
    for leaf in (logprobs, log_weights):
        assert leaf.grad is not None
        assert bool(leaf.grad.isfinite().all())


@pytest.mark.parametrize("pool", ALL)
def test_one_weight_a_row_serves_all_positions(pool) -> None:
    logprobs = random_problem(3, 12, 5)[0].reshape(3, 4, 3, 5)
    log_weights = random_problem(3, 4, 2, seed=1)[1].unsqueeze(-1)
    torch.testing.assert_close(pool(logprobs, log_weights), pool(logprobs, log_weights.expand(3, 4, 3).contiguous()))


@pytest.mark.parametrize("pool", ALL)
def test_half_precision_is_reduced_in_single(pool) -> None:
    logprobs, log_weights = random_problem(dtype=torch.bfloat16)
    q = pool(logprobs, log_weights)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.exp().sum(-1), torch.ones(2000), atol=0.05, rtol=0)


def test_an_infinite_power_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^r=inf must be finite"):
        pools.power(APPENDIX_A.log(), EVEN, r=math.inf)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (pools.bregman, {"divergence": "burg"}, "divergence='burg' must be 'negentropy', 'itakura_saito' or 'euclid'"),
        (pools.bregman, {"divergence": "euclid", "side": "middle"}, "side='middle' must be 'left' or 'right'"),
        (
            pools.pool_topk,
            {"pool": "median"},
            "pool='median' must be one of linear, log_linear, harmonic, or a function",
        ),
    ],
)
def test_unknown_names_are_refused(function, options, message) -> None:
    # Without the suite's type check, which a user does not have and which would speak first.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(function)(APPENDIX_A.log(), EVEN, **options)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="metric='cosine' must be 'l2' or 'kl'"):
        inspect.unwrap(pools.hull_project)(APPENDIX_A[0].log(), APPENDIX_A.log(), metric="cosine")


def test_a_divergence_without_a_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="divergence='total_variation' has no pool in closed form; there are forward_"):
        inspect.unwrap(pools.pool_for)("total_variation")
