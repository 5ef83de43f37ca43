"""The pooled target as a prediction, and how sensitive composed weights are."""

import math

import pytest
import torch

from mashbill import pools
from mashbill.guarantees import composition, targets
from mashbill.weights import simplex

TEACHERS = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_jensen_shannon(golden) -> None:
    found = float(targets.jensen_gap(TEACHERS.log(), torch.tensor([0.69, 0.31], dtype=torch.float64).log()))
    assert found == pytest.approx(golden("F51")["expected"], abs=golden("F51")["tol"])


def test_golden_log_loss_gaps(golden) -> None:
    even = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    linear = pools.log_loss_gap(pools.linear(TEACHERS.log(), even), TEACHERS.log(), even)
    geometric = pools.log_loss_gap(pools.log_linear(TEACHERS.log(), even), TEACHERS.log(), even)
    expected = golden("F41")["expected"]
    assert linear.tolist() == pytest.approx(expected[0], abs=golden("F41")["tol"])
    assert geometric.tolist() == pytest.approx(expected[1] * 3, abs=golden("F41")["tol"])


def test_the_gap_is_the_difference_of_two_losses_whoever_the_student_is() -> None:
    p, w = torch.log_softmax(draw(3, 50, 4), dim=-1), torch.log_softmax(draw(3, 50, seed=1), dim=0)
    gap, pooled = targets.jensen_gap(p, w), pools.linear(p, w)
    for seed in (2, 3):
        student = torch.log_softmax(draw(50, 4, seed=seed), dim=-1)
        each = (w.exp() * (p.exp() * (p - student)).sum(dim=-1)).sum(dim=0)
        whole = (pooled.exp() * (pooled - student)).sum(dim=-1)
        torch.testing.assert_close(each - whole, gap)
    assert bool((gap <= (w.exp() * -w).sum(dim=0) + 1e-12).all())
    assert bool((gap >= 0).all())


def test_the_gap_reaches_its_bound_where_teachers_exclude_each_other() -> None:
    apart = torch.eye(3, dtype=torch.float64).clamp_min(1e-300).log()
    w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert float(targets.jensen_gap(apart, w.log())) == pytest.approx(float(-(w * w.log()).sum()))


def test_regret_is_at_most_its_constant_and_reaches_it() -> None:
    p = torch.log_softmax(3 * draw(3, 5_000, 4), dim=-1)
    w = simplex.project_l2(draw(5_000, 3, seed=1), w_min=0.05, w_max=0.9).T
    pooled = pools.linear(p, w.log())
    regret = p.amax(dim=0) - pooled
    assert float(regret.max()) <= targets.regret_constant(0.05)
    alone = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).clamp_min(1e-300).log()
    pooled = pools.linear(alone, torch.tensor([0.05, 0.95], dtype=torch.float64).log())
    assert float(alone[0, 0] - pooled[0]) == pytest.approx(targets.regret_constant(0.05))
    assert targets.regret_constant(0) == math.inf
    with pytest.raises(ValueError, match="w_min=2 must be a probability"):
        targets.regret_constant(2)


def test_golden_guard_constant(golden) -> None:
    found = composition.guard_lipschitz("l2", 3, w_min=0.1, w_max=0.8)
    assert found == pytest.approx(golden("F83")["expected"], abs=golden("F83")["tol"])


@pytest.mark.parametrize("guard", ["l2", "squash"])
def test_guards_keep_their_constants(guard) -> None:
    project = {"l2": simplex.project_l2, "squash": simplex.squash}[guard]
    here = torch.softmax(2 * draw(20_000, 3), dim=-1)
    # For l2 the worst direction moves one free weight against the other two.
    there = here + 1e-3 * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    moved = (project(here, w_min=0.1, w_max=0.6) - project(there, w_min=0.1, w_max=0.6)).abs().amax(dim=-1)
    ratio = float((moved / (here - there).abs().amax(dim=-1)).max())
    constant = composition.guard_lipschitz(guard, 3, w_min=0.1, w_max=0.6)
    assert 0.9 * constant < ratio <= constant + 1e-9


def test_the_kl_guard_costs_nothing() -> None:
    assert composition.guard_lipschitz("kl", 5, w_min=0.1, w_max=0.6) == 1.0
    here, there = draw(20_000, 4), draw(20_000, 4, seed=1)
    each = [simplex.project_kl_log(scores, w_min=0.1, w_max=0.6).exp() for scores in (here, there)]
    ratio = (each[0] - each[1]).abs().amax(dim=-1) / (here - there).abs().amax(dim=-1)
    assert float(ratio.max()) <= 0.5


def test_composed_constant_by_hand_and_under_attack() -> None:
    assert composition.composed_lipschitz([1, 1, 1], w_min=[0.1] * 3) == pytest.approx(15)
    assert composition.composed_lipschitz([1, 2], w_min=[0.1, 0.2], temperatures=[2, 4]) == pytest.approx(3.75)
    # Each scale: weights in the box that move by at most 1 for a unit of input.
    start = simplex.project_l2(draw(3, 20_000, 3), w_min=0.1, w_max=0.8)
    end = simplex.project_l2(start + 1e-3 * draw(3, 20_000, 3, seed=1), w_min=0.1, w_max=0.8)
    step = (start - end).abs().amax(dim=-1).amax(dim=0)
    here, there = (torch.softmax(w.log().sum(dim=0), dim=-1) for w in (start, end))
    ratio = ((here - there).abs().amax(dim=-1) / step.clamp_min(1e-12)).nan_to_num()
    assert 3 < float(ratio.max()) <= 15


def test_impossible_compositions_are_refused() -> None:
    with pytest.raises(ValueError, match="need one number a scale"):
        composition.composed_lipschitz([1, 1], w_min=[0.1])
    with pytest.raises(ValueError, match="must be above 0"):
        composition.composed_lipschitz([1], w_min=[0])
