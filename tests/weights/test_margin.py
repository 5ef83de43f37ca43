import math

import pytest
import torch

from mashbill.weights.margin import Margin

DOUBLE = torch.float64


def test_margins_by_hand(appendix) -> None:
    weights = Margin(beta=2.0)(appendix()).exp().flatten()
    expected = torch.tensor([2 * 0.65, 2 * 0.05], dtype=DOUBLE).softmax(0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_teachers", [1, 2, 4])
def test_the_range_is_reached(n_teachers, make_evidence) -> None:
    rule = Margin(beta=3.0)
    certain, even = torch.eye(5, dtype=DOUBLE)[0], torch.full((5,), 0.2, dtype=DOUBLE)
    best = rule(make_evidence(torch.stack([certain] + [even] * (n_teachers - 1)))).exp().flatten()[0]
    worst = rule(make_evidence(torch.stack([even] + [certain] * (n_teachers - 1)))).exp().flatten()[0]
    promise = rule.declared(n_teachers)
    assert [float(worst), float(best)] == pytest.approx([promise.lowest, promise.highest])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_weights_are_normalised_and_within_the_range(dtype, random_evidence) -> None:
    rule = Margin(beta=3.0)
    log_weights = rule(random_evidence(4, 6, 7, 5, dtype=dtype))
    assert log_weights.dtype == dtype
    promise, weights = rule.declared(4), log_weights.exp()
    torch.testing.assert_close(weights.sum(0), torch.ones(6, 7, dtype=dtype))
    assert promise.lowest - 1e-7 <= float(weights.min()) <= float(weights.max()) <= promise.highest + 1e-7


def test_first_and_second_change_places_without_a_jump(make_evidence) -> None:
    share = torch.linspace(0.4, 0.6, 2001, dtype=DOUBLE)
    p = torch.stack([share, 1 - share], -1)
    other = torch.tensor([0.7, 0.3], dtype=DOUBLE).expand(2001, 2)
    weights = Margin(beta=5.0)(make_evidence(torch.stack([p, other]))).exp()[0].flatten()
    # The probabilities move by 2e-4 in l1 from one point to the next.
    promise = Margin(beta=5.0).declared(2).lipschitz
    assert promise is not None
    assert float(weights.diff().abs().max()) <= promise * 2e-4


def test_bad_options_are_refused() -> None:
    for beta, said in ((-1, "-1"), (math.nan, "nan"), (math.inf, "inf")):
        with pytest.raises(ValueError, match=f"^beta={said} must be finite and not negative"):
            Margin(beta=beta)
