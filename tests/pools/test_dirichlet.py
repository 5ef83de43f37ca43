import pytest
import torch

from mashbill import pools

DOUBLE = torch.float64
APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE).log()
EVEN = torch.tensor([0.5, 0.5], dtype=DOUBLE).log()


def test_golden(golden) -> None:
    found = pools.proxy_dirichlet(APPENDIX_A, EVEN)
    disagreement, precision, counts = golden("F69")["expected"]
    assert float(found.disagreement) == pytest.approx(disagreement[0], abs=1e-9)
    assert float(found.precision) == pytest.approx(precision[0], abs=1e-9)
    assert found.pseudo_counts.tolist() == pytest.approx(counts, abs=1e-9)
    assert found.concentration.tolist() == pytest.approx([count + 1 for count in counts], abs=1e-9)


def test_it_recovers_the_precision_that_teachers_were_drawn_with() -> None:
    """Teachers drawn from ``Dir(counts)`` with large counts disagree as the formula says."""
    torch.manual_seed(0)
    counts = torch.tensor([300.0, 150.0, 50.0], dtype=DOUBLE)
    teachers = torch.distributions.Dirichlet(counts).sample((20_000,)).log()
    even = torch.full((20_000,), 1 / 20_000, dtype=DOUBLE).log()
    found = pools.proxy_dirichlet(teachers, even)
    assert float(found.precision) == pytest.approx(500, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_teachers_that_agree_have_a_large_precision_and_a_gradient(dtype) -> None:
    same = APPENDIX_A[[0, 0]].to(dtype).reshape(2, 1, 1, 3).requires_grad_()
    found = pools.proxy_dirichlet(same, EVEN.to(dtype).reshape(2, 1, 1))
    assert found.precision.tolist() == [[pytest.approx(1e6)]]
    assert found.concentration.shape == (1, 1, 3)
    found.concentration.sum().backward()
    assert same.grad is not None
    assert bool(same.grad.isfinite().all())
    with pytest.raises(ValueError, match=r"least=0 must be positive"):
        pools.proxy_dirichlet(APPENDIX_A, EVEN, least=0)


def test_gradients_are_those_of_finite_differences() -> None:
    leaves = (APPENDIX_A.clone().requires_grad_(), EVEN.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda p, w: pools.proxy_dirichlet(p, w).concentration, leaves)
