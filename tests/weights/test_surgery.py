"""Oracles: torchjd's PCGrad, UPGrad and MGDA, scipy's non-negative least squares, and identities."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torchjd.aggregation import MGDA, PCGrad, PCGradWeighting, UPGrad, UPGradWeighting

from mashbill.weights import quadratic
from mashbill.weights.surgery import effective_weights, pareto_stationarity, pcgrad

DOUBLE = torch.float64
CONFLICT = torch.tensor([[1.0, 0.0], [-0.5, 1.0]], dtype=DOUBLE)
REQUESTED = torch.tensor([0.7, 0.3], dtype=DOUBLE)


def random_gradients(n, n_teachers, n_features, *, seed=0):
    return torch.randn(n, n_teachers, n_features, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ---- PCGrad


def test_effective_coefficients_of_two_in_conflict() -> None:
    direction, c = pcgrad(CONFLICT, REQUESTED)
    inner, square = CONFLICT[0] @ CONFLICT[1], CONFLICT.square().sum(-1)
    expected = REQUESTED - REQUESTED.flip(0) * inner / square
    torch.testing.assert_close(c, expected, rtol=0, atol=1e-15)
    assert c.tolist() == pytest.approx([0.85, 0.58])
    assert (c / c.sum()).tolist() == pytest.approx([0.594406, 0.405594], abs=1e-6)
    torch.testing.assert_close(direction, c @ CONFLICT, rtol=0, atol=1e-15)


def test_without_conflict_the_weights_stay() -> None:
    gradients = torch.tensor([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.1, 0.2, 1.0]], dtype=DOUBLE)
    w = torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE)
    assert torch.equal(pcgrad(gradients, w).coefficients, w)
    gradients[2] = 0  # nothing to project on
    assert torch.equal(pcgrad(gradients, w).coefficients, w)


def test_pcgrad_is_torchjds_with_the_same_permutations() -> None:
    changed = 0
    for seed, gradients in enumerate(random_gradients(100, 5, 3)):
        torch.manual_seed(seed)
        expected = PCGradWeighting()(gradients @ gradients.T)
        found = pcgrad(gradients, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(found.coefficients, expected, rtol=1e-12, atol=1e-12)
        torch.manual_seed(seed)
        torch.testing.assert_close(found.direction, PCGrad()(gradients), rtol=1e-9, atol=1e-9)
        changed += int(not torch.allclose(found.coefficients, torch.ones(5, dtype=DOUBLE)))
    assert changed > 90


def test_for_two_the_order_does_not_matter() -> None:
    for seed, gradients in enumerate(random_gradients(30, 2, 3)):
        drawn = pcgrad(gradients, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(drawn.direction, pcgrad(gradients).direction)


def test_pcgrad_commutes_with_positive_weights_and_mgda_does_not() -> None:
    w = torch.rand(4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE) + 0.05
    for gradients in random_gradients(100, 4, 3, seed=2):
        before, after = pcgrad(gradients, w).direction, torch.zeros(3, dtype=DOUBLE)
        for i in range(4):  # the surgery of each alone, weighted afterwards
            alone = torch.zeros(4, dtype=DOUBLE)
            alone[i] = 1
            after += w[i] * pcgrad(gradients, alone).direction
        torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
        torch.testing.assert_close(before, pcgrad(w.unsqueeze(-1) * gradients).direction, rtol=0, atol=1e-12)

    weighted = REQUESTED.unsqueeze(-1) * CONFLICT
    first = quadratic.minimise(weighted @ weighted.T) @ weighted
    last = (REQUESTED * quadratic.minimise(CONFLICT @ CONFLICT.T)) @ CONFLICT
    assert first.tolist() == pytest.approx([0.078, 0.220], abs=5e-4)
    assert last.tolist() == pytest.approx([0.308, 0.138], abs=5e-4)
    torch.testing.assert_close(MGDA()(weighted), first, rtol=0, atol=1e-9)


# ---- effective weights


def test_effective_weights_recover_what_was_added() -> None:
    generator = torch.Generator().manual_seed(3)
    for gradients in random_gradients(100, 4, 9, seed=3):
        c = torch.randn(4, generator=generator, dtype=DOUBLE)
        found = effective_weights(gradients, c @ gradients)
        torch.testing.assert_close(found.coefficients, c, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.weights, c / c.sum(), rtol=1e-9, atol=1e-10)
        assert float(found.residual) < 1e-11
        positive = effective_weights(gradients, c.abs() @ gradients, nonnegative=True)
        torch.testing.assert_close(positive.coefficients, c.abs(), rtol=0, atol=1e-9)


def test_effective_weights_of_surgery_are_its_coefficients() -> None:
    for gradients in random_gradients(50, 3, 6, seed=4):
        surgery = pcgrad(gradients, torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE))
        torch.testing.assert_close(
            effective_weights(gradients, surgery.direction).coefficients, surgery.coefficients, rtol=0, atol=1e-10
        )
        # torchjd's UPGrad: a quadratic program of its own, to its tolerance.
        found = effective_weights(gradients, UPGrad()(gradients))
        torch.testing.assert_close(found.coefficients, UPGradWeighting()(gradients @ gradients.T), rtol=0, atol=1e-6)


def test_what_is_no_combination_is_left_over() -> None:
    gradients = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=DOUBLE)
    found = effective_weights(gradients, torch.tensor([3.0, 2.0, 0.25], dtype=DOUBLE))
    assert found.coefficients.tolist() == pytest.approx([3.0, 1.0])
    assert found.weights.tolist() == pytest.approx([0.75, 0.25])
    assert float(found.residual) == pytest.approx(0.25)
    against = effective_weights(gradients, torch.tensor([3.0, -2.0, 0.0], dtype=DOUBLE), nonnegative=True)
    assert against.coefficients.tolist() == pytest.approx([3.0, 0.0])
    assert float(against.residual) == pytest.approx(2.0)
    nothing = effective_weights(gradients, torch.zeros(3, dtype=DOUBLE))
    assert nothing.coefficients.tolist() == [0.0, 0.0]
    assert bool(nothing.weights.isnan().all())


def test_identical_gradients_share_the_coefficient() -> None:
    gradients = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    found = effective_weights(gradients, torch.tensor([1.0, 0.5], dtype=DOUBLE))
    assert found.coefficients.tolist() == pytest.approx([0.5, 0.5, 0.5], abs=1e-12)


@pytest.mark.parametrize(("n_teachers", "n_features"), [(3, 5), (6, 4), (12, 12)])
def test_nonnegative_coefficients_are_those_of_scipy(n_teachers, n_features) -> None:
    updates = random_gradients(40, 1, n_features, seed=6)[:, 0]
    for gradients, update in zip(random_gradients(40, n_teachers, n_features, seed=5), updates, strict=True):
        found = effective_weights(gradients * 1e-4, update * 1e3, nonnegative=True)
        expected, residual = nnls(gradients.numpy().T * 1e-4, update.numpy() * 1e3)
        assert float(found.coefficients.min()) >= 0
        assert float(found.residual) == pytest.approx(residual, rel=1e-9, abs=1e-8)
        if n_teachers <= n_features:  # else several may be as near
            np.testing.assert_allclose(found.coefficients.numpy(), expected, rtol=1e-8, atol=1e-3)


def test_effective_weights_in_float32() -> None:
    gradients = random_gradients(1, 3, 8, seed=7)[0]
    c = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
    found = effective_weights(gradients.float(), (c @ gradients).float())
    assert found.weights.dtype == torch.float32
    torch.testing.assert_close(found.weights.double(), c, rtol=0, atol=1e-5)


# ---- Pareto stationarity


def test_residual_is_zero_exactly_where_gradients_can_cancel() -> None:
    balanced = torch.tensor([[0.5, 0.0], [-0.5, 1.0], [-0.5, -1.0]], dtype=DOUBLE)
    found = pareto_stationarity(balanced)
    assert float(found.residual) < 1e-15
    assert found.weights.tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-12)
    apart = pareto_stationarity(torch.tensor([[3.0, 4.0], [3.0, 0.0]], dtype=DOUBLE))
    assert float(apart.residual) == pytest.approx(3.0)
    assert apart.weights.tolist() == pytest.approx([0.0, 1.0])


def test_residual_falls_to_zero_on_the_way_to_a_pareto_point() -> None:
    # Two quadratics: the Pareto set is the segment between their minima.
    ends = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)
    point = torch.tensor([0.3, 2.0], dtype=DOUBLE)
    residuals = []
    for _ in range(60):
        found = pareto_stationarity(point - ends)
        residuals.append(float(found.residual))
        point = point - 0.3 * found.weights @ (point - ends)
    assert residuals[0] == pytest.approx(2.0)
    assert residuals[-1] < 1e-8
    assert all(a >= b for a, b in pairwise(residuals))


def test_gradients_and_gram_agree_in_batches() -> None:
    gradients = random_gradients(20, 4, 6, seed=8) + 0.5
    one, other = pareto_stationarity(gradients), pareto_stationarity(gram=gradients @ gradients.mT)
    torch.testing.assert_close(one.weights, other.weights, rtol=0, atol=1e-10)
    torch.testing.assert_close(one.residual, other.residual, rtol=0, atol=1e-7)
    least = (torch.rand(200, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 8).softmax(-1)
    assert bool(((least @ gradients).norm(dim=-1).amin(-1) >= one.residual - 1e-12).all())
    with pytest.raises(ValueError, match="give exactly one"):
        pareto_stationarity()
