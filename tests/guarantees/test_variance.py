"""Noise of weighted gradients: exact values, attained bounds, and attacks on those that hold."""

import itertools

import pytest
import torch

from mashbill.guarantees import variance
from mashbill.weights import simplex


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(n: int, k: int, seed: int = 1) -> torch.Tensor:
    return torch.softmax(3 * random(n, k, seed=seed), dim=-1)


def test_golden_witness_against_the_lemma(golden) -> None:
    covariance = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    found = [
        float(variance.gradient_variance(torch.tensor(w, dtype=torch.float64), covariance))
        for w in ([0.5, 0.5], [0.6, 0.4])
    ]
    assert found == pytest.approx(golden("F54")["expected"], abs=golden("F54")["tol"])


def test_variance_of_a_sample_is_the_quadratic_form() -> None:
    gradients = random(50_000, 3) @ random(3, 3, seed=5)
    w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    sample = (gradients @ w).var(correction=0)
    assert float(variance.gradient_variance(w, torch.cov(gradients.T, correction=0))) == pytest.approx(float(sample))


def test_sd_bound_is_never_broken_and_is_attained_by_correlated_teachers() -> None:
    factor, w = random(20_000, 3, 3), weights(20_000, 3)
    covariance = factor @ factor.mT
    sds = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert bool((variance.gradient_variance(w, covariance).sqrt() <= variance.sd_bound(w, sds) + 1e-9).all())
    assert bool((variance.sd_bound(w, sds) <= sds.amax(dim=-1) + 1e-12).all())
    one = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    attained = variance.gradient_variance(w[0], torch.outer(one, one)).sqrt()
    assert float(attained) == pytest.approx(float(variance.sd_bound(w[0], one)))


def test_variance_factor_is_never_broken_and_is_attained() -> None:
    factor, w = random(20_000, 3, 3).abs(), weights(20_000, 3)
    covariance = factor @ factor.mT
    even = variance.gradient_variance(torch.full_like(w, 1 / 3), covariance)
    for row in range(0, 20_000, 97):
        limit = variance.variance_factor(3, float(w[row].max())) * float(even[row])
        assert float(variance.gradient_variance(w[row], covariance[row])) <= limit * (1 + 1e-12)
    alone = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    w = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    ratio = variance.gradient_variance(w, alone) / variance.gradient_variance(torch.full_like(w, 1 / 3), alone)
    assert float(ratio) == pytest.approx(variance.variance_factor(3, 0.7))


@pytest.mark.parametrize(
    ("k", "w_min", "w_max"), [(2, 0.2, 0.8), (3, 0.1, 0.6), (4, 0.05, 0.3), (5, 0.0, 1.0), (4, 0.25, 0.25), (1, 0, 1)]
)
def test_largest_deviation_is_that_of_the_vertices_and_no_point_exceeds_it(k: int, w_min: float, w_max: float) -> None:
    found = variance.largest_deviation(k, w_min=w_min, w_max=w_max)
    low, high = simplex.effective_bounds(k, w_min=w_min, w_max=w_max)
    corners = [
        (*ends, 1 - sum(ends))
        for ends in itertools.product((low, high), repeat=k - 1)
        if low - 1e-12 <= 1 - sum(ends) <= high + 1e-12
    ]
    assert found == pytest.approx(max(sum(abs(w - 1 / k) for w in corner) for corner in corners), abs=1e-12)
    inside = simplex.project_l2(random(2_000, k), w_min=w_min, w_max=w_max)
    assert float((inside - 1 / k).abs().sum(dim=-1).max()) <= found + 1e-12


def test_weights_that_vary_keep_their_bound_where_the_lemma_fails() -> None:
    # Constant teachers, weights that alternate: uniform variance 0.
    teachers = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    w = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=torch.float64)
    mixed = w @ teachers
    sd = mixed.var(dim=0, correction=0).sum().sqrt()
    assert float(sd**2) == pytest.approx(0.0512)
    spread = float((teachers - teachers.mean(dim=0)).norm(dim=-1).max())
    assert float(sd) <= variance.sd_bound_varying(0.0, spread, n_teachers=2, w_min=0.3, w_max=0.7) + 1e-12


def test_the_bound_of_varying_weights_survives_an_attack() -> None:
    for seed in range(200):
        gradients = random(64, 3, 2, seed=seed) * random(1, 3, 1, seed=seed + 1).exp()
        w = simplex.project_l2(2 * random(64, 3, seed=seed + 2), w_min=0.1, w_max=0.7)
        mean = gradients.mean(dim=1, keepdim=True)
        spread = float((gradients - mean).norm(dim=-1).amax(dim=-1).square().mean().sqrt())
        even = float(mean.squeeze(1).var(dim=0, correction=0).sum().sqrt())
        found = float((w.unsqueeze(-1) * gradients).sum(dim=1).var(dim=0, correction=0).sum().sqrt())
        assert found <= variance.sd_bound_varying(even, spread, n_teachers=3, w_min=0.1, w_max=0.7) + 1e-12


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        variance.sd_bound_varying(-1.0, 1.0, n_teachers=2, w_min=0.1, w_max=0.9)
    with pytest.raises(ValueError, match="too small for 3 teachers"):
        variance.variance_factor(3, 0.2)
