"""What each pool keeps and breaks, over 4,000 random cases: cells that are proved stay empty, the others do not."""

from functools import partial

import pytest
import torch

from mashbill import pools
from mashbill.distributions import soften

DOUBLE = torch.float64
APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE).log()
EVEN = torch.tensor([0.5, 0.5], dtype=DOUBLE).log()
POOLS = {
    "linear": pools.linear,
    "log_linear": pools.log_linear,
    "power 1/2": partial(pools.power, r=0.5),
    "power 2": partial(pools.power, r=2),
    "harmonic": pools.harmonic,
    "itakura_saito": partial(pools.bregman, divergence="itakura_saito", side="left"),
}
ROUNDING = 1e-9
N_CASES = 4000


def cases(*, seed=0, n_teachers=3, n_entries=4):
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n_teachers, N_CASES, n_entries, generator=generator, dtype=DOUBLE)
    weights = torch.randn(n_teachers, N_CASES, generator=generator, dtype=DOUBLE).softmax(0)
    return logits.log_softmax(-1), weights


def hull(pool):
    logprobs, weights = cases()
    return pools.hull_project(pool(logprobs, weights.log()), logprobs).lower


def box(pool):
    logprobs, weights = cases()
    return pools.range_excess(pool(logprobs, weights.log()), logprobs).amax(-1)


def monotone(pool):
    """Move a tenth of the second teacher's weight to the first; what the first thinks likelier must not fall."""
    logprobs, weights = cases()
    moved = weights.clone()
    moved[0] += 0.1 * weights[1]
    moved[1] *= 0.9
    fall = pool(logprobs, weights.log()) - pool(logprobs, moved.log())
    return torch.where(logprobs[0] >= logprobs[1], fall, 0).amax(-1)


def kl_monotone(pool):
    """Raise the first teacher's weight, the others in proportion: the pool must not move away from it."""
    logprobs, weights = cases()
    raised = torch.cat([weights[:1] + 0.1 * (1 - weights[:1]), 0.9 * weights[1:]])
    before, after = pool(logprobs, weights.log()), pool(logprobs, raised.log())
    return (logprobs[0].exp() * (before - after)).sum(-1)


def log_loss(pool):
    logprobs, weights = cases()
    return -pools.log_loss_gap(pool(logprobs, weights.log()), logprobs, weights.log()).amin(-1)


def best_teacher(pool):
    logprobs, weights = cases()
    return pools.best_teacher_regret(pool(logprobs, weights.log()), logprobs, weights.log()).amax(-1)


def unsafe(pool):
    logprobs, weights = cases()
    return pools.excess_mass(pool(logprobs, weights.log()), logprobs, entries=torch.tensor([True, False, False, False]))


def softens(pool):
    logprobs, weights = cases()
    softened = soften.power(pool(logprobs, weights.log()), temperature=2)
    return (softened - pool(soften.power(logprobs, temperature=2), weights.log())).abs().amax(-1)


def entropy(pool):
    """Entropy must not fall from one temperature to the next."""
    logprobs, weights = cases(n_teachers=2, n_entries=2)
    logprobs = 4 * logprobs
    each = []
    for temperature in (1, 1.5, 2, 3, 4):
        q = pool(soften.power(logprobs.log_softmax(-1), temperature=temperature), weights.log())
        each.append(-(q.exp() * q).sum(-1))
    return (torch.stack(each[:-1]) - torch.stack(each[1:])).amax(0)


# 0: proved. "tested": no break in these cases, and no proof. "breaks": some of the cases are a break.
TABLE = {
    #                 linear    log-linear  power 1/2  power 2    harmonic  Itakura-Saito
    hull: (0, "breaks", "breaks", "breaks", "breaks", "breaks"),
    box: (0, "breaks", "breaks", "breaks", "breaks", "breaks"),
    monotone: (0, "breaks", "breaks", "breaks", "breaks", "breaks"),
    kl_monotone: (0, 0, "tested", "tested", "tested", "tested"),
    log_loss: (0, 0, 0, "breaks", "breaks", "breaks"),
    best_teacher: (0, "breaks", "breaks", "breaks", "breaks", "breaks"),
    unsafe: (0, "breaks", "breaks", 0, "breaks", "breaks"),
    softens: ("breaks", 0, "breaks", "breaks", "breaks", "breaks"),
    entropy: ("breaks", 0, "breaks", "breaks", "breaks", "breaks"),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("promise", TABLE, ids=lambda promise: promise.__name__)
def test_what_is_kept_and_what_is_broken(promise, name) -> None:
    excess = promise(POOLS[name])
    n_broken = int((excess > ROUNDING).sum())
    assert excess.shape == (N_CASES,)
    if TABLE[promise][list(POOLS).index(name)] == "breaks":
        assert n_broken > 0
    else:
        assert n_broken == 0


def test_a_set_of_entries_in_the_linear_pool() -> None:
    logprobs, weights = cases()
    q = pools.linear(logprobs, weights.log())
    entries = torch.tensor([True, False, True, False])
    assert float(pools.excess_mass(q, logprobs, entries=entries).max()) <= 1e-12
    # With a cap on weights: the worst teacher counts at most w_max, the second worst for the rest.
    worst = logprobs.exp()[..., entries].sum(-1).sort(dim=0, descending=True).values
    cap = weights.amax(0)
    assert bool((q.exp()[..., entries].sum(-1) <= cap * worst[0] + (1 - cap) * worst[1] + 1e-12).all())


def test_log_loss_goldens(golden) -> None:
    by_token, (same,) = golden("F41")["expected"]
    found = pools.log_loss_gap(pools.linear(APPENDIX_A, EVEN), APPENDIX_A, EVEN)
    assert found.tolist() == pytest.approx(by_token, abs=golden("F41")["tol"])
    found = pools.log_loss_gap(pools.log_linear(APPENDIX_A, EVEN), APPENDIX_A, EVEN)
    assert found.tolist() == pytest.approx([same] * 3, abs=golden("F41")["tol"])


def test_unanimity_witnesses() -> None:
    teachers = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.3, 0.1]], dtype=DOUBLE).log()
    expected = (0.6, 0.633975, 0.639, 0.572949, 0.666667, 0.689898)
    for (name, pool), value in zip(POOLS.items(), expected, strict=True):
        if name != "power 1/2":
            q = pool(teachers, EVEN)
            assert float(q[0].exp()) == pytest.approx(value, abs=5e-7)
            assert float(pools.range_excess(q, teachers)[0]) == pytest.approx(abs(value - 0.6), abs=5e-7)


def test_monotonicity_witness() -> None:
    teachers = torch.tensor([[0.55, 0.44, 0.01], [0.5, 0.1, 0.4]], dtype=DOUBLE).log()
    found = [
        float(pools.log_linear(teachers, torch.tensor([w, 1 - w], dtype=DOUBLE).log())[0].exp()) for w in (0.5, 0.55)
    ]
    assert found == pytest.approx([0.657633, 0.654226], abs=5e-7)


def test_the_geometric_pool_jumps_where_a_vetoing_teacher_gets_weight() -> None:
    teachers = torch.tensor([[-1e4, 0.0], [-0.6931471805599453, -0.6931471805599453]], dtype=DOUBLE)
    off = torch.tensor([-1e4, 0.0], dtype=DOUBLE)
    assert pools.log_linear(teachers, off).exp().tolist() == pytest.approx([0.5, 0.5])
    assert pools.log_linear(teachers, torch.tensor([0.02, 0.98], dtype=DOUBLE).log()).exp().tolist() == pytest.approx(
        [0.0, 1.0]
    )


def test_no_geometric_pool_of_two_teachers_is_a_mixture_of_them() -> None:
    """The step of the impossibility: what commutes with softening leaves the hull, but for one teacher alone."""
    a = torch.linspace(0.01, 0.99, 197, dtype=DOUBLE)
    teachers = APPENDIX_A.unsqueeze(1).expand(2, 197, 3)
    q = pools.log_linear(teachers, torch.stack([a, 1 - a]).log())
    least = pools.hull_project(q, teachers).lower / torch.minimum(a, 1 - a)
    assert float(least.min()) == pytest.approx(0.0416, abs=5e-4)
    # With two values of the ratio the segments coincide, so a ratio of three values is needed.
    pair = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.4, 0.4]], dtype=DOUBLE).log().unsqueeze(1).expand(2, 197, 3)
    q = pools.log_linear(pair, torch.stack([a, 1 - a]).log())
    assert float(pools.hull_project(q, pair).distance.max()) < 1e-12
