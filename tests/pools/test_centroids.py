import mpmath
import pytest
import torch
from scipy.optimize import minimize

from mashbill import numerics, pools

DOUBLE = torch.float64
EVEN = torch.tensor([0.5, 0.5], dtype=DOUBLE).log()
UNANIMOUS = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.3, 0.1]], dtype=DOUBLE).log()
POTENTIALS = {
    "negentropy": lambda p: (p * p.log()).sum(-1),
    "itakura_saito": lambda p: -p.log().sum(-1),
    "euclid": lambda p: p.square().sum(-1) / 2,
}


def random_problem(n_teachers, n_cases, n_entries, *, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n_teachers, n_cases, n_entries, generator=generator, dtype=DOUBLE)
    return logits.log_softmax(-1), torch.randn(n_teachers, n_cases, generator=generator, dtype=DOUBLE).log_softmax(0)


def left(logprobs, log_weights, **options):
    return pools.bregman(logprobs, log_weights, divergence="itakura_saito", side="left", **options)


def test_unanimity_of_the_left_itakura_saito_centroid() -> None:
    assert left(UNANIMOUS, EVEN).exp().tolist() == pytest.approx([0.689897949, 0.155051026, 0.155051026], abs=1e-9)


def test_the_left_itakura_saito_centroid_of_two_teachers_by_hand() -> None:
    """``1/q = (1.875, 4.761905, 12) + multiplier``; the multiplier from bisection of their sum."""
    teachers = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE)
    a = (0.5 / teachers).sum(0).tolist()
    low, high = -min(a), 3.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(1 / (x + middle) for x in a) > 1 else (low, middle)
    assert left(teachers.log(), EVEN).exp().tolist() == pytest.approx([1 / (x + low) for x in a], abs=1e-12)


@pytest.mark.parametrize(
    ("divergence", "side", "same"),
    [
        ("negentropy", "left", pools.log_linear),
        ("euclid", "left", pools.linear),
        *((divergence, "right", pools.linear) for divergence in POTENTIALS),
    ],
)
def test_centroids_that_are_other_pools(divergence, side, same) -> None:
    logprobs, log_weights = random_problem(3, 50, 4)
    found = pools.bregman(logprobs, log_weights, divergence=divergence, side=side)
    assert torch.equal(found, same(logprobs, log_weights))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("divergence", POTENTIALS)
def test_no_distribution_is_nearer_to_the_teachers(divergence, side) -> None:
    """Written from the potential alone: what is minimised is the definition, not the pool's formula."""
    phi = POTENTIALS[divergence]

    def bregman_divergence(p, q):
        slope = torch.func.grad(lambda x: phi(x).sum())(q)
        return phi(p) - phi(q) - (slope * (p - q)).sum(-1)

    logprobs, log_weights = random_problem(3, 3, 4, spread=1.0)
    found = pools.bregman(logprobs, log_weights, divergence=divergence, side=side)
    for case in range(3):
        teachers, weights = logprobs[:, case].exp(), log_weights[:, case].exp()

        def total(z, teachers=teachers, weights=weights):
            q = z.softmax(-1).expand_as(teachers)
            each = bregman_divergence(q, teachers) if side == "left" else bregman_divergence(teachers, q)
            return (weights * each).sum()

        # From elsewhere scipy comes back to the pool, and at the pool the gradient on the simplex is 0.
        def value_and_slope(z, total=total):
            slope, value = torch.func.grad_and_value(total)(torch.tensor(z, dtype=DOUBLE))
            return float(value), slope.numpy()

        best = minimize(value_and_slope, [0.3, -0.2, 0.1, 0.0], jac=True, method="BFGS", options={"gtol": 1e-10})
        assert torch.tensor(best.x).softmax(-1).tolist() == pytest.approx(found[case].exp().tolist(), abs=1e-8)
        assert float(torch.func.grad(total)(found[case]).abs().max()) < 1e-13


@pytest.mark.parametrize("spread", [0.01, 2.0, 30.0, 300.0])
def test_the_multiplier_is_solved_to_machine_precision(spread) -> None:
    """One teacher that is not normalised makes ``1/p`` the exact input; its root is found in 400 digits."""
    logprobs = -spread * torch.rand(1, 8, 7, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    found = left(logprobs, torch.zeros(1, 8, dtype=DOUBLE))
    with mpmath.workdps(400):
        for row, q in zip(logprobs[0].tolist(), found.tolist(), strict=True):
            a = [mpmath.exp(-mpmath.mpf(x)) for x in row]
            low, high = mpmath.mpf(1), mpmath.mpf(len(a))
            for _ in range(600):
                middle = (low + high) / 2
                is_below = sum(1 / (middle + x - min(a)) for x in a) > 1
                low, high = (middle, high) if is_below else (low, middle)
            exact = [float(-mpmath.log(low + x - min(a))) for x in a]
            assert q == pytest.approx(exact, rel=1e-13, abs=4e-13)


@pytest.mark.parametrize("n_entries", [1, 2, 7, 1000, 20_000])
def test_stationarity_over_many_scales(n_entries) -> None:
    """``1/q = sum_k w_k/p_k + multiplier`` with one multiplier for all entries, from 10 to 20 orders of magnitude."""
    generator = torch.Generator().manual_seed(3)
    exponent = 45 * torch.rand(2, 20, n_entries, generator=generator, dtype=DOUBLE)
    teachers = torch.stack([(-exponent[0]).log_softmax(-1), (-exponent[1] / 100).log_softmax(-1)])
    log_weights = torch.tensor([[0.3], [0.7]], dtype=DOUBLE).log().expand(2, 20)
    q = left(teachers, log_weights).exp()
    a = (log_weights.exp().unsqueeze(-1) / teachers.exp()).sum(0)
    multiplier = (1 / q - a).gather(-1, q.argmax(-1, keepdim=True))
    torch.testing.assert_close(q * (a + multiplier), torch.ones_like(q), rtol=0, atol=1e-9)
    torch.testing.assert_close(q.sum(-1), torch.ones(20, dtype=DOUBLE), rtol=0, atol=1e-13)


def test_gradients_once_and_twice() -> None:
    logprobs, log_weights = random_problem(3, 4, 5)
    leaves = (logprobs.requires_grad_(), log_weights.requires_grad_())
    assert torch.autograd.gradcheck(left, leaves)
    assert torch.autograd.gradgradcheck(left, leaves)


def test_an_entry_vetoed_by_some_is_gone_where_others_are_not() -> None:
    logprobs = numerics.log_of(torch.tensor([[0.0, 0.5, 0.5], [0.2, 0.3, 0.5]], dtype=DOUBLE))
    alone = left(logprobs[:, 1:], EVEN)
    assert left(logprobs, EVEN).tolist() == pytest.approx([numerics.LOG_ZERO, *alone.tolist()], abs=1e-12)


@pytest.mark.parametrize("weight", [0.5, 0.6])
def test_disjoint_teachers_are_the_limit_of_small_probabilities(weight) -> None:
    log_weights = torch.tensor([weight, 1 - weight], dtype=DOUBLE).log()
    sharp = torch.tensor([[0.0, 0.4, 0.6], [1.0, 0.0, 0.0]], dtype=DOUBLE)
    limit = left(numerics.log_of(sharp), log_weights)
    tiny = 1e-10
    near = torch.where(sharp > 0, sharp, tiny).log()
    assert limit.exp().tolist() == pytest.approx(left(near, log_weights).exp().tolist(), abs=1e-5)


def test_gradients_are_finite_where_one_teacher_all_but_vetoes_everything() -> None:
    logprobs = torch.tensor([[-9999.0, -9998.0, 0.0], [0.0, -9000.0, -9999.5]]).requires_grad_()
    left(logprobs, EVEN.float()).sum().backward()
    assert logprobs.grad is not None
    assert bool(logprobs.grad.isfinite().all())


def test_columns_that_stand_for_many_entries() -> None:
    logprobs, log_weights = random_problem(3, 20, 4)
    counts = torch.tensor([1, 5, 0, 2])
    compact = logprobs - (counts * logprobs.exp()).sum(-1, keepdim=True).log()
    spread = compact.repeat_interleave(counts, dim=-1)
    for pool in (pools.linear, pools.log_linear, pools.harmonic, left, lambda *a, **k: pools.power(*a, r=0.5, **k)):
        found = pool(compact, log_weights, log_counts=counts.double().log())
        torch.testing.assert_close(found.repeat_interleave(counts, dim=-1), pool(spread, log_weights))
