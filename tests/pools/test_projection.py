from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from mashbill import numerics, pools

DOUBLE = torch.float64
APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE).log()
WITNESS = torch.tensor([0.68, 0.29, 0.19], dtype=DOUBLE)
METRICS = ["l2", "kl"]
BOXES = [(0.0, 1.0), (0.1, 0.5)]


def random_problem(n_teachers=3, n_cases=40, n_entries=6, *, seed=0, spread=2.0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n_teachers + 1, n_cases, n_entries, generator=generator, dtype=DOUBLE)
    logprobs = logits.log_softmax(-1).to(dtype)
    return logprobs[0], logprobs[1:]


def test_the_witness_of_token_weights() -> None:
    """Distance .009753 from the hull, and a separating vector that proves it by a margin of 9.51e-5."""
    found = pools.hull_project((WITNESS / WITNESS.sum()).log(), APPENDIX_A)
    assert float(found.distance) == pytest.approx(0.009753, abs=5e-7)
    assert float(found.margin) == pytest.approx(9.51e-5, abs=5e-8)
    assert float(found.lower) == pytest.approx(float(found.distance), abs=1e-13)
    assert float(found.gap) < 1e-15


@pytest.mark.parametrize(("w_min", "w_max"), BOXES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_projection_is_what_scipy_finds(metric, w_min, w_max) -> None:
    target, teachers = random_problem(n_cases=8)
    found = pools.hull_project(target, teachers, metric=metric, w_min=w_min, w_max=w_max)
    for case in range(8):
        t, p = target[case].exp().numpy(), teachers[:, case].exp().numpy()

        def objective(w, t=t, p=p):
            x = w @ p
            return (t * np.log(t / x)).sum() if metric == "kl" else ((t - x) ** 2).sum() / 2

        def slope(w, t=t, p=p):
            x = w @ p
            return -p @ (t / x) if metric == "kl" else -p @ (t - x)

        best = minimize(
            objective,
            np.full(3, 1 / 3),
            jac=slope,
            method="SLSQP",
            bounds=[(w_min, w_max)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-15, "maxiter": 200},
        )
        ours = found.weights[:, case].numpy()
        assert objective(ours) <= best.fun + 1e-13
        assert ours == pytest.approx(best.x, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(("w_min", "w_max"), BOXES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_certificate_can_be_checked_by_somebody_else(metric, w_min, w_max, dtype) -> None:
    target, teachers = random_problem(n_cases=300, dtype=dtype)
    found = pools.hull_project(target, teachers, metric=metric, w_min=w_min, w_max=w_max)
    exact = 1e-9 if dtype == DOUBLE else 2e-5
    assert found.logprobs.dtype == found.weights.dtype == found.margin.dtype == dtype
    assert float((found.weights.sum(0) - 1).abs().max()) < exact
    assert float(found.weights.min()) >= w_min - exact
    assert float(found.weights.max()) <= w_max + exact
    mixture = torch.einsum("kn,knv->nv", found.weights, teachers.exp())
    torch.testing.assert_close(found.logprobs.exp(), mixture)
    assert float(found.gap.max()) < exact
    # The separator against mixtures at random: none may reach beyond what the margin says.
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(4000, 3, generator=generator, dtype=dtype).pow(4)
    weights = weights / weights.sum(-1, keepdim=True)
    weights = weights[(weights.amin(-1) >= w_min) & (weights.amax(-1) <= w_max)]
    assert len(weights) > 50
    reached = torch.einsum("mk,knv,nv->nm", weights, teachers.exp(), found.separator).amax(-1)
    height = (found.separator * target.exp()).sum(-1)
    assert bool((reached <= height - found.margin + exact * (1 + height)).all())
    objective = found.distance if metric == "kl" else found.distance.square() / 2
    certain = found.lower if metric == "kl" else found.lower.square() / 2
    assert bool((certain <= objective + exact).all())
    assert float((objective - certain).max()) < exact


@pytest.mark.parametrize("metric", METRICS)
def test_a_mixture_is_its_own_projection_and_nothing_separates_it(metric) -> None:
    _, teachers = random_problem(n_cases=100)
    weights = torch.rand(3, 100, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    weights = weights / weights.sum(0)
    target = pools.linear(teachers, weights.log())
    found = pools.hull_project(target, teachers, metric=metric)
    assert float(found.distance.max()) < (1e-14 if metric == "l2" else 1e-9)
    assert float(found.margin.max()) < 1e-9
    torch.testing.assert_close(found.logprobs.exp(), target.exp(), atol=1e-5 if metric == "kl" else 1e-13, rtol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_separation_is_found_wherever_the_target_is_outside(metric) -> None:
    target, teachers = random_problem(n_cases=300)
    found = pools.hull_project(target, teachers, metric=metric)
    assert bool((found.margin > 1e-6).all())
    assert bool((found.lower > 0).all())


def test_the_stopping_certificate_of_the_fit_is_the_largest_ratio() -> None:
    target, teachers = random_problem(n_cases=100)
    found = pools.hull_project(target, teachers, metric="kl")
    ratio = (target.exp() * (teachers - found.logprobs).exp()).sum(-1).amax(0)
    torch.testing.assert_close(found.gap, (ratio - 1).clamp_min(0), atol=1e-14, rtol=0)
    assert float(ratio.max()) <= 1 + 1e-9


def test_the_fit_never_goes_up() -> None:
    target, teachers = random_problem(n_cases=50, n_entries=30, spread=4.0)
    each = [
        pools.hull_project(target, teachers, metric="kl", max_steps=steps, tolerance=0.0).distance for steps in range(9)
    ]
    for before, after in pairwise(each):
        assert float((after - before).max()) <= 1e-15 * 30
    assert float((each[0] - each[-1]).min()) > 0


@pytest.mark.parametrize(("w_min", "w_max"), BOXES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_teachers", [1, 2, 5, 8])
def test_any_number_of_teachers_converges(n_teachers, metric, w_min, w_max) -> None:
    w_max = max(w_max, 1 / n_teachers)
    for n_entries in (2, 3, 50):
        target, teachers = random_problem(n_teachers, 20, n_entries, seed=n_entries, spread=3.0)
        found = pools.hull_project(target, teachers, metric=metric, w_min=w_min, w_max=w_max)
        assert float(found.gap.max()) < 1e-8


@pytest.mark.parametrize("metric", METRICS)
def test_teachers_that_are_copies(metric) -> None:
    target, teachers = random_problem(2)
    found = pools.hull_project(target, teachers[[0, 0, 1, 1]], metric=metric)
    once = pools.hull_project(target, teachers, metric=metric)
    torch.testing.assert_close(found.logprobs.exp(), once.logprobs.exp(), atol=1e-6, rtol=0)
    assert float(found.gap.max()) < 1e-9


@pytest.mark.parametrize(("w_min", "w_max"), BOXES)
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_are_those_of_the_exact_solution(metric, w_min, w_max) -> None:
    target, teachers = random_problem(n_cases=1, n_entries=4, seed=4, spread=1.0)

    def projected(target, teachers):
        found = pools.hull_project(
            target.log_softmax(-1), teachers.log_softmax(-1), metric=metric, w_min=w_min, w_max=w_max, max_steps=10
        )
        return found.logprobs, found.distance

    assert torch.autograd.gradcheck(projected, (target.requires_grad_(), teachers.requires_grad_()), atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_zeros_and_shapes(metric) -> None:
    teachers = numerics.log_of(torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.5, 0.5]]], dtype=DOUBLE)).expand(2, 4, 3)
    target = numerics.log_of(torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)).expand(4, 3)
    found = pools.hull_project(target.reshape(2, 2, 3), teachers.reshape(2, 2, 2, 3), metric=metric)
    assert found.weights.shape == (2, 2, 2)
    assert found.separator.shape == (2, 2, 3)
    assert found.weights[:, 1, 1].tolist() == pytest.approx([0.4, 0.6], abs=1e-6)
    alone = pools.hull_project(target[0], teachers[:, 0], metric=metric)
    assert alone.distance.shape == ()
    # An entry that no teacher knows leaves the others to be fitted, and separates.
    unknown = numerics.log_of(torch.tensor([0.3, 0.3, 0.4], dtype=DOUBLE))
    known = numerics.log_of(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], dtype=DOUBLE))
    found = pools.hull_project(unknown.requires_grad_(), known.requires_grad_(), metric=metric)
    assert float(found.margin) > 0.1
    found.logprobs.exp().square().sum().backward()
    assert bool(unknown.grad.isfinite().all())
    assert bool(known.grad.isfinite().all())


def test_probabilities_in_place_of_logs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be log-probabilities; take the log"):
        pools.hull_project(WITNESS, APPENDIX_A)
    with pytest.raises(ValueError, match="w_max"):
        pools.hull_project(WITNESS.log(), APPENDIX_A, w_max=0.4)


@pytest.mark.parametrize(("w_min", "w_max"), [(0.0, 1.0), (0.1, 0.5), (0.25, 1.0), (0.0, 0.25), (0.2, 0.3)])
def test_the_support_function_is_the_best_vertex(w_min, w_max) -> None:
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found = pools.largest_mean(values, w_min=w_min, w_max=w_max)
    for case in range(20):
        best = linprog(-values[:, case].numpy(), A_eq=np.ones((1, 4)), b_eq=[1], bounds=(w_min, w_max))
        assert float(found[case]) == pytest.approx(-best.fun, abs=1e-12)


def test_no_step_of_the_fit_loses_an_entry_that_only_one_teacher_knows() -> None:
    """The Newton step to weights (0, 1) would, by 1 minus the last digit, and no step leads back from there."""
    logs = [
        [-2.48, -0.1, numerics.LOG_ZERO, -18.39, -20.17, -4.35, numerics.LOG_ZERO],
        [numerics.LOG_ZERO, -3.67, -1.34, -15.11, -19.71, -0.34, -35.13],
    ]
    teachers = torch.tensor(logs, dtype=DOUBLE).log_softmax(-1).clamp_min(numerics.LOG_ZERO)
    target = torch.tensor([0.001, 0.008, 0.134, 0.381, 0.475, 0.005, 0.001], dtype=DOUBLE).log().log_softmax(-1)
    found = pools.hull_project(target, teachers, metric="kl")
    start = teachers.logsumexp(0) - np.log(2)
    assert float(found.distance) < float((target.exp() * (target - start)).sum())
    assert float(found.gap) < 1e-9


def test_a_quotient_beyond_all_numbers_certifies_nothing() -> None:
    logs = [[-27.21, -3.86, numerics.LOG_ZERO, -0.03], [numerics.LOG_ZERO, -15.31, numerics.LOG_ZERO, -1e-6]]
    teachers = torch.tensor(logs, dtype=DOUBLE).log_softmax(-1)
    target = torch.tensor([0.1, 0.6, 0.1, 0.2], dtype=DOUBLE).log()
    found = pools.hull_project(target, teachers, metric="kl")
    assert not bool(torch.stack([found.gap, found.lower, found.margin]).isnan().any())
    assert float(found.lower) <= float(found.distance)
