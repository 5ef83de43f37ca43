import pytest
import torch

from mashbill import numerics
from mashbill.weights import quadratic
from mashbill.weights.covariance import MinVariance

DOUBLE = torch.float64
SIGMA = [[1.0, 0.3, 0.1], [0.3, 2.0, -0.4], [0.1, -0.4, 0.5]]


def test_inverse_variances_golden(golden, random_evidence) -> None:
    rule = MinVariance({"t2": 0.25, "t0": 1, "t1": 4.0})
    found = rule(random_evidence(3, 4))
    assert found.shape == (3, 4, 1)
    expected, tol = golden("F53")["expected"], golden("F53")["tol"]
    for row in range(4):
        assert found[:, row, 0].exp().tolist() == pytest.approx(expected, abs=tol)
    as_matrix = MinVariance([[1, 0, 0], [0, 4, 0], [0, 0, 0.25]])(random_evidence(3, 4))
    torch.testing.assert_close(as_matrix, found, rtol=0, atol=1e-12)


def test_correlated_teachers(random_evidence) -> None:
    found = MinVariance(SIGMA)(random_evidence(3, 1))[:, 0, 0].exp()
    inverse = torch.linalg.solve(torch.tensor(SIGMA, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE))
    torch.testing.assert_close(found, inverse / inverse.sum(), rtol=0, atol=1e-12)
    # Two that cancel: variance 0, where inverse variances alone would say the same and weights (.6, .4) give .04.
    cancelling = MinVariance([[1.0, -1.0], [-1.0, 1.0]])(random_evidence(2, 1))[:, 0, 0].exp()
    assert cancelling.tolist() == pytest.approx([0.5, 0.5])


def test_ridge_and_box(random_evidence) -> None:
    rule = MinVariance(SIGMA, ridge=0.2, w_min=0.1, w_max=0.55)
    found = rule(random_evidence(3, 2))[:, 0, 0].exp()
    sigma = torch.tensor(SIGMA, dtype=DOUBLE)
    assert float(quadratic.kkt_residual(sigma, found, ridge=0.2, w_min=0.1, w_max=0.55)) < 1e-12
    assert float(found.max()) == pytest.approx(0.55)
    promise = rule.declared(3)
    assert (promise.lowest, promise.highest) == pytest.approx((float(found.min()), float(found.max())))
    assert (promise.lipschitz, promise.reads_student, promise.mixes_rows) == (0.0, False, False)


def test_sensitivity_to_the_covariance(random_evidence) -> None:
    evidence, generator = random_evidence(3, 1), torch.Generator().manual_seed(0)
    before = MinVariance(SIGMA, ridge=0.2)(evidence)[:, 0, 0].exp()
    for _ in range(50):
        step = 0.3 * torch.randn(3, 3, generator=generator, dtype=DOUBLE)
        step = step @ step.T
        after = MinVariance((torch.tensor(SIGMA, dtype=DOUBLE) + step).tolist(), ridge=0.2)(evidence)[:, 0, 0].exp()
        bound = quadratic.sensitivity(before, ridge=0.2) * torch.linalg.matrix_norm(step, ord=2)
        assert float((after - before).norm()) <= float(bound)


def test_a_weight_of_zero_and_dtypes(random_evidence) -> None:
    found = MinVariance([[1.0, 2.0], [2.0, 9.0]])(random_evidence(2, 3, dtype=torch.float32))
    assert found.dtype == torch.float32
    assert found[:, 0, 0].tolist() == [0.0, numerics.LOG_ZERO]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MinVariance({"a": -1.0}), r"covariance\['a'\]=-1\.0 must be a variance"),
        (lambda: MinVariance({}), r"covariance=\{\} must map each teacher"),
        (
            lambda: MinVariance([[1.0, 0.2], [0.1, 1.0]]),
            r"covariance\[0\]\[1\]=0\.2 must equal covariance\[1\]\[0\]=0\.1",
        ),
        (lambda: MinVariance([[1.0, 2.0], [2.0, 1.0]]), r"covariance has the eigenvalue -1, .*negative variance"),
        (lambda: MinVariance([[1.0, 2.0]]), r"covariance=.* must be a finite square matrix"),
        (lambda: MinVariance([[1.0], [2.0, 3.0]]), r"covariance=.* must be a finite square matrix"),
        (lambda: MinVariance([[float("nan")]]), r"covariance=.* must be a finite square matrix"),
        (lambda: MinVariance(SIGMA, ridge=-0.1), r"ridge=-0\.1 must be finite"),
        (lambda: MinVariance(SIGMA, w_min=0.5).declared(3), r"w_min=0\.5 is too large for 3"),
        (lambda: MinVariance(SIGMA).declared(2), r"covariance is of 3 teachers, but n_teachers=2"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def test_teachers_must_fit(random_evidence) -> None:
    with pytest.raises(ValueError, match="covariance names teacher 'x', which does not exist"):
        MinVariance({"t0": 1.0, "x": 1.0})(random_evidence(2, 1))
    with pytest.raises(ValueError, match="covariance is 3 by 3 for 2 teachers"):
        MinVariance(SIGMA)(random_evidence(2, 1))
