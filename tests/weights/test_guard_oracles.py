"""The guards and the ordered projections against solvers that know nothing of them, over many random problems."""

import math

import numpy as np
import pytest
import quadprog
import torch
from scipy.optimize import brentq, minimize, nnls

from mashbill.weights import order, simplex
from mashbill.weights.order import SafetyOrder

DOUBLE = torch.float64


def random_values(draw: np.random.Generator, n_rows: int, n_teachers: int, *, positive: bool) -> np.ndarray:
    """Rows of every kind: spread out, tied, almost tied, nearly one-hot, of other sizes and signs."""
    kinds = [
        draw.dirichlet(np.full(n_teachers, 0.5), n_rows) + 1e-12,
        draw.integers(1, 4, (n_rows, n_teachers)) / 8,
        1 / n_teachers + 1e-9 * draw.random((n_rows, n_teachers)),
        np.exp(3 * draw.normal(size=(n_rows, n_teachers))),
    ]
    if not positive:
        kinds += [3 * draw.normal(size=(n_rows, n_teachers)), -kinds[3]]
    return np.choose(draw.integers(0, len(kinds), (n_rows, 1)), kinds)


def random_box(draw: np.random.Generator, n_teachers: int) -> tuple[float, float]:
    even = 1 / n_teachers
    w_min = draw.choice([0.0, 0.3, 0.9, 1 - 1e-6]) * even
    return float(w_min), float(even + draw.choice([1e-6, 0.1, 0.5, 1.0]) * (1 - even))


def by_quadprog(v: np.ndarray, w_min: float, w_max: float, pairs=()) -> np.ndarray:
    n = len(v)
    eye = np.eye(n)
    rows = np.vstack([np.ones((1, n)), eye, -eye, *(eye[[i]] - eye[[j]] for i, j in pairs)])
    floor = np.concatenate([[1.0], np.full(n, w_min), np.full(n, -w_max), np.zeros(len(pairs))])
    return quadprog.solve_qp(eye, v, rows.T, floor, meq=1)[0]


# 120 boxes of 81 rows and 4 of 75 are 10,020 problems.
SIZES = [1, 2, 2, 3, 3, 4, 5, 6, 8, 12] * 12 + [64] * 4


def test_project_l2_is_what_a_quadratic_program_finds() -> None:
    draw, worst, n_problems = np.random.default_rng(0), 0.0, 0
    for n_teachers in SIZES:
        w_min, w_max = random_box(draw, n_teachers)
        v = random_values(draw, 75 if n_teachers == 64 else 81, n_teachers, positive=False)
        found = simplex.project_l2(torch.from_numpy(v), w_min=w_min, w_max=w_max).numpy()
        expected = np.array([by_quadprog(row, w_min, w_max) for row in v])
        worst, n_problems = max(worst, np.abs(found - expected).max()), n_problems + len(v)
    assert n_problems >= 10_000
    assert worst < 1e-9


def by_root_of_the_dual(v: np.ndarray, w_min: float, w_max: float) -> np.ndarray:
    log_v = np.log(v)
    floor, ceiling = (math.log(w_min) if w_min else -800.0), math.log(w_max)

    def excess(shift: float) -> float:
        return float(np.clip(np.exp(np.minimum(log_v + shift, 1.0)), w_min, w_max).sum()) - 1

    # At the ends all are at the lower, or all at the upper bound.
    low, high = floor - float(log_v.max()), ceiling - float(log_v.min())
    shift = brentq(excess, low, high, xtol=1e-15, rtol=1e-15) if excess(low) < 0 < excess(high) else high
    return np.clip(np.exp(np.minimum(log_v + shift, 1.0)), w_min, w_max)


def test_project_kl_is_what_the_root_of_its_dual_gives() -> None:
    draw, worst, n_problems = np.random.default_rng(1), 0.0, 0
    for n_teachers in SIZES:
        w_min, w_max = random_box(draw, n_teachers)
        v = random_values(draw, 75 if n_teachers == 64 else 81, n_teachers, positive=True)
        found = simplex.project_kl(torch.from_numpy(v), w_min=w_min, w_max=w_max).numpy()
        expected = np.array([by_root_of_the_dual(row, w_min, w_max) for row in v])
        worst, n_problems = max(worst, np.abs(found - expected).max()), n_problems + len(v)
    assert n_problems >= 10_000
    assert worst < 1e-9


def test_project_kl_is_what_a_general_optimiser_finds() -> None:
    draw = np.random.default_rng(2)
    for _ in range(200):
        n_teachers = int(draw.integers(2, 6))
        v = draw.dirichlet(np.full(n_teachers, 1.0)) + 1e-2
        w_min, w_max = 0.3 / n_teachers, min(1.0, draw.uniform(1.1, 2.5) / n_teachers)
        found = minimize(
            lambda w, v=v: (w * np.log(w / v) - w + v).sum(),
            np.full(n_teachers, 1 / n_teachers),
            jac=lambda w, v=v: np.log(w / v),
            method="SLSQP",
            bounds=[(w_min, w_max)] * n_teachers,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-16, "maxiter": 300},
        )
        w = simplex.project_kl(torch.from_numpy(v), w_min=w_min, w_max=w_max).numpy()
        assert np.abs(w - found.x).max() < 1e-6


@pytest.mark.parametrize("n_teachers", [1, 2, 3, 10, 64])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_box_of_one_point_gives_that_point(n_teachers, dtype) -> None:
    even = 1 / n_teachers
    v = torch.from_numpy(random_values(np.random.default_rng(3), 200, n_teachers, positive=True)).to(dtype)
    uniform = torch.full_like(v, even)
    for w_min, w_max in ((even, 1.0), (0.0, even), (even, even)):
        for guard in (simplex.project_l2, simplex.project_kl, simplex.squash):
            w = guard(v / v.sum(-1, keepdim=True), w_min=w_min, w_max=w_max)
            torch.testing.assert_close(w, uniform, rtol=2 * torch.finfo(dtype).eps, atol=0)


def random_order(draw: np.random.Generator, n_teachers: int) -> SafetyOrder:
    """A ranking with ties or a random acyclic set of pairs, from hardly any to a chain."""
    if draw.random() < 0.4:
        return SafetyOrder.from_scores(draw.integers(0, 4, n_teachers).tolist())
    chosen, names = np.triu(draw.random((n_teachers, n_teachers)) < draw.random(), 1), draw.permutation(n_teachers)
    return SafetyOrder(n_teachers, tuple((int(names[i]), int(names[j])) for i, j in np.argwhere(chosen)))


def test_ordered_l2_is_what_a_quadratic_program_finds() -> None:
    draw, worst = np.random.default_rng(4), 0.0
    for _ in range(150):
        n_teachers = int(draw.choice([2, 3, 4, 5, 6, 8, 12]))
        safety, (w_min, w_max) = random_order(draw, n_teachers), random_box(draw, n_teachers)
        v = random_values(draw, 10, n_teachers, positive=False)
        found = order.project(torch.from_numpy(v), safety=safety, w_min=w_min, w_max=w_max).numpy()
        expected = np.array([by_quadprog(row, w_min, w_max, safety.closure) for row in v])
        worst = max(worst, np.abs(found - expected).max())
    assert worst < 1e-9


def kl_certificate(v: np.ndarray, w: np.ndarray, w_min: float, w_max: float, pairs) -> float:
    """Return how far ``log(w/v)`` is from the cone of active constraints: 0 if and only if ``w`` is the projection."""
    n = len(v)
    eye, edge = np.eye(n), 1e-10
    columns = [np.ones(n), -np.ones(n)]
    columns += [eye[k] for k in range(n) if w[k] <= w_min + edge]
    columns += [-eye[k] for k in range(n) if w[k] >= w_max - edge]
    columns += [eye[i] - eye[j] for i, j in pairs if w[i] <= w[j] + edge]
    broken = max([abs(w.sum() - 1), w_min - w.min(), w.max() - w_max, *(w[j] - w[i] for i, j in pairs)])
    return max(broken, nnls(np.array(columns).T, np.log(w / v))[1])


def test_ordered_kl_carries_a_certificate_of_optimality() -> None:
    draw, worst = np.random.default_rng(5), 0.0
    for _ in range(100):
        n_teachers = int(draw.choice([2, 3, 4, 5, 6, 8, 12]))
        safety, (w_min, w_max) = random_order(draw, n_teachers), (0.2 / n_teachers, min(1.0, 2 / n_teachers))
        v = random_values(draw, 8, n_teachers, positive=True)
        found = order.project(torch.from_numpy(v), safety=safety, w_min=w_min, w_max=w_max, metric="kl").numpy()
        worst = max(
            [worst, *(kl_certificate(*rows, w_min, w_max, safety.closure) for rows in zip(v, found, strict=True))]
        )
    assert worst < 1e-9


def test_the_certificate_sees_a_wrong_projection() -> None:
    v = np.array([0.2, 0.5, 0.3])
    right = order.project(torch.from_numpy(v), safety=[2, 1, 0], w_min=0.1, w_max=0.6, metric="kl").numpy()
    wrong = order.project(torch.from_numpy(v), safety=[2, 1, 0], w_min=0.1, w_max=0.6, metric="l2").numpy()
    assert kl_certificate(v, right, 0.1, 0.6, [(0, 1), (1, 2)]) < 1e-12
    assert kl_certificate(v, wrong, 0.1, 0.6, [(0, 1), (1, 2)]) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("n_teachers", [2, 5, 64])
def test_guards_break_no_order(n_teachers, dtype) -> None:
    draw = np.random.default_rng(6)
    v = torch.from_numpy(random_values(draw, 10_000 if n_teachers < 64 else 1000, n_teachers, positive=True)).to(dtype)
    v = v / v.sum(-1, keepdim=True)
    sorted_v = v.sort(dim=-1).values
    tied = sorted_v.diff(dim=-1) == 0
    for w_min, w_max in ((0.3 / n_teachers, min(1.0, 1.6 / n_teachers)), (0.0, 1.0)):
        for guard in (simplex.squash, simplex.project_l2, simplex.project_kl):
            steps = guard(sorted_v, w_min=w_min, w_max=w_max).diff(dim=-1)
            # exp need not be monotone to the last bit.
            slack = 2 * torch.finfo(dtype).eps if guard is simplex.project_kl else 0.0
            assert float(steps.min()) >= -slack
            assert float(steps[tied].abs().max() if tied.any() else 0.0) <= slack


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_projections_break_no_order(metric, dtype) -> None:
    draw = np.random.default_rng(7)
    slack = 2 * torch.finfo(dtype).eps if metric == "kl" else 0.0
    for _ in range(25):
        n_teachers = int(draw.choice([2, 3, 5, 7]))
        safety, (w_min, w_max) = random_order(draw, n_teachers), random_box(draw, n_teachers)
        v = torch.from_numpy(random_values(draw, 400, n_teachers, positive=True)).to(dtype)
        w = order.project(v, safety=safety, w_min=w_min, w_max=w_max, metric=metric)
        for safer, less in safety.closure:
            assert float((w[:, less] - w[:, safer]).max()) <= slack
