"""Steps that shrink: exact recursions, limits, conditions, and the bound for any strongly convex loss."""

import math

import pytest
import torch

from mashbill.guarantees import convergence


def test_golden_scaled_errors(golden) -> None:
    found = [
        1000 * convergence.mean_square(1000, first_step=step, curvature=1, noise_variance=1, start=1)
        for step in (0.1, 0.5, 0.75, 1, 2)
    ]
    assert found == pytest.approx(golden("F55")["expected"], rel=golden("F55")["tol"])


def test_the_recursion_is_what_descent_does() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.full((200_000,), 2.0, dtype=torch.float64)
    for t in range(20):
        noise = 0.7 * torch.randn(len(theta), generator=generator, dtype=torch.float64)
        theta = theta - 0.8 / (1.5 + t) * (0.9 * theta + noise)
    exact = convergence.mean_square(20, first_step=0.8, curvature=0.9, noise_variance=0.49, start=4, delay=1.5)
    assert float(theta.square().mean()) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("step", "curvature"), [(0.75, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 0.4)])
def test_the_constant_is_the_limit(step: float, curvature: float) -> None:
    n = 30_000
    scaled = n * convergence.mean_square(n, first_step=step, curvature=curvature, noise_variance=2, start=1)
    limit = convergence.asymptotic_constant(step, curvature=curvature, noise_variance=2)
    assert scaled == pytest.approx(limit, rel=0.02)


def test_the_constant_is_least_at_one_over_the_curvature() -> None:
    values = [convergence.asymptotic_constant(s, curvature=2, noise_variance=3) for s in (0.4, 0.49, 0.5, 0.51, 0.7)]
    assert min(values) == values[2] == pytest.approx(3 / 4)


@pytest.mark.parametrize(("step", "exponent"), [(0.1, 0.2), (0.3, 0.6), (0.45, 0.9)])
def test_slow_rates_have_the_exponent_stated(step: float, exponent: float) -> None:
    # Without noise the recursion is a product, whose slope in log-log is 2 mu eta_0 exactly in the limit.
    assert convergence.rate_exponent(step, 1.0) == pytest.approx(exponent)
    at = [convergence.mean_square(n, first_step=step, curvature=1, noise_variance=0, start=1) for n in (20_000, 40_000)]
    assert math.log2(at[0] / at[1]) == pytest.approx(exponent, abs=1e-3)


@pytest.mark.parametrize(
    ("step", "smoothness", "delay"), [(0.6, 100.5, 1), (0.6, 100.5, 20), (1, 7.3, 0.5), (0.1, 3, 1)]
)
def test_transient_growth_is_the_product(step: float, smoothness: float, delay: float) -> None:
    product, t = 1.0, 0
    while (factor := abs(1 - step * smoothness / (delay + t))) > 1:
        product, t = product * factor, t + 1
    assert convergence.transient_growth(step, smoothness=smoothness, delay=delay) == pytest.approx(product, rel=1e-9)


def test_the_paper_s_schedule_blows_up_and_a_delay_repairs_it() -> None:
    bad = convergence.step_condition(0.6, curvature=1, smoothness=100.5)
    assert (bad.is_fast, bad.is_stable, bad.can_both) == (True, False, False)
    assert bad.growth == pytest.approx(7.3e16, rel=0.01)
    good = convergence.step_condition(0.6, curvature=1, smoothness=100.5, delay=bad.delay_needed)
    assert (good.is_fast, good.is_stable, good.growth, good.can_both) == (True, True, 1.0, True)
    assert good.constant == pytest.approx(0.36 / 0.2)


def test_both_conditions_exclude_each_other_from_a_condition_number_of_four() -> None:
    for smoothness, possible in ((3.9, True), (4.0, False), (50.0, False)):
        steps = torch.linspace(0.01, 3, 300).tolist()
        found = [convergence.step_condition(s, curvature=1, smoothness=smoothness) for s in steps]
        assert any(one.is_fast and one.is_stable for one in found) == possible
        assert found[0].can_both == possible


def test_a_huge_reach_costs_no_time_and_overflows_to_infinity() -> None:
    assert convergence.transient_growth(1.0, smoothness=1e12) == math.inf


def test_the_bound_for_strongly_convex_losses_holds_on_quadratics() -> None:
    # Loss sum_i h_i theta_i^2 / 2 with noise of total variance .5, spread over both directions.
    for step, delay in ((1.5, 20.0), (3.0, 31.0), (1.1, 12.0)):
        for n in (0, 1, 10, 100, 1000):
            parts = [
                h / 2 * convergence.mean_square(n, first_step=step, curvature=h, noise_variance=v, start=s, delay=delay)
                for h, v, s in ((1.0, 0.2, 4.0), (10.0, 0.3, 1.0))
            ]
            bound = convergence.loss_bound(
                n, first_step=step, curvature=1, smoothness=10, noise_variance=0.5, start_gap=7.0, delay=delay
            )
            assert sum(parts) <= bound * (1 + 1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: convergence.asymptotic_constant(0.5, curvature=1, noise_variance=1),
            r"must exceed 1/\(2 curvature\) = 0.5",
        ),
        (lambda: convergence.rate_exponent(0.0, 1.0), "first_step=0.0 must be positive"),
        (lambda: convergence.step_condition(1.0, curvature=2, smoothness=1), "must be at least curvature"),
        (
            lambda: convergence.loss_bound(
                1, first_step=0.5, curvature=1, smoothness=2, noise_variance=1, start_gap=1, delay=9
            ),
            "must exceed 1/curvature = 1",
        ),
        (
            lambda: convergence.loss_bound(
                1, first_step=2, curvature=1, smoothness=2, noise_variance=1, start_gap=1, delay=1
            ),
            r"must be at least first_step \* smoothness = 4",
        ),
    ],
)
def test_conditions_that_fail_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
