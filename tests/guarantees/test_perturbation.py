"""Noise in weights: exact shifts, attained bounds, and a refitted student against the implicit function theorem."""

import pytest
import torch

from mashbill.guarantees import perturbation

TEACHERS = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise_of(n: int, k: int, delta: float) -> torch.Tensor:
    raw = draw(k, n, seed=3)
    raw = raw - raw.mean(dim=0)
    return delta * raw / raw.abs().amax(dim=0)


def test_golden_shift(golden) -> None:
    noise = torch.tensor([0.05, -0.05], dtype=torch.float64)
    found = perturbation.target_shift(TEACHERS, torch.tensor([0.5, 0.5], dtype=torch.float64), noise)
    values = [float(found.kl), float(found.l1), float(found.bound)]
    assert values == pytest.approx(golden("F56")["expected"], abs=golden("F56")["tol"])


def test_diameter_by_hand_and_against_all_pairs() -> None:
    assert float(perturbation.tv_diameter(TEACHERS)) == pytest.approx(0.4)
    p = torch.softmax(draw(5, 7, 4), dim=-1)
    pairs = [(p[j] - p[k]).abs().sum(dim=-1) / 2 for j in range(5) for k in range(j)]
    assert torch.equal(perturbation.tv_diameter(p), torch.stack(pairs).amax(dim=0))


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_bounds_survive_an_attack(k: int) -> None:
    n, delta, low = 5_000, 0.03, 0.08
    p = torch.softmax(3 * draw(k, n, 4), dim=-1)
    room = low + delta
    weights = room + (1 - k * room) * torch.softmax(2 * draw(k, n, seed=2), dim=0)
    found = perturbation.target_shift(p, weights, noise_of(n, k, delta))
    diameter = perturbation.tv_diameter(p)
    assert bool((found.l1 <= found.bound + 1e-12).all())
    for row in range(0, n, 50):
        d = float(diameter[row])
        assert float(found.l1[row]) <= perturbation.shift_bound(delta, n_teachers=k, diameter=d) + 1e-12
        limit = perturbation.excess_loss_bound(delta, n_teachers=k, w_min=low, diameter=d)
        assert float(found.kl[row]) <= limit + 1e-12


@pytest.mark.parametrize(("k", "expected"), [(1, 0.0), (2, 0.2), (3, 0.2), (4, 0.4), (5, 0.4)])
def test_largest_noise_is_attained_and_not_exceeded(k: int, expected: float) -> None:
    assert perturbation.noise_l1(k, 0.1) == pytest.approx(expected)
    half = k // 2
    worst = torch.tensor([0.1] * half + [-0.1] * half + [0.0] * (k - 2 * half), dtype=torch.float64)
    assert float(worst.abs().sum()) == pytest.approx(expected)
    if k > 1:
        assert float(noise_of(5_000, k, 0.1).abs().sum(dim=0).max()) <= expected + 1e-12


def test_the_loss_is_quadratic_in_the_noise() -> None:
    w = torch.tensor([0.5, 0.5], dtype=torch.float64)
    kl = [
        float(perturbation.target_shift(TEACHERS, w, d * torch.tensor([1.0, -1.0], dtype=torch.float64)).kl)
        for d in (1e-2, 2e-2)
    ]
    assert kl[1] / kl[0] == pytest.approx(4, rel=0.01)


def fit(target: torch.Tensor, x: torch.Tensor, ridge: float) -> torch.Tensor:
    """Ridge-regularised linear softmax student, by Newton's method."""
    n, f, v = *x.shape, target.shape[-1]
    theta = torch.zeros(f * v, dtype=torch.float64)
    for _ in range(60):
        step = torch.linalg.solve(hessian_at(theta, x, v, ridge), gradient_at(theta, x, target, ridge))
        theta = theta - step
    assert n > 0
    return theta


def student(theta: torch.Tensor, x: torch.Tensor, v: int) -> torch.Tensor:
    return torch.softmax(x @ theta.reshape(-1, v), dim=-1)


def gradient_at(theta: torch.Tensor, x: torch.Tensor, target: torch.Tensor, ridge: float) -> torch.Tensor:
    p = student(theta, x, target.shape[-1])
    return (x.T @ (p - target) / len(x)).flatten() + ridge * theta


def hessian_at(theta: torch.Tensor, x: torch.Tensor, v: int, ridge: float) -> torch.Tensor:
    p = student(theta, x, v)
    block = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    full = torch.einsum("nf,ng,nuv->fugv", x, x, block).reshape(theta.numel(), theta.numel()) / len(x)
    return full + ridge * torch.eye(theta.numel(), dtype=torch.float64)


def test_the_best_student_moves_as_the_implicit_function_theorem_says_and_within_the_bound() -> None:
    n, v, ridge = 40, 3, 0.05
    x = torch.cat([draw(n, 2), torch.ones(n, 1, dtype=torch.float64)], dim=-1)
    p = torch.softmax(2 * draw(2, n, v, seed=7), dim=-1)
    w = torch.tensor([0.6, 0.4], dtype=torch.float64)
    theta = fit(torch.einsum("k,knv->nv", w, p), x, ridge)
    pulls = torch.stack(
        [(x.T @ one / n).flatten() for one in p], dim=-1
    )  # the student's own part cancels: noise sums to 0
    score = float((x.norm(dim=-1) * 2**0.5).max())  # |x| |e_v - p| <= sqrt(2) |x|
    diameter = float(perturbation.tv_diameter(p).max())
    for delta in (1e-4, 1e-2):
        noise = delta * torch.tensor([1.0, -1.0], dtype=torch.float64)
        moved = fit(torch.einsum("k,knv->nv", w + noise, p), x, ridge) - theta
        first_order = perturbation.parameter_shift(hessian_at(theta, x, v, ridge), pulls, noise)
        assert float((moved - first_order).norm() / moved.norm()) < 2 * delta
        limit = perturbation.parameter_shift_bound(delta, n_teachers=2, curvature=ridge, score=score, diameter=diameter)
        assert float(moved.norm()) <= limit


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="delta=-1 must not be negative"):
        perturbation.noise_l1(2, -1)
    with pytest.raises(ValueError, match=r"w_min=0\.0 must be above 0"):
        perturbation.excess_loss_bound(0.1, n_teachers=2, w_min=0.0)
    with pytest.raises(ValueError, match="curvature=0 must be positive"):
        perturbation.parameter_shift_bound(0.1, n_teachers=2, curvature=0, score=1)
