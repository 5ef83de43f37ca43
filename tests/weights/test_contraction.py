import itertools
import math

import pytest
import torch
from scipy.optimize import linprog

from mashbill.weights.contraction import (
    contraction_bound,
    descent_rate,
    jacobian_norm,
    lattice,
    relaxation_rate,
    sample_points,
)
from mashbill.weights.simplex import project_l2

DOUBLE = torch.float64


def linear(matrix: torch.Tensor):
    return lambda w: w @ matrix.T


@pytest.mark.parametrize("n_teachers", [2, 3, 4, 5])
def test_norms_are_the_operator_norms_on_differences_of_weights(n_teachers) -> None:
    generator = torch.Generator().manual_seed(n_teachers)
    for _ in range(10):
        matrix = torch.randn(n_teachers, n_teachers, generator=generator, dtype=DOUBLE)
        w = torch.full((1, n_teachers), 1 / n_teachers, dtype=DOUBLE)
        found = {norm: float(jacobian_norm(linear(matrix), w, norm=norm)) for norm in ("sup", "l1", "l2", "projected")}
        # max of a row over {sum v = 0, |v| <= 1}: a linear program.
        programs = [
            -linprog(-row.numpy(), A_eq=[[1.0] * n_teachers], b_eq=[0.0], bounds=[(-1, 1)] * n_teachers).fun
            for row in matrix
        ]
        assert found["sup"] == pytest.approx(max(programs), abs=1e-9)
        # The l1 ball of differences has the vertices (e_i - e_j)/2.
        pairs = itertools.combinations(range(n_teachers), 2)
        vertices = [float((matrix[:, i] - matrix[:, j]).abs().sum()) / 2 for i, j in pairs]
        assert found["l1"] == pytest.approx(max(vertices))
        directions = torch.randn(4000, n_teachers, generator=generator, dtype=DOUBLE)
        directions -= directions.mean(-1, keepdim=True)
        ratio = ((directions @ matrix.T).norm(dim=-1) / directions.norm(dim=-1)).max()
        assert 0.8 * found["l2"] < float(ratio) <= found["l2"] * (1 + 1e-12)
        assert found["sup"] <= found["projected"] + 1e-12


def test_each_row_has_its_own_jacobian() -> None:
    w = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=DOUBLE)
    found = jacobian_norm(lambda w: w.square() / 2, w, norm="l2")
    expected = [torch.linalg.matrix_norm(torch.diag(row) @ (torch.eye(3) - 1 / 3).to(DOUBLE), ord=2) for row in w]
    assert found.tolist() == pytest.approx([float(x) for x in expected])


def test_adding_a_lipschitz_term_expands_where_the_paper_says_contraction() -> None:
    gain, lipschitz = 0.1, 2.0
    assert gain * lipschitz < 1  # the theorem's constant, which would promise a unique fixed point
    w = torch.full((1, 3), 1 / 3, dtype=DOUBLE)
    for norm in ("sup", "l1", "l2"):
        # K odd: the row (1, 0, 0) minus its median sums to 1.
        found = float(jacobian_norm(lambda w: w + gain * lipschitz * w, w, norm=norm))
        assert found == pytest.approx(1 + gain * lipschitz)
    assert relaxation_rate(gain, lipschitz=lipschitz) == pytest.approx(1.1)
    assert relaxation_rate(0.5, lipschitz=0.4) == pytest.approx(0.7)


def test_descent_contracts_by_the_rate_and_not_better() -> None:
    generator = torch.Generator().manual_seed(0)
    hessian = torch.diag(torch.tensor([0.5, 1.0, 3.0], dtype=DOUBLE))
    for step in (0.1, 0.5, 0.6, 0.8):
        rate = descent_rate(step, curvature=0.5, smoothness=3.0)
        one, other = torch.randn(2, 500, 3, generator=generator, dtype=DOUBLE)
        moved = (one - step * one @ hessian) - (other - step * other @ hessian)
        assert bool((moved.norm(dim=-1) <= rate * (one - other).norm(dim=-1) + 1e-12).all())
        projected = [project_l2(w - step * w @ hessian, w_min=0.05, w_max=0.8) for w in (one, other)]
        apart = (projected[0] - projected[1]).norm(dim=-1)
        assert bool((apart <= rate * (one - other).norm(dim=-1) + 1e-12).all())
    assert descent_rate(0.5, curvature=0.0, smoothness=3.0) == 1.0  # flat directions never contract
    assert descent_rate(0.8, curvature=0.5, smoothness=3.0) > 1  # beyond 2/L


def test_the_lattice_has_every_point_once_and_covers() -> None:
    points = lattice(4, 6)
    assert len(points) == math.comb(9, 3) == len(torch.unique(points, dim=0))
    assert bool((points.sum(-1) == 6).all())
    assert int(points.min()) == 0
    assert lattice(1, 3).tolist() == [[3]]
    w = sample_points(3, bounds=(0.1, 0.7), n=500, generator=torch.Generator().manual_seed(0))
    assert 0.1 - 1e-12 <= float(w.min()) <= float(w.max()) <= 0.7 + 1e-12
    assert torch.allclose(w.sum(-1), torch.ones(len(w), dtype=DOUBLE))
    inside = -torch.rand(2000, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE).log()
    inside /= inside.sum(-1, keepdim=True)
    nearest = torch.cdist(inside, points.to(DOUBLE) / 6, p=torch.inf).amin(-1)
    assert float(nearest.max()) < 1 / 6


def test_a_bound_over_cells_holds_everywhere_and_proves_what_is_near_the_goal() -> None:
    # J = c w_1 (I - 11'/K)-like: T(w) = c/2 w_1^2 in the first coordinate; the norm grows linearly to its corner.
    def update(w: torch.Tensor) -> torch.Tensor:
        first = 0.49 * w[:, :1].square()
        return torch.cat([first, (1 - first) / 2, (1 - first) / 2], dim=-1)

    # |J| = .98 w_1 in the sup norm, so its Lipschitz constant is .98.
    bound, n_points = contraction_bound(update, n_teachers=3, curvature=0.98)
    assert 0.98 <= bound < 1
    looser, fewer = contraction_bound(update, n_teachers=3, curvature=0.98, goal=1.5)
    assert fewer < n_points
    assert looser < 1.5
    assert contraction_bound(lambda w: 1.1 * update(w), n_teachers=3, curvature=1.1)[0] >= 1.078
    starved, n_seen = contraction_bound(update, n_teachers=3, curvature=0.98, n_points=20)
    assert starved >= 1
    assert n_seen <= 20


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^gain=1\.5 must be in \[0, 1\]"):
        relaxation_rate(1.5, lipschitz=1.0)
    with pytest.raises(ValueError, match=r"^step=0\.1 must be positive, and curvature=2\.0"):
        descent_rate(0.1, curvature=2.0, smoothness=1.0)
    with pytest.raises(ValueError, match=r"^w_min=0\.6 is too large"):
        contraction_bound(lambda w: w, n_teachers=2, curvature=0.0, bounds=(0.6, 1.0))
