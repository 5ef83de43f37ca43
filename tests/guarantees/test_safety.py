"""Safety: what dilutes it, what a mixture keeps, what a student may lose, and constrained targets against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mashbill.guarantees import safety


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_dilution(golden) -> None:
    assert safety.expected_safety(0.01, 0.0) == pytest.approx(golden("F82")["expected"], abs=golden("F82")["tol"])
    assert safety.expected_safety(1, 0.3) == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"critical_share=1\.5 must be a probability"):
        safety.expected_safety(1.5, 0.0)


def test_golden_concave_safety(golden) -> None:
    p, w = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    each = safety.brier_safety(p, torch.zeros(2, dtype=torch.long))
    found = [float(safety.brier_safety(w @ p, torch.tensor(0))), float(safety.mixture_floor(w, each))]
    assert found == pytest.approx(golden("F62")["expected"], abs=golden("F62")["tol"])


def test_golden_constrained_target(golden) -> None:
    target, inside = torch.tensor([0.3, 0.7], dtype=torch.float64), torch.tensor([True, False])
    found = safety.constrained_target(target, entries=inside, minimum=0.5)
    values = [float(found.probabilities[0]), float(found.multiplier), float(found.divergence)]
    assert values == pytest.approx(golden("F61")["expected"], abs=golden("F61")["tol"])


def test_a_mixture_keeps_the_mean_of_a_concave_measure_and_more_if_ordered() -> None:
    p, raw = torch.softmax(3 * draw(4, 20_000, 3), dim=-1), torch.softmax(draw(4, 20_000, seed=1), dim=0)
    labels = torch.zeros(20_000, dtype=torch.long)
    each = safety.brier_safety(p, labels.expand(4, -1))
    assert bool(
        (safety.brier_safety((raw.unsqueeze(-1) * p).sum(dim=0), labels) >= safety.mixture_floor(raw, each)).all()
    )
    ordered = torch.empty_like(raw).scatter_(0, each.argsort(dim=0), raw.sort(dim=0).values)
    assert bool((safety.mixture_floor(ordered, each) >= each.mean(dim=0) - 1e-12).all())


def test_measures_that_are_not_concave_lose_it() -> None:
    p = torch.tensor([0.9, 0.1], dtype=torch.float64)
    assert float(p.mean() ** 2) == pytest.approx(0.25)
    assert float((p**2).mean()) == pytest.approx(0.41)


def test_a_student_keeps_its_floor_under_attack() -> None:
    q, student = (torch.softmax(3 * draw(5_000, 3, seed=seed), dim=-1) for seed in (4, 5))
    labels = torch.zeros(5_000, dtype=torch.long)
    kl = (q * (q / student).log()).sum(dim=-1)
    for floor, distance, reached in zip(
        safety.brier_safety(q, labels).tolist(), kl.tolist(), safety.brier_safety(student, labels).tolist(), strict=True
    ):
        assert reached >= safety.student_floor(floor, lipschitz=2, kl=distance) - 1e-12


def test_the_constant_of_brier_safety_is_two_in_total_variation_and_not_less() -> None:
    p, q = (torch.softmax(4 * draw(50_000, 3, seed=seed), dim=-1) for seed in (6, 7))
    labels = torch.zeros(50_000, dtype=torch.long)
    change = (safety.brier_safety(p, labels) - safety.brier_safety(q, labels)).abs()
    assert bool((change <= (p - q).abs().sum(dim=-1) + 1e-12).all())  # 2 TV
    near = torch.tensor([[0.0, 1.0], [1e-6, 1 - 1e-6]], dtype=torch.float64)
    at = safety.brier_safety(near, torch.zeros(2, dtype=torch.long))
    assert float(at[1] - at[0]) / 1e-6 == pytest.approx(2, abs=1e-5)


def test_shift_multiplies_by_the_largest_ratio_of_shares() -> None:
    trained, deployed = torch.tensor([0.95, 0.05]), torch.tensor([0.4, 0.6])
    assert safety.shift_factor(trained, deployed) == pytest.approx(12)
    assert safety.shift_factor(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])) == math.inf
    assert safety.shift_factor(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])) == pytest.approx(2)
    losses = draw(1_000, 2).abs()
    ratio = (losses @ deployed.double()) / (losses @ trained.double())
    assert float(ratio.max()) <= 12 + 1e-6


def test_unsafe_mass_of_a_mixture_keeps_its_bound_and_reaches_it() -> None:
    masses, raw = torch.rand(4, 20_000, generator=torch.Generator().manual_seed(0)).double(), draw(4, 20_000)
    w = torch.softmax(raw, dim=0)
    w = (w * 0.4 / w.amax(dim=0)).clamp_max(0.4)
    w = w + (1 - w.sum(dim=0)) / 4
    keep = w.amax(dim=0) <= 0.5
    bound = safety.unsafe_mass_bound(masses, w_max=0.5)
    assert bool(((w * masses).sum(dim=0)[keep] <= bound[keep] + 1e-12).all())
    assert int(keep.sum()) > 1_000
    worst = torch.tensor([0.9, 0.5, 0.5], dtype=torch.float64)
    assert float(safety.unsafe_mass_bound(worst, w_max=0.6)) == pytest.approx(0.6 * 0.9 + 0.4 * 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_constrained_targets_are_those_of_a_solver(seed: int) -> None:
    target = torch.softmax(draw(5, seed=seed), dim=-1)
    inside = torch.tensor([True, False, True, False, False])
    minimum = 0.6
    found = safety.constrained_target(target, entries=inside, minimum=minimum)
    t, mask = target.numpy(), inside.numpy()
    solved = minimize(
        lambda p: -float((t * np.log(p)).sum()),
        t,
        bounds=[(1e-9, 1)] * 5,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "ineq", "fun": lambda p: p[mask].sum() - minimum},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.probabilities.tolist() == pytest.approx(solved.x.tolist(), abs=1e-5)
    assert float(found.probabilities.sum()) == pytest.approx(1)
    # The multiplier is the price of a little more required mass.
    more = safety.constrained_target(target, entries=inside, minimum=minimum + 1e-6)
    assert float(more.divergence - found.divergence) / 1e-6 == pytest.approx(float(found.multiplier), abs=1e-4)


def test_a_constraint_that_does_not_bind_changes_nothing() -> None:
    target = torch.tensor([0.7, 0.3], dtype=torch.float64)
    found = safety.constrained_target(target, entries=torch.tensor([True, False]), minimum=0.5)
    torch.testing.assert_close(found.probabilities, target)
    assert float(found.multiplier) == pytest.approx(0, abs=1e-12)
    assert float(found.divergence) == pytest.approx(0, abs=1e-12)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"minimum=1\.0 must be above 0 and below 1"):
        safety.constrained_target(torch.tensor([0.3, 0.7]), entries=torch.tensor([True, False]), minimum=1.0)
    with pytest.raises(ValueError, match=r"kl=-1\.0 must not be negative"):
        safety.student_floor(0.5, lipschitz=1, kl=-1.0)
