from functools import partial

import pytest
import torch

from mashbill import numerics, pools
from mashbill.distributions import TopK

DOUBLE = torch.float64
IMPOSSIBLE = numerics.LOG_ZERO
POOLS = {
    "linear": pools.linear,
    "log_linear": pools.log_linear,
    "harmonic": pools.harmonic,
    "power 1/2": partial(pools.power, r=0.5),
    "power 2": partial(pools.power, r=2.0),
    "power near 0": partial(pools.power, r=1e-3),
    "itakura_saito": partial(pools.bregman, divergence="itakura_saito", side="left"),
}


def random_logprobs(n_teachers=3, shape=(4, 5), n_entries=12, *, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n_teachers, *shape, n_entries, generator=generator, dtype=DOUBLE)
    weights = torch.randn(n_teachers, *shape, generator=generator, dtype=DOUBLE).log_softmax(0)
    return logits.log_softmax(-1), weights


def dense(teachers, log_weights, pool):
    return pool(torch.stack([teacher.densify() for teacher in teachers]), log_weights)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("ks", [(1, 1, 1), (3, 3, 3), (2, 5, 12), (12, 12, 12)])
def test_it_is_the_pool_of_the_densified_teachers(ks, pool) -> None:
    logprobs, log_weights = random_logprobs()
    teachers = [TopK.from_logprobs(one, k=k) for one, k in zip(logprobs, ks, strict=True)]
    found = pools.pool_topk(teachers, log_weights, pool=pool)
    torch.testing.assert_close(found.densify(), dense(teachers, log_weights, pool), rtol=1e-10, atol=1e-10)
    total = found.logprobs.exp().sum(-1) + found.log_tail.exp()
    torch.testing.assert_close(total, torch.ones(4, 5, dtype=DOUBLE))
    assert found.ids.shape[-1] == min(sum(ks), 12)
    assert found.n_entries == 12


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_gaps_repeated_ids_and_nothing_stored(pool) -> None:
    half = torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE).log()
    teachers = [
        TopK(torch.tensor([[-1, 3], [2, 0]]), torch.stack([half[[0, 0]], half[[1, 2]]]), half[[0, 0]], 6),
        TopK(
            torch.tensor([[3, -1], [-1, -1]]), torch.stack([half[[1, 2]], half[[1, 2]]]), (1 - half.exp()[1:]).log(), 6
        ),
    ]
    teachers[1] = TopK(teachers[1].ids, teachers[1].logprobs, torch.tensor([0.8, 1.0], dtype=DOUBLE).log(), 6)
    log_weights = torch.tensor([[0.3], [0.7]], dtype=DOUBLE).log()
    found = pools.pool_topk(teachers, log_weights, pool=pool)
    assert found.ids.tolist() == [[3, -1, -1, -1], [0, 2, -1, -1]]
    assert bool((found.logprobs[found.ids < 0] == IMPOSSIBLE).all())
    torch.testing.assert_close(found.densify(), dense(teachers, log_weights, pool), rtol=1e-10, atol=1e-10)


def test_teachers_that_store_nothing_and_teachers_without_a_slot() -> None:
    empty = TopK(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0), torch.zeros(2), 5)
    found = pools.pool_topk([empty, empty], torch.tensor([[0.5], [0.5]]).log())
    assert found.ids.shape == (2, 0)
    assert found.log_tail.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    one = TopK.from_logprobs(random_logprobs(1, (2,), 5)[0][0], k=2)
    mixed = pools.pool_topk([empty, one], torch.tensor([[0.5], [0.5]]).log())
    torch.testing.assert_close(mixed.densify().exp(), (one.densify().exp().float() + 0.2) / 2)


def test_disjoint_supports_without_tails() -> None:
    """The linear pool takes both; the geometric one keeps what is vetoed with the least weight, as with dense ones."""
    zero = torch.tensor(IMPOSSIBLE, dtype=DOUBLE)
    one = TopK(torch.tensor([0]), torch.zeros(1, dtype=DOUBLE), zero, 4)
    other = TopK(torch.tensor([2]), torch.zeros(1, dtype=DOUBLE), zero, 4)
    uneven, even = (torch.tensor(w, dtype=DOUBLE).log() for w in ([0.6, 0.4], [0.5, 0.5]))
    expected = {
        "linear": ([0.6, 0, 0.4, 0], [0.5, 0, 0.5, 0]),
        "log_linear": ([1, 0, 0, 0], [0.5, 0, 0.5, 0]),
        "itakura_saito": ([1, 0, 0, 0], [0.5, 0, 0.5, 0]),
        # Vetoed with weights .4, 1, .6, 1: shares are in proportion to their inverses.
        "harmonic": ([15 / 37, 6 / 37, 10 / 37, 6 / 37], [1 / 3, 1 / 6, 1 / 3, 1 / 6]),
    }
    for name, rows in expected.items():
        for log_weights, row in zip((uneven, even), rows, strict=True):
            found = pools.pool_topk([one, other], log_weights, pool=POOLS[name])
            assert found.densify().exp().tolist() == pytest.approx(row, abs=1e-9), name
    off = numerics.log_of(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    for pool in POOLS.values():  # 0^0 = 1: a teacher without weight vetoes nothing
        assert pools.pool_topk([one, other], off, pool=pool).densify().exp().tolist() == pytest.approx([0, 0, 1, 0])


def test_what_the_even_tail_costs_a_mixture() -> None:
    logprobs, log_weights = random_logprobs(3, (200,), 40)
    teachers = [TopK.from_logprobs(one, k=6) for one in logprobs]
    found = pools.pool_topk(teachers, log_weights).densify().exp()
    exact = pools.linear(logprobs, log_weights).exp()
    tails = torch.stack([teacher.log_tail.exp() for teacher in teachers])
    variation = (found - exact).abs().sum(-1) / 2
    assert bool((variation <= (log_weights.exp() * tails).sum(0) * (1 - 1 / 34) + 1e-12).all())
    stored = torch.stack([torch.zeros_like(exact).scatter(-1, teacher.ids, 1.0) for teacher in teachers])
    by_entry = (log_weights.exp().unsqueeze(-1) * (1 - stored) * tails.unsqueeze(-1)).sum(0)
    assert bool(((found - exact).abs() <= by_entry + 1e-12).all())
    everywhere = stored.bool().all(0)
    assert bool(everywhere.any())
    torch.testing.assert_close(found[everywhere], exact[everywhere])


def test_the_geometric_pool_has_no_such_bound() -> None:
    """One in a million in a tail, really on another entry, decides where the pool goes."""
    tail = 1e-6
    truth = numerics.log_of(torch.tensor([[1 - tail, 0, 0, tail], [0, 0.5, 0.5 - tail, tail]], dtype=DOUBLE))
    even = torch.tensor([0.5, 0.5], dtype=DOUBLE).log()
    stored = [TopK.from_logprobs(truth[0], k=1), TopK.from_logprobs(truth[1], k=2)]
    found = pools.pool_topk(stored, even, pool="log_linear").densify().exp()
    assert float((found - pools.log_linear(truth, even).exp()).abs().sum() / 2) > 0.99


def test_a_gradient_reaches_teachers_and_weights() -> None:
    logprobs, log_weights = random_logprobs(2, (2,), 6)
    each = [TopK.from_logprobs(one, k=2) for one in logprobs]

    def pooled(stored, tails, log_weights, pool):
        teachers = [TopK(old.ids, s, t, 6) for old, s, t in zip(each, stored, tails, strict=True)]
        found = pools.pool_topk(teachers, log_weights, pool=pool)
        return torch.where(found.ids >= 0, found.logprobs, 0), found.log_tail

    stored = torch.stack([one.logprobs for one in each]).requires_grad_()
    tails = torch.stack([one.log_tail for one in each]).requires_grad_()
    for pool in POOLS.values():
        assert torch.autograd.gradcheck(
            lambda s, t, w, pool=pool: pooled(s, t, w, pool), (stored, tails, log_weights.requires_grad_())
        )


def test_single_precision_and_names() -> None:
    logprobs, log_weights = random_logprobs()
    double = [TopK.from_logprobs(one, k=4) for one in logprobs]
    single = [TopK.from_logprobs(one.float(), k=4) for one in logprobs]
    for name in ("linear", "log_linear", "harmonic"):
        found = pools.pool_topk(single, log_weights.float(), pool=name)
        assert found.logprobs.dtype == torch.float32
        exact = pools.pool_topk(double, log_weights, pool=name)
        torch.testing.assert_close(found.densify().exp().double(), exact.densify().exp(), atol=1e-5, rtol=0)


def test_teachers_that_do_not_fit_are_named() -> None:
    one = TopK.from_logprobs(random_logprobs(1, (2,), 5)[0][0], k=2)
    other = TopK.from_logprobs(random_logprobs(1, (2,), 6)[0][0], k=2)
    weights = torch.tensor([[0.5], [0.5]], dtype=DOUBLE).log()
    with pytest.raises(ValueError, match=r"teachers\[1\] has shape \(2,\) over 6 entries, but teachers\[0\] has"):
        pools.pool_topk([one, other], weights)
    with pytest.raises(ValueError, match="teachers has 1 entries, but log_weights has 2"):
        pools.pool_topk([one], weights)
