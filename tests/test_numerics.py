import math

import pytest
import torch

from mashbill import numerics


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_log_softmax_reduces_in_float32(dtype):
    logits = (torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    exact = torch.log_softmax(logits.double(), dim=-1)
    got = numerics.log_softmax(logits)
    assert got.dtype == torch.float32
    assert (got - exact).abs().max() < 1e-5


def test_log_softmax_keeps_float64():
    logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(numerics.log_softmax(logits), torch.log_softmax(logits, -1), rtol=0, atol=1e-14)


def test_log_softmax_floors_masked_entries():
    got = numerics.log_softmax(torch.tensor([0.0, -torch.inf, 0.0]))
    torch.testing.assert_close(got, torch.tensor([-math.log(2), numerics.LOG_ZERO, -math.log(2)]))


def test_log_softmax_survives_extreme_logits():
    got = numerics.log_softmax(torch.tensor([1e4, -1e4, 1e4 - 1.0]))
    exact = -math.log1p(math.exp(-1.0))
    torch.testing.assert_close(got, torch.tensor([exact, numerics.LOG_ZERO, exact - 1.0]), rtol=0, atol=2e-7)


@pytest.mark.parametrize("row", [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
def test_log_softmax_of_no_distribution_is_nan(row):
    assert numerics.log_softmax(torch.tensor(row)).isnan().any()


def test_log_softmax_gradient_is_that_of_a_softmax_and_finite_beside_masks():
    logits = torch.tensor([1.0, -torch.inf, 0.5], dtype=torch.float64, requires_grad=True)
    numerics.log_softmax(logits)[0].backward()
    expected = torch.tensor([1.0, 0.0, 0.0]) - torch.softmax(logits.detach(), 0)
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-15)


def test_log_softmax_passes_gradcheck():
    logits = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(numerics.log_softmax, (logits,))


def test_log_of_zero_is_the_floor_with_no_gradient():
    probabilities = torch.tensor([0.0, 0.25, -1e-9], dtype=torch.float64, requires_grad=True)
    logs = numerics.log_of(probabilities)
    logs.sum().backward()
    assert logs.tolist() == [numerics.LOG_ZERO, math.log(0.25), numerics.LOG_ZERO]
    assert probabilities.grad is not None
    assert probabilities.grad.tolist() == [0.0, 4.0, 0.0]


def test_log_of_keeps_nan():
    assert numerics.log_of(torch.tensor([torch.nan])).isnan().all()


def test_the_floor_is_zero_in_every_dtype():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.tensor(numerics.LOG_ZERO, dtype=dtype).exp().item() == 0


def test_entropy_ceiling():
    assert numerics.entropy_ceiling(1) == 1.0
    assert numerics.entropy_ceiling(5) == math.log(5)


def test_widen_copies_only_what_is_narrow():
    narrow, wide = torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2)
    assert numerics.widen(narrow).dtype == torch.float32
    assert numerics.widen(wide) is wide


@pytest.mark.parametrize(("n", "k"), [(5, 2), (4_096, 3), (10_007, 64), (49_152, 64)])
def test_the_largest_are_those_of_topk(n, k):
    values = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    values[0] = values[0].round()  # ties
    values[1, -k:] = 10 + torch.arange(k)  # all beside each other, in what no column holds
    found, places = numerics.largest(values, k)
    assert torch.equal(found, values.topk(k).values)
    assert torch.equal(found, values.gather(-1, places))
    assert all(len(set(row)) == k for row in places.tolist())
