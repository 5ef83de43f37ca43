"""Generations of students: equalities, contraction attacked, and simulations against the closed forms."""

import math

import pytest
import torch

from mashbill.guarantees import recursion

BASE = torch.tensor([0.6, 0.25, 0.15], dtype=torch.float64)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.where(p > 0, p * (p / q).log(), 0).sum(dim=-1)


def test_golden_anchored_recursion(golden) -> None:
    q = torch.tensor([0.05, 0.05, 0.9], dtype=torch.float64)
    found = [float(kl(BASE, q))]
    for _ in range(3):
        q = recursion.anchored(BASE, q, anchor=0.3)
        found.append(float(kl(BASE, q)))
    assert found == pytest.approx(golden("F57")["expected"], abs=golden("F57")["tol"])
    for n, value in enumerate(found):
        assert value <= recursion.kl_after(n, anchor=0.3, start=found[0]) + 1e-12


def test_golden_gini_without_anchor(golden) -> None:
    start = float(1 - BASE.square().sum())
    found = recursion.gini_after(60, n_samples=50, start=start)
    assert found == pytest.approx(golden("F59")["expected"], abs=golden("F59")["tol"])


def test_total_variation_contracts_exactly_and_both_divergences_at_least_as_fast() -> None:
    generator = torch.Generator().manual_seed(0)
    base, q = (torch.softmax(4 * torch.randn(20_000, 4, generator=generator).double(), dim=-1) for _ in range(2))
    anchor = 0.3
    after = recursion.anchored(base, q, anchor=anchor)
    tv = (base - q).abs().sum(dim=-1) / 2
    torch.testing.assert_close((base - after).abs().sum(dim=-1) / 2, (1 - anchor) * tv, rtol=1e-9, atol=1e-12)
    assert recursion.tv_after(3, anchor=anchor, start=1.0) == pytest.approx(0.343)
    assert bool((kl(base, after) <= (1 - anchor) * kl(base, q) + 1e-12).all())
    assert bool((kl(after, base) <= (1 - anchor) * kl(q, base) + 1e-12).all())


def test_a_geometric_anchor_contracts_one_divergence_and_not_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    base, q = (torch.softmax(4 * torch.randn(5_000, 4, generator=generator).double(), dim=-1) for _ in range(2))
    after = torch.log_softmax(0.3 * base.log() + 0.7 * q.log(), dim=-1).exp()
    assert bool((kl(base, after) <= 0.7 * kl(base, q) + 1e-12).all())
    assert int((kl(after, base) > 0.7 * kl(q, base) + 1e-12).sum()) > 100


def test_an_anchor_brings_lost_entries_back() -> None:
    lost = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    after = recursion.anchored(BASE, lost, anchor=0.3)
    assert float(kl(BASE, after)) <= recursion.kl_after(1, anchor=0.3, start=math.inf) == pytest.approx(-math.log(0.3))
    assert recursion.kl_after(0, anchor=0.3, start=2.0) == 2.0
    assert recursion.kl_after(5, anchor=1.0, start=math.inf) == 0.0


def test_near_the_base_the_rate_tends_to_the_square() -> None:
    q = BASE + 1e-4 * torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    ratio = float(kl(BASE, recursion.anchored(BASE, q, anchor=0.3)) / kl(BASE, q))
    assert ratio == pytest.approx(0.49, abs=1e-3)


def simulate(n_generations: int, n_samples: int, anchor: float, n_runs: int = 20_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    q = BASE.expand(n_runs, 3).clone()
    for _ in range(n_generations):
        counts = torch.zeros_like(q)
        drawn = torch.multinomial(q, n_samples, replacement=True, generator=generator)
        counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        q = anchor * BASE + (1 - anchor) * counts / n_samples
    return q


def test_sampled_students_lose_diversity_as_stated() -> None:
    q = simulate(10, 20, anchor=0.0)
    found = float((1 - q.square().sum(dim=-1)).mean())
    expected = recursion.gini_after(10, n_samples=20, start=float(1 - BASE.square().sum()))
    assert found == pytest.approx(expected, rel=0.01)


def test_sampled_students_with_an_anchor_stay_as_near_as_stated() -> None:
    q = simulate(25, 20, anchor=0.3)
    found = float((q - BASE).square().sum(dim=-1).mean())
    gini = float(1 - BASE.square().sum())
    assert found == pytest.approx(recursion.stationary_spread(anchor=0.3, n_samples=20, gini=gini), rel=0.02)


def test_a_steady_error_ends_where_stated() -> None:
    drift, q = 0.02 * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), BASE
    for _ in range(200):
        q = recursion.anchored(BASE, q, anchor=0.2) + drift
    tv = float((q - BASE).abs().sum() / 2)
    assert tv == pytest.approx(recursion.capacity_limit(0.02, anchor=0.2))


def test_summable_anchors_never_forget() -> None:
    assert recursion.memory(0.5**n for n in range(1, 60)) == pytest.approx(0.2887880951)
    assert recursion.memory([0.1] * 300) < 1e-13


@pytest.mark.parametrize("anchor", [0.0, 1.5, math.nan])
def test_impossible_anchors_are_refused(anchor: float) -> None:
    with pytest.raises(ValueError, match="must be above 0, at most 1"):
        recursion.capacity_limit(0.1, anchor=anchor)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="n_samples=0 must be at least 1"):
        recursion.gini_after(1, n_samples=0, start=0.5)
    with pytest.raises(ValueError, match="anchors=2 must be between 0 and 1"):
        recursion.memory([0.5, 2])
