"""Oracles: quadprog (Goldfarb-Idnani), SLSQP, closed forms, finite differences, and two certificates."""

import math

import numpy as np
import pytest
import quadprog
import torch
from scipy.optimize import minimize

from mashbill.weights import quadratic
from mashbill.weights.order import SafetyOrder
from mashbill.weights.quadratic import kkt_residual, minimise, optimality_gap, sensitivity

DOUBLE = torch.float64


def boxes(n_teachers):
    return [(0.0, 1.0), (0.3 / n_teachers, 1.0), (0.0, 1.7 / n_teachers), (0.5 / n_teachers, 1.4 / n_teachers)]


def by_quadprog(hessian, linear, low, high, pairs=()):
    n = len(linear)
    less = np.zeros((len(pairs), n))
    for row, (safer, less_safe) in zip(less, pairs, strict=True):
        row[safer], row[less_safe] = 1, -1
    rows = np.vstack([np.ones(n), np.eye(n), -np.eye(n), less])
    floor = np.concatenate([[1.0], np.full(n, low), np.full(n, -high), np.zeros(len(pairs))])
    return quadprog.solve_qp(hessian, -linear, rows.T, floor, 1)[0]


def by_slsqp(hessian, linear, low, high):
    n = len(linear)
    equal = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(n)}
    found = minimize(
        lambda w: w @ hessian @ w / 2 + linear @ w,
        np.full(n, 1 / n),
        jac=lambda w: hessian @ w + linear,
        bounds=[(low, high)] * n,
        constraints=[equal],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x, found.fun


def problems(n, n_teachers, seed, *, n_features=None, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, n_teachers, n_features or n_teachers + 2)
    gradients = torch.randn(shape, generator=generator, dtype=DOUBLE)
    gradients *= 10 ** (spread * (torch.rand(n, n_teachers, 1, generator=generator, dtype=DOUBLE) - 0.5))
    linear = torch.randn(n, n_teachers, generator=generator, dtype=DOUBLE)
    linear[::2] = 0
    return gradients @ gradients.mT, linear


def test_matches_quadprog_on_a_thousand_problems_with_ridge() -> None:
    checked, worst, touched = 0, 0.0, 0
    for n_teachers in (2, 3, 5, 8, 13):
        for seed, (low, high) in enumerate(boxes(n_teachers)):
            for ridge in (1e-3, 0.3):
                # Half the problems have fewer features than teachers: singular without the ridge.
                gram, linear = problems(26, n_teachers, seed, n_features=None if ridge > 0.1 else 2)
                found = minimise(gram, w_min=low, w_max=high, ridge=ridge, linear=linear)
                for one, g, c in zip(found.numpy(), gram.numpy(), linear.numpy(), strict=True):
                    expected = by_quadprog(g + ridge * np.eye(n_teachers), c, low, high)
                    worst = max(worst, abs(one - expected).max())
                    touched += int((abs(one - low) < 1e-12).any() or (abs(one - high) < 1e-12).any())
                    checked += 1
    assert checked >= 1000
    assert touched > 700  # the box matters
    assert worst < 1e-9


def test_no_solver_finds_a_better_objective_without_ridge() -> None:
    checked, surplus = 0, 0.0
    for n_teachers in (2, 3, 6):
        for seed, (low, high) in enumerate(boxes(n_teachers)):
            gram, linear = problems(20, n_teachers, 50 + seed, n_features=3)
            linear[1::2] *= 0.1
            found = minimise(gram, w_min=low, w_max=high, linear=linear)
            for one, g, c in zip(found.numpy(), gram.numpy(), linear.numpy(), strict=True):
                _, best = by_slsqp(g, c, low, high)
                surplus = max(surplus, (one @ g @ one / 2 + c @ one - best) / max(1, abs(g).max()))
                checked += 1
    assert checked == 240
    assert surplus < 1e-10


def test_certificates_prove_a_thousand_singular_problems_optimal() -> None:
    generator = torch.Generator().manual_seed(1)
    checked = 0
    for n_teachers in (2, 3, 4, 7, 12):
        for low, high in boxes(n_teachers):
            gram, linear = problems(60, n_teachers, n_teachers, n_features=2, spread=3)
            whole = torch.randint(-2, 3, (60, n_teachers, 3), generator=generator).to(DOUBLE)
            gram[:20] = whole[:20] @ whole[:20].mT  # ties and collinear gradients
            gram[20:40] = gram[20:40, :1, :1]  # identical gradients
            linear[:40] = 0
            box = {"w_min": low, "w_max": high, "linear": linear}
            found = minimise(gram, **box)
            assert float(kkt_residual(gram, found, **box).max()) < 1e-12
            scale = gram.abs().amax(dim=(-2, -1)).clamp_min(1)
            assert float((optimality_gap(gram, found, **box) / scale).abs().max()) < 1e-12
            assert float((found.sum(-1) - 1).abs().max()) < 1e-13
            checked += len(gram)
    assert checked >= 1000


def test_of_several_minimisers_the_least_norm() -> None:
    # Identical teachers share alike, a zero matrix gives uniform weights, and ridge -> 0 gives the same.
    pair = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    torch.testing.assert_close(minimise(pair @ pair.mT), torch.tensor([0.25, 0.25, 0.5], dtype=DOUBLE))
    torch.testing.assert_close(minimise(torch.zeros(4, 4)), torch.full((4,), 0.25))
    generator = torch.Generator().manual_seed(2)
    for n_teachers in (3, 5, 8):
        whole = torch.randint(-2, 3, (40, n_teachers, 2), generator=generator).to(DOUBLE)
        gram = whole @ whole.mT
        for low, high in boxes(n_teachers):
            found = minimise(gram, w_min=low, w_max=high).numpy()
            for one, g in zip(found, gram.numpy(), strict=True):
                nearly = by_quadprog(g + 1e-8 * np.eye(n_teachers), np.zeros(n_teachers), low, high)
                assert abs(one - nearly).max() < 1e-6


def test_collinear_witnesses() -> None:
    def mgda(second):
        gradients = torch.tensor([[1.0, 0.0], [second, 0.0]], dtype=DOUBLE)
        return minimise(gradients @ gradients.mT).tolist()

    assert mgda(2.0) == [1.0, 0.0]
    assert mgda(1 + 1e-6) == [1.0, 0.0]
    assert mgda(1 - 1e-6) == [0.0, 1.0]
    assert mgda(1.0) == [0.5, 0.5]
    assert mgda(-3.0) == pytest.approx([0.75, 0.25], abs=1e-15)


def test_golden_values(golden) -> None:
    variances = torch.tensor([1.0, 4.0, 0.25], dtype=DOUBLE)
    assert minimise(torch.diag(variances)).tolist() == pytest.approx(
        golden("F53")["expected"], abs=golden("F53")["tol"]
    )
    sigma = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=DOUBLE)
    each = [quadratic.form(sigma, torch.tensor(w, dtype=DOUBLE)).item() for w in ([0.5, 0.5], [0.6, 0.4])]
    assert each == pytest.approx(golden("F54")["expected"], abs=golden("F54")["tol"])
    assert minimise(sigma).tolist() == pytest.approx([0.5, 0.5], abs=1e-15)


def test_wide_bounds_give_the_closed_form_portfolio() -> None:
    gram, _ = problems(50, 4, 3)
    gram = gram + 20 * torch.eye(4, dtype=DOUBLE)  # weakly correlated: no weight is negative
    inverse = torch.linalg.solve(gram, torch.ones(50, 4, dtype=DOUBLE))
    expected = inverse / inverse.sum(-1, keepdim=True)
    found = minimise(gram)
    inside = (expected > 0).all(-1)
    assert int(inside.sum()) > 25
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-13)


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_order_is_solved_with_the_box(ridge) -> None:
    rng = np.random.default_rng(4)
    for n_teachers in (2, 3, 5, 8):
        for trial in range(15):
            rank = rng.permutation(n_teachers)
            pairs = tuple(
                (int(rank[i]), int(rank[j])) for i in range(n_teachers) for j in range(i) if rng.random() < 0.4
            )
            gram, _ = problems(3, n_teachers, 100 * n_teachers + trial)
            low, high = boxes(n_teachers)[trial % 4]
            box = {"w_min": low, "w_max": high, "ridge": ridge, "order": SafetyOrder(n_teachers, pairs)}
            found = minimise(gram, **box)
            assert float(kkt_residual(gram, found, **box).max()) < 1e-12
            for one, g in zip(found.numpy(), gram.numpy(), strict=True):
                hessian = g + (ridge or 1e-11) * np.eye(n_teachers)
                expected = by_quadprog(hessian, np.zeros(n_teachers), low, high, pairs)
                assert abs(one - expected).max() < (1e-9 if ridge else 1e-5)
                assert all(one[safer] >= one[less] - 1e-14 for safer, less in pairs)


def test_ties_count_alike() -> None:
    gram, _ = problems(20, 5, 13)
    order = SafetyOrder(5, ((0, 1), (2, 3)), ties=((1, 2), (3, 4)))
    for ridge in (0.0, 0.1):
        box = {"w_min": 0.05, "w_max": 0.5, "ridge": ridge, "order": order}
        found = minimise(gram, **box)
        assert float(kkt_residual(gram, found, **box).max()) < 1e-12
        torch.testing.assert_close(found[:, [1, 3]], found[:, [2, 4]], rtol=0, atol=1e-15)
        # The same problem over one weight for each group of teachers.
        groups = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=DOUBLE)
        for one, g in zip(found, gram, strict=True):
            inner = (groups @ (g + ridge * torch.eye(5, dtype=DOUBLE)) @ groups.T).numpy() + 1e-12 * np.eye(3)
            rows = np.array([[1, 2, 2], [1, -1, 0], [0, 1, -1], [0, 0, 1], [-1, 0, 0]]).T.astype(float)
            expected = quadprog.solve_qp(inner, np.zeros(3), rows, np.array([1, 0, 0, 0.05, -0.5]), 1)[0]
            np.testing.assert_allclose(one[[0, 1, 3]].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_teachers", [1, 2, 17, 64])
def test_certified_at_any_size(n_teachers) -> None:
    gram, linear = problems(1, n_teachers, 5, n_features=max(1, n_teachers // 2))
    pairs = tuple((k, k + n_teachers // 2) for k in range(n_teachers // 2))
    low, high = 0.4 / n_teachers, min(1.0, 1.8 / n_teachers)
    for order in (None, SafetyOrder(n_teachers, pairs)):
        box = {"w_min": low, "w_max": high, "linear": linear, "order": order}
        assert float(kkt_residual(gram, minimise(gram, **box), **box).max()) < 1e-12


def test_permuting_teachers_permutes_weights() -> None:
    gram, linear = problems(200, 6, 6, n_features=3)
    gram[:50] = gram[:50].round()
    gram[:50] = gram[:50] @ gram[:50]  # whole numbers, semidefinite
    linear[:50] = 0
    permutation = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    for low, high in boxes(6):
        found = minimise(gram, w_min=low, w_max=high, linear=linear)
        moved = minimise(gram[:, permutation][:, :, permutation], w_min=low, w_max=high, linear=linear[:, permutation])
        torch.testing.assert_close(moved, found[:, permutation], rtol=0, atol=1e-10)


def test_gradient_is_that_of_the_active_set() -> None:
    for n_teachers, (low, high) in [(3, (0.0, 1.0)), (4, (0.1, 0.4))]:
        gram, linear = problems(1, n_teachers, 7)
        gram.requires_grad_()
        linear.requires_grad_()

        def solve(gram, linear, low=low, high=high):
            return minimise(gram, w_min=low, w_max=high, ridge=0.2, linear=linear)

        assert torch.autograd.gradcheck(solve, (gram, linear), eps=1e-7, atol=1e-6)


def test_gradient_with_order_and_without_ridge() -> None:
    gram, _ = problems(1, 4, 8)
    gram.requires_grad_()
    order = SafetyOrder(4, ((0, 1), (1, 2)))
    assert torch.autograd.gradcheck(lambda g: minimise(g, order=order, ridge=0.1), (gram,), eps=1e-7, atol=1e-6)
    assert torch.autograd.gradcheck(lambda g: minimise(g, w_max=0.5), (gram,), eps=1e-7, atol=1e-6)


def test_second_derivatives() -> None:
    gram, linear = problems(1, 3, 9)
    gram.requires_grad_()
    linear.requires_grad_()

    def solve(gram, linear):
        return minimise(gram, w_max=0.6, ridge=0.3, linear=linear)

    assert torch.autograd.gradgradcheck(solve, (gram, linear), eps=1e-6, atol=1e-5)


def test_teachers_at_a_bound_and_flat_directions_have_no_gradient() -> None:
    gradients = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]], dtype=DOUBLE)
    gram = (gradients @ gradients.mT).requires_grad_()
    w = minimise(gram)
    assert w.tolist() == pytest.approx([0.25, 0.25, 0.5, 0.0], abs=1e-14)
    (grad,) = torch.autograd.grad(w[3], gram, retain_graph=True)
    assert float(grad.abs().max()) < 1e-30
    # The identical pair moves together or not at all.
    (grad,) = torch.autograd.grad(w[0] - w[1], gram)
    assert float(grad.abs().max()) < 1e-14


def test_sensitivity_bounds_every_move_and_is_nearly_reached() -> None:
    gram, _ = problems(400, 3, 10, spread=2)
    gram[:200] *= 1e-3
    other, _ = problems(400, 3, 11, spread=2)
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(400, 3, 3, generator=generator, dtype=DOUBLE)
    moved = gram + 1e-4 * (step @ step.mT)
    for target in (other, moved):
        for low, high in boxes(3):
            before, after = (minimise(g, w_min=low, w_max=high, ridge=0.1) for g in (gram, target))
            size = torch.linalg.matrix_norm(target - gram, ord=2)
            bound = sensitivity(before, ridge=0.1) * size
            assert bool(((after - before).norm(dim=-1) <= bound * (1 + 1e-9) + 1e-12).all())
            assert bool(((after - before).abs().amax(dim=-1) <= math.sqrt(2 / 3) * bound * (1 + 1e-9) + 1e-12).all())
    # Nearly collinear, large gradients, an adversarial direction: the constant for K = 2 is approached.
    ridge, norm = 0.1, 100.0
    pair = torch.tensor([[norm], [norm - 0.999 * ridge / norm]], dtype=DOUBLE)
    gram = (pair @ pair.mT).requires_grad_()
    w = minimise(gram, ridge=ridge)
    (grad,) = torch.autograd.grad(w[0], gram)
    slope = float(torch.linalg.svdvals(grad).sum())  # dual of the spectral norm
    bound = float(sensitivity(w.detach(), ridge=ridge)) * math.sqrt(1 / 2)
    assert 0.98 * bound < slope <= bound * (1 + 1e-8)


def test_certificates_see_what_is_wrong() -> None:
    gram = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=DOUBLE))
    best = minimise(gram, w_max=0.5)
    assert float(kkt_residual(gram, best, w_max=0.5)) < 1e-15
    for wrong in ([0.4, 0.4, 0.2], [0.6, 0.2, 0.2], [0.5, 0.3, 0.1]):
        assert float(kkt_residual(gram, torch.tensor(wrong, dtype=DOUBLE), w_max=0.5)) > 1e-2
    wrong = torch.tensor([0.4, 0.4, 0.2], dtype=DOUBLE)
    excess = float(quadratic.form(gram, wrong) - quadratic.form(gram, best)) / 2
    assert 0 < excess <= float(optimality_gap(gram, wrong, w_max=0.5))
    with_ridge = float(optimality_gap(gram, minimise(gram, ridge=1.0, w_min=0.1), ridge=1.0, w_min=0.1))
    assert with_ridge == pytest.approx(0, abs=1e-14)


def test_dtype_shape_and_one_teacher() -> None:
    gram, linear = problems(6, 3, 12)
    twin = minimise(gram.reshape(2, 3, 3, 3), ridge=0.1, linear=linear[0])
    assert twin.shape == (2, 3, 3)
    single = minimise(gram.reshape(2, 3, 3, 3).float(), ridge=0.1, linear=linear[0].float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), twin, rtol=0, atol=1e-5)
    assert minimise(gram.half(), ridge=0.1).dtype == torch.float32
    assert minimise(gram[:, :1, :1]).tolist() == [[1.0]] * 6
    assert minimise(gram[:0]).shape == (0, 3)
    third = minimise(gram, w_min=1 / 3, w_max=1 / 3)
    torch.testing.assert_close(third, torch.full((6, 3), 1 / 3, dtype=DOUBLE))


def test_rounding_of_float32_does_not_matter() -> None:
    # Gram matrices in float32 are indefinite by rounding, and asymmetric if somebody made them so.
    generator = torch.Generator().manual_seed(3)
    gradients = torch.randn(100, 5, 2, generator=generator)
    gram = gradients @ gradients.mT
    gram[0, 1, 2] *= 1 + 1e-6
    found = minimise(gram)
    exact = minimise(gradients.double() @ gradients.double().mT)
    value, best = (quadratic.form(gradients.double() @ gradients.double().mT, w.double()) for w in (found, exact))
    assert float((value - best).max()) < 1e-5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: minimise(g, w_min=0.4), r"w_min=0\.4 is too large for 3 teachers"),
        (lambda g: minimise(g, w_max=0.3), r"w_max=0\.3 is too small for 3 teachers"),
        (lambda g: minimise(g, ridge=-1.0), r"ridge=-1\.0 must be finite and not negative"),
        (lambda g: minimise(g / 0), r"gram and linear must be finite"),
        (lambda g: minimise(g, order=SafetyOrder(2, ((0, 1),))), r"order is of 2 teachers, but gram of 3"),
    ],
)
def test_bad_problems_are_refused(call, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        call(torch.eye(3))
