import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mashbill import numerics
from mashbill.weights import simplex

DOUBLE = torch.float64
PROJECTIONS = {"l2": simplex.project_l2, "kl": simplex.project_kl}


def kkt_residual(v: torch.Tensor, w: torch.Tensor, *, w_min: float, w_max: float, metric: str) -> float:
    """Return by how much ``w`` fails to be the projection of ``v``: 0 if and only if it is.

    Feasible, and one multiplier explains all rows: the pull ``v - w`` (logs for KL) of a teacher that could still rise
    is nowhere larger than that of a teacher that could still fall.
    """
    edge = 1e-9
    infeasible = torch.stack([(w.sum(-1) - 1).abs(), (w_min - w).amax(-1), (w - w_max).amax(-1)]).amax().item()
    pull = v - w if metric == "l2" else numerics.log_of(v) - numerics.log_of(w)
    can_rise = torch.where(w < w_max - edge, pull, -torch.inf).amax(-1)
    can_fall = torch.where(w > w_min + edge, pull, torch.inf).amin(-1)
    size = 1 + pull.abs().amax(-1)
    return max(infeasible, float(((can_rise - can_fall) / size).amax()))


@st.composite
def problems(draw, *, positive: bool):
    n_teachers = draw(st.integers(1, 9))
    even = 1 / n_teachers
    w_min = draw(st.sampled_from([0.0, 0.2, 0.7, 1.0])) * even
    w_max = even + draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) * (1 - even)
    values = st.sampled_from([0.0, 1e-12, 0.1, 0.1 + 1e-9, 0.5, 3.0]) | st.floats(1e-6, 4.0)
    numbers = values if positive else values | st.floats(-4.0, 4.0) | st.sampled_from([-1e3, 1e3])
    return torch.tensor(draw(st.lists(numbers, min_size=n_teachers, max_size=n_teachers)), dtype=DOUBLE), w_min, w_max


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems(positive=False))
def test_project_l2_satisfies_the_optimality_conditions(problem) -> None:
    v, w_min, w_max = problem
    w = simplex.project_l2(v, w_min=w_min, w_max=w_max)
    assert kkt_residual(v, w, w_min=w_min, w_max=w_max, metric="l2") < 1e-9


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems(positive=True))
def test_project_kl_satisfies_the_optimality_conditions(problem) -> None:
    v, w_min, w_max = problem
    w = simplex.project_kl(v, w_min=w_min, w_max=w_max)
    # A zero has no finite pull; that the others are right and the bounds hold is all there is to say.
    positive = v.clamp_min(1e-300)
    if (v > 0).all():
        assert kkt_residual(positive, w, w_min=w_min, w_max=w_max, metric="kl") < 1e-9
    assert float(w.sum()) == pytest.approx(1, abs=1e-12)


def clip_and_renormalise(v, *, w_min, w_max):
    clipped = v.clamp(w_min, w_max)
    return clipped / clipped.sum(-1, keepdim=True)


def shift_then_clip(v, *, w_min, w_max):
    return (v - v.mean(-1, keepdim=True) + 1 / v.shape[-1]).clamp(w_min, w_max)


@pytest.mark.parametrize("metric", ["l2", "kl"])
@pytest.mark.parametrize("wrong", [clip_and_renormalise, shift_then_clip, simplex.squash])
def test_the_optimality_check_sees_a_wrong_projection(wrong, metric) -> None:
    v = torch.tensor([0.9, 0.07, 0.03], dtype=DOUBLE)
    w = wrong(v, w_min=0.1, w_max=0.6)
    assert kkt_residual(v, w, w_min=0.1, w_max=0.6, metric=metric) > 1e-2
    right = PROJECTIONS[metric](v, w_min=0.1, w_max=0.6)
    assert kkt_residual(v, right, w_min=0.1, w_max=0.6, metric=metric) < 1e-12


def test_the_optimality_check_tells_the_metrics_apart() -> None:
    v = torch.tensor([0.9, 0.07, 0.03], dtype=DOUBLE)
    w = simplex.project_kl(v, w_min=0.1, w_max=0.6)
    assert kkt_residual(v, w, w_min=0.1, w_max=0.6, metric="l2") > 1e-2


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_projections_match_a_general_optimiser(metric, seed) -> None:
    draw = np.random.default_rng(seed)
    n_teachers = int(draw.integers(2, 6))
    v, w_min, w_max = draw.dirichlet(np.full(n_teachers, 0.5)) + 1e-3, 0.3 / n_teachers, min(1.0, 1.5 / n_teachers)

    def distance(w):
        return ((w - v) ** 2).sum() if metric == "l2" else (w * np.log(w / v) - w + v).sum()

    found = minimize(
        distance,
        np.full(n_teachers, 1 / n_teachers),
        method="SLSQP",
        bounds=[(w_min, w_max)] * n_teachers,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    w = PROJECTIONS[metric](torch.tensor(v), w_min=w_min, w_max=w_max).numpy()
    assert distance(w) <= distance(found.x) + 1e-10
    assert w == pytest.approx(found.x, abs=1e-5)


def test_goldens(golden) -> None:
    v, mixed = torch.tensor([0.7, 0.35, 0.2, -0.3], dtype=DOUBLE), torch.tensor([0.9, 0.07, 0.03], dtype=DOUBLE)
    family_a = torch.tensor(golden("F06")["expected"], dtype=DOUBLE)
    for name, found in {
        "F14": simplex.project_l2(v, w_min=0.1, w_max=0.5),
        "F15": torch.func.jacrev(lambda x: simplex.project_l2(x, w_min=0.1, w_max=0.5))(v),
        "F16": simplex.project_kl(mixed, w_min=0.1, w_max=0.6),
        "F17": simplex.project_l2(mixed, w_min=0.1, w_max=0.6),
        "F18": simplex.squash(mixed, w_min=0.1, w_max=0.6),
        "F07": simplex.squash(family_a, w_min=0.3, w_max=0.7),
    }.items():
        expected = torch.tensor(golden(name)["expected"], dtype=DOUBLE)
        torch.testing.assert_close(found, expected, atol=golden(name)["tol"], rtol=0)


@pytest.mark.parametrize(
    "project",
    [
        lambda v: simplex.project_l2(v, w_min=0.1, w_max=0.5),
        lambda v: simplex.project_kl(v, w_min=0.1, w_max=0.5),
        lambda v: simplex.project_kl_log(v.log(), w_min=0.1, w_max=0.5),
        lambda v: simplex.squash(v, w_min=0.1, w_max=0.5),
    ],
    ids=["l2", "kl", "kl_log", "squash"],
)
def test_gradients_are_those_of_finite_differences(project) -> None:
    generator = torch.Generator().manual_seed(1)
    v = torch.rand(6, 4, generator=generator, dtype=DOUBLE).add(0.05).requires_grad_()
    assert torch.autograd.gradcheck(project, (v,))


@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_gradients_are_finite_where_no_teacher_is_free(metric) -> None:
    v = torch.tensor([[0.6, 0.4], [1.0, 0.0], [0.0, 0.0]], dtype=DOUBLE, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        PROJECTIONS[metric](v, w_min=0.5, w_max=0.5).square().sum().backward()
    assert v.grad is not None
    assert bool(v.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("n_teachers", [1, 2, 7, 64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_any_scale_any_size_any_dtype(metric, scale, n_teachers, dtype) -> None:
    generator = torch.Generator().manual_seed(n_teachers)
    v = torch.rand(50, n_teachers, generator=generator, dtype=DOUBLE)
    v[:10] = 1.0  # ties
    v[10:20, ::2] = 1.0
    w_min, w_max = 0.3 / n_teachers, min(1.0, 1.8 / n_teachers)
    low, high = simplex.effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
    w = PROJECTIONS[metric]((v * scale).to(dtype), w_min=w_min, w_max=w_max)
    assert w.dtype == dtype
    assert float((w.sum(-1) - 1).abs().max()) <= 4 * n_teachers * torch.finfo(dtype).eps + 1e-6 * (dtype != DOUBLE)
    assert bool((w >= torch.tensor(low, dtype=dtype)).all())
    assert bool((w <= torch.tensor(high, dtype=dtype)).all())
    if scale == 1.0 or metric == "kl":
        twin = PROJECTIONS[metric](v, w_min=w_min, w_max=w_max)
        torch.testing.assert_close(w.to(DOUBLE), twin, atol=2e-6 if dtype != DOUBLE else 1e-12, rtol=0)


def test_two_huge_equal_numbers_share() -> None:
    v = torch.tensor([1e15, 1e15, 0.0, 0.1])
    w = simplex.project_l2(v, w_min=0.1, w_max=0.6)
    torch.testing.assert_close(w, torch.tensor([0.4, 0.4, 0.1, 0.1]))


def test_a_large_common_offset_costs_no_precision() -> None:
    v = 1e4 + 0.1 * torch.rand(100, 7, generator=torch.Generator().manual_seed(6))
    twin = simplex.project_l2(v.double(), w_min=0.05, w_max=0.6)
    torch.testing.assert_close(simplex.project_l2(v, w_min=0.05, w_max=0.6).double(), twin, atol=1e-7, rtol=0)


def test_half_precision_is_reduced_in_single() -> None:
    v = torch.tensor([0.7, 0.2, 0.1], dtype=torch.bfloat16)
    for project in (simplex.project_l2, simplex.project_kl, simplex.squash):
        assert project(v, w_min=0.1, w_max=0.6).dtype == torch.float32


def test_zeros_share_what_the_others_cannot_take() -> None:
    v = torch.tensor([0.5, 0.0, 0.0])
    torch.testing.assert_close(simplex.project_kl(v, w_min=0.0, w_max=0.4), torch.tensor([0.4, 0.3, 0.3]))
    torch.testing.assert_close(simplex.project_kl(v, w_min=0.1, w_max=1.0), torch.tensor([0.8, 0.1, 0.1]))
    torch.testing.assert_close(simplex.project_kl(0 * v, w_min=0.0, w_max=1.0), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_log_domain_does_not_underflow(dtype) -> None:
    log_v = torch.tensor([0.0, -30000.0, -30000.0 + math.log(2)], dtype=dtype)
    log_w = simplex.project_kl_log(log_v, w_min=0.0, w_max=0.4)
    expected = torch.tensor([0.4, 0.2, 0.4], dtype=dtype)
    # 30000 has only 8 bits after the point in float32.
    torch.testing.assert_close(log_w.exp(), expected, atol=1e-3 if dtype == torch.float32 else 1e-10, rtol=0)
    far = simplex.project_kl_log(torch.tensor([0.0, -torch.inf, -5.0], dtype=dtype), w_min=0.0, w_max=1.0)
    assert float(far[1]) == numerics.LOG_ZERO
    assert float(far.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_free_teachers_near_zero_keep_their_ratios_in_single_precision() -> None:
    log_w = simplex.project_kl_log(torch.tensor([0.0, -1e4, -1e4]), w_min=0.0, w_max=0.6)
    torch.testing.assert_close(log_w.exp(), torch.tensor([0.6, 0.2, 0.2]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("project", [simplex.project_l2, simplex.project_kl, simplex.squash])
def test_batches_permutations_and_order(project) -> None:
    generator = torch.Generator().manual_seed(3)
    v = torch.rand(2, 40, 5, generator=generator, dtype=DOUBLE).softmax(-1)
    w = project(v, w_min=0.15, w_max=0.24)
    torch.testing.assert_close(w[1, 7], project(v[1, 7], w_min=0.15, w_max=0.24), atol=1e-15, rtol=0)
    permutation = torch.randperm(5, generator=generator)
    torch.testing.assert_close(project(v[..., permutation], w_min=0.15, w_max=0.24), w[..., permutation])
    in_order = w.gather(-1, v.argsort(-1))
    assert bool((in_order.diff(dim=-1) >= -1e-12).all())


@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_what_is_in_the_box_stays(metric) -> None:
    v = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=DOUBLE)
    torch.testing.assert_close(PROJECTIONS[metric](v, w_min=0.1, w_max=0.6), v, atol=1e-15, rtol=0)


def sup_ratio(function, generator, *, n_teachers=3, n_pairs=4000, step=1.0) -> float:
    """Return the largest observed ``|f(x) - f(y)|_sup / |x - y|_sup``."""
    x = 2 * torch.randn(n_pairs, n_teachers, generator=generator, dtype=DOUBLE)
    signs = torch.randint(0, 2, x.shape, generator=generator).to(DOUBLE) * 2 - 1
    size = step * 10 ** (-4 * torch.rand(n_pairs, 1, generator=generator, dtype=DOUBLE))
    change = (function(x + size * signs) - function(x)).abs().amax(-1) / size[:, 0]
    return float(change.max())


def test_lipschitz_constants_survive_random_pairs() -> None:
    generator = torch.Generator().manual_seed(4)
    free_guard = sup_ratio(lambda g: simplex.project_kl_log(g, w_min=0.1, w_max=0.6).exp(), generator)
    assert 0.45 < free_guard <= 0.5 + 1e-9
    squashed = sup_ratio(lambda g: simplex.squash(g.softmax(-1), w_min=0.1, w_max=0.6), generator)
    rho = simplex.squash_factor(3, w_min=0.1, w_max=0.6)
    assert 0.8 * rho / 2 < squashed <= rho / 2 + 1e-9


def test_the_sup_norm_constant_of_the_l2_projection_is_attained(golden) -> None:
    constant = golden("F83")["expected"]
    generator = torch.Generator().manual_seed(5)
    found = sup_ratio(lambda v: simplex.project_l2(v, w_min=0.0, w_max=1.0), generator, step=1e-2)
    assert constant - 1e-6 < found <= constant + 1e-9
    x, y = torch.randn(2, 3000, 3, generator=generator, dtype=DOUBLE)
    moved = (simplex.project_l2(x, w_min=0.1, w_max=0.7) - simplex.project_l2(y, w_min=0.1, w_max=0.7)).norm(dim=-1)
    assert bool((moved <= (x - y).norm(dim=-1) + 1e-12).all())


@pytest.mark.parametrize("project", [simplex.project_l2, simplex.project_kl, simplex.project_kl_log, simplex.squash])
def test_infeasible_boxes_are_refused(project) -> None:
    with pytest.raises(ValueError, match=r"w_min=0\.3 is too large for 4 teachers"):
        project(torch.full((4,), 0.25), w_min=0.3, w_max=0.9)
    with pytest.raises(ValueError, match=r"w_max=0\.3 is too small for 3 teachers"):
        project(torch.full((3,), 0.25), w_min=0.0, w_max=0.3)


def test_log_normalise_floors_what_is_impossible() -> None:
    log_w = simplex.log_normalise(torch.tensor([[0.0], [-5e4]]), dim=0)
    assert log_w.flatten().tolist() == [0.0, numerics.LOG_ZERO]
