import numpy as np
import pytest
import quadprog
import torch

from mashbill.weights import order, simplex

DOUBLE = torch.float64


def by_quadprog(v, scores, *, margin, kappa, w_min, w_max) -> np.ndarray:
    n = len(v)
    eye = np.eye(n)
    ahead = [(k, j) for k in range(n) for j in range(n) if scores[k] > scores[j]]
    rows = [np.ones(n), *eye, *-eye, *(eye[k] - eye[j] for k, j in ahead)]
    limits = [-kappa * max(margin - (scores[k] - scores[j]), 0.0) for k, j in ahead]
    floor = [1.0, *[w_min] * n, *[-w_max] * n, *limits]
    return quadprog.solve_qp(eye, v, np.array(rows).T, np.array(floor), meq=1)[0]


@pytest.mark.parametrize("n_teachers", [2, 3, 5, 8, 12])
def test_it_is_what_a_quadratic_program_finds(n_teachers) -> None:
    draw, worst = np.random.default_rng(n_teachers), 0.0
    for _ in range(60):
        even = 1 / n_teachers
        w_min, w_max = float(even * draw.choice([0, 0.4, 0.99])), float(even + draw.choice([0.01, 0.3, 1]) * (1 - even))
        options = {"margin": float(draw.choice([0.05, 0.2, 1])), "kappa": float(draw.choice([0.1, 1, 5]))}
        v = draw.normal(size=(6, n_teachers)) * draw.choice([0.1, 1, 5])
        scores = draw.integers(0, 5, (6, n_teachers)) * 0.05 if draw.random() < 0.5 else draw.random((6, n_teachers))
        options |= {"w_min": w_min, "w_max": w_max}
        found = order.project_relaxed(torch.from_numpy(v), scores=torch.from_numpy(scores), **options).numpy()
        expected = np.array([by_quadprog(row, s, **options) for row, s in zip(v, scores, strict=True)])
        worst = max(worst, np.abs(found - expected).max())
    assert worst < 1e-9


def test_one_teacher_has_all_the_weight() -> None:
    found = order.project_relaxed(torch.tensor([[0.3], [-2.0]]), scores=[0.5], margin=0.1)
    assert found.tolist() == [[1.0], [1.0]]


def test_64_teachers_are_projected_as_a_quadratic_program_does() -> None:
    draw = np.random.default_rng(0)
    v, scores = draw.dirichlet(np.full(64, 0.5), 4), draw.random((4, 64))
    options = {"margin": 0.2, "kappa": 0.1, "w_min": 0.001, "w_max": 0.06}
    found = order.project_relaxed(torch.from_numpy(v), scores=torch.from_numpy(scores), **options).numpy()
    expected = np.array([by_quadprog(row, s, **options) for row, s in zip(v, scores, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_order_is_exact_from_the_margin_on(dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    w, scores = torch.rand(2, 600, 5, generator=generator, dtype=DOUBLE).to(dtype)
    scores = (scores * 8).round() / 8
    found = order.project_relaxed(w, scores=scores, margin=0.25, w_min=0.05, w_max=0.5)
    leads = scores.unsqueeze(-1) - scores.unsqueeze(-2)
    above = found.unsqueeze(-1) - found.unsqueeze(-2)
    assert bool((above[leads >= 0.25] >= 0).all())
    assert bool((above[(leads > 0) & (leads < 0.25)] < -1e-3).any())  # within the margin the order is relaxed
    assert float(found.min()) >= 0.05
    assert float((found.sum(-1) - 1).abs().max()) < (1e-12 if dtype == DOUBLE else 1e-6)


def along_a_tie(project, n_steps: int) -> float:
    """Return the largest move of the weights between neighbouring scores as two teachers change places."""
    lead = torch.linspace(-0.3, 0.3, n_steps, dtype=DOUBLE)
    scores = torch.stack([lead, torch.zeros_like(lead), torch.full_like(lead, 0.1), 0.5 * lead], dim=-1)
    w = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=DOUBLE).expand(n_steps, -1)
    return float(project(w, scores).diff(dim=0).abs().max())


def test_it_is_continuous_in_the_scores_across_ties() -> None:
    box = {"w_min": 0.05, "w_max": 0.7}
    coarse, fine = (
        along_a_tie(lambda w, s: order.project_relaxed(w, scores=s, margin=0.1, **box), n) for n in (301, 3001)
    )
    assert fine < 0.12 * coarse < 0.1  # ten times finer steps move the weights ten times less
    assert along_a_tie(lambda w, s: order.project(w, safety=s, **box), 301) > 0.1
    too_small = along_a_tie(lambda w, s: order.project_relaxed(w, scores=s, margin=0.1, kappa=0.5, **box), 301)
    assert too_small > 0.1  # kappa * margin = .05 < .65: the constraint still holds back as it disappears


def test_limits_are_the_plain_projections() -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.rand(100, 4, generator=generator, dtype=DOUBLE)
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0], dtype=DOUBLE)
    box = {"w_min": 0.1, "w_max": 0.5}
    strict = order.project_relaxed(w, scores=scores, margin=0.9, **box)
    torch.testing.assert_close(strict, order.project(w, safety=scores, **box), atol=1e-12, rtol=0)
    tied = order.project_relaxed(w, scores=torch.ones(4, dtype=DOUBLE), margin=0.9, **box)
    assert torch.equal(tied, simplex.project_l2(w, **box))
    unknown = order.project_relaxed(w, scores=[float("nan")] * 4, margin=0.9, **box)
    assert torch.equal(unknown, tied)


def test_gradients_in_weights_and_scores_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    w, scores = torch.rand(2, 8, 4, generator=generator, dtype=DOUBLE)
    w.requires_grad_(), scores.requires_grad_()

    def project(w, scores):
        return order.project_relaxed(w, scores=scores, margin=0.4, kappa=1.3, w_min=0.1, w_max=0.45)

    assert torch.autograd.gradcheck(project, (w, scores))
    project(w, scores)[:, 0].sum().backward()
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) > 0.1


def test_rows_are_taken_in_portions(monkeypatch) -> None:
    from mashbill.weights import relaxed_order

    w, scores = torch.rand(2, 3, 7, 4, generator=torch.Generator().manual_seed(3))
    whole = order.project_relaxed(w, scores=scores, margin=0.4)
    monkeypatch.setattr(relaxed_order, "_MOST_PAIRS", 50)
    assert torch.equal(order.project_relaxed(w, scores=scores, margin=0.4), whole)
    assert whole.shape == (3, 7, 4)
    assert order.project_relaxed(w[:0], scores=scores[:0], margin=0.4).shape == (0, 7, 4)


def test_bad_arguments_are_refused() -> None:
    w = torch.full((3,), 1 / 3)
    for name, options in (("margin", {"margin": 0}), ("kappa", {"margin": 0.1, "kappa": -1.0})):
        with pytest.raises(ValueError, match=f"{name}=.* must be a positive number"):
            order.project_relaxed(w, scores=[1, 2, 3], **options)
    with pytest.raises(ValueError, match="scores has 2 scores for 3 teachers"):
        order.project_relaxed(w, scores=[1, 2], margin=0.1)
    with pytest.raises(ValueError, match=r"w_min=0\.5 is too large for 3 teachers"):
        order.project_relaxed(w, scores=[1, 2, 3], margin=0.1, w_min=0.5)
