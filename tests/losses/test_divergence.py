import math
from decimal import Decimal, localcontext
from functools import partial

import pytest
import torch
from scipy.special import rel_entr

from mashbill import numerics
from mashbill.distributions import Dense, Logits
from mashbill.losses import (
    alpha_divergence,
    distillation_loss,
    forward_kl,
    js,
    reverse_kl,
    reverse_skew_kl,
    skew_kl,
    total_variation,
)
from mashbill.losses.triton_scope import END
from mashbill.pools import divergence_between

ALL = [
    forward_kl,
    reverse_kl,
    js,
    skew_kl,
    reverse_skew_kl,
    partial(skew_kl, skew=0.9),
    alpha_divergence,
    partial(alpha_divergence, alpha=0.05),
    partial(alpha_divergence, alpha=0.95),
    total_variation,
]


def random_logprobs(*shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(*shape, dtype=torch.float64, generator=generator) * scale, dim=-1)


def test_forward_and_reverse_match_scipy():
    q, p = random_logprobs(9, 13), random_logprobs(9, 13, seed=1)
    forward = torch.from_numpy(rel_entr(q.exp().numpy(), p.exp().numpy()).sum(-1))
    torch.testing.assert_close(forward_kl(q, p), forward, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reverse_kl(p, q), forward, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_js_matches_its_definition(beta):
    q, p = random_logprobs(9, 13), random_logprobs(9, 13, seed=1)
    of_q, of_p = q.exp().numpy(), p.exp().numpy()
    middle = beta * of_q + (1 - beta) * of_p
    expected = beta * rel_entr(of_q, middle).sum(-1) + (1 - beta) * rel_entr(of_p, middle).sum(-1)
    torch.testing.assert_close(js(q, p, beta=beta), torch.from_numpy(expected), rtol=1e-12, atol=1e-13)


def test_ends_of_beta_are_named_as_in_trl_and_are_the_limits():
    q, p = random_logprobs(4, 6), random_logprobs(4, 6, seed=1)
    assert torch.equal(js(q, p, beta=0.0), forward_kl(q, p))
    assert torch.equal(js(q, p, beta=1.0), reverse_kl(q, p))
    small = 1e-6
    torch.testing.assert_close(js(q, p, beta=small) / small, forward_kl(q, p), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(js(q, p, beta=1 - small) / small, reverse_kl(q, p), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("divergence", ALL)
def test_zero_for_equal_and_positive_otherwise(divergence):
    q, p = random_logprobs(50, 7), random_logprobs(50, 7, seed=1)
    # Near its ends alpha divides the rounding of probabilities by alpha (1 - alpha).
    assert divergence(q, q).abs().max() <= 5e-15
    assert (divergence(q, p) > 0).all()


def exact_js(q, p, beta):
    """Return value and gradient by ``log p`` of one position, from logits, in decimals."""
    with localcontext(prec=60):
        q, p = ([Decimal(x).exp() for x in each] for each in (q, p))
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        beta = Decimal(beta)
        middle = [beta * x + (1 - beta) * y for x, y in zip(q, p, strict=True)]
        of_target = sum(x * (x / m).ln() for x, m in zip(q, middle, strict=True))
        each = [y * (y / m).ln() for y, m in zip(p, middle, strict=True)]
        slope = [float((1 - beta) * (one - y * sum(each))) for one, y in zip(each, p, strict=True)]
        return float(beta * of_target + (1 - beta) * sum(each)), slope


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("impl", ["auto", "reference", "chunked"])
@pytest.mark.parametrize("nearness", [1e-12, 1e-7, 1e-4, 0.02, 0.09, 0.11])
def test_js_keeps_its_digits_near_its_ends(impl, nearness, dtype):
    generator = torch.Generator().manual_seed(0)
    q, p = ((128 * torch.randn(30, dtype=torch.float64, generator=generator)).round() / 64 for _ in range(2))
    # Where one of the two is less than float32 holds beside the other, and where it holds neither.
    q[3], p[4], q[5], p[5] = -99.0, -99.0, -110.0, -111.0
    for beta in (nearness, 1 - nearness):
        value, slope = exact_js(q.tolist(), p.tolist(), beta)
        logits = p.to(dtype).view(1, 1, -1).requires_grad_()
        mask, one = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=dtype)
        loss = distillation_loss(
            logits, [Logits(q.to(dtype).view(1, 1, -1))], one, mask=mask, impl=impl, divergence="js", beta=beta
        )
        (gradient,) = torch.autograd.grad(loss.total, logits)
        exact, eps = torch.tensor(slope, dtype=torch.float64), torch.finfo(dtype).eps
        # What is fused may take a plain difference up to 0.01 from an end, but no nearer.
        digits = eps if impl != "auto" or nearness < END else 100 * eps
        assert loss.total.item() == pytest.approx(value, rel=16 * digits)
        assert (gradient.flatten() - exact).norm() <= 32 * digits * exact.norm()


def test_js_is_at_most_ln2():
    apart = Dense.from_probs(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)).logprobs
    assert js(apart[:1], apart[1:]).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("divergence", ALL)
def test_finite_with_impossible_entries_on_either_side(divergence):
    zero_here = Dense.from_probs(torch.tensor([[0.5, 0.5, 0.0]])).logprobs.requires_grad_()
    zero_there = Dense.from_probs(torch.tensor([[0.0, 0.5, 0.5]])).logprobs.requires_grad_()
    value = divergence(zero_here, zero_there)
    value.sum().backward()
    assert value.isfinite().all()
    assert zero_here.grad is not None
    assert zero_there.grad is not None
    assert zero_here.grad.isfinite().all()
    assert zero_there.grad.isfinite().all()


def test_mass_where_the_student_has_none_costs_the_floor():
    q = Dense.from_probs(torch.tensor([[0.5, 0.5]])).logprobs
    p = Dense.from_probs(torch.tensor([[1.0, 0.0]])).logprobs
    assert forward_kl(q, p).item() == pytest.approx(-0.5 * numerics.LOG_ZERO - math.log(2), rel=1e-6)


@pytest.mark.parametrize("divergence", ALL)
def test_gradcheck(divergence):
    q, p = random_logprobs(2, 4).requires_grad_(), random_logprobs(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(divergence, (q, p))


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_beta_outside_is_refused(beta):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        js(random_logprobs(1, 2), random_logprobs(1, 2), beta=beta)


def pair(q, p):
    return torch.tensor([q, p], dtype=torch.float64).log().unbind()


@pytest.mark.parametrize(
    ("divergence", "q", "p", "expected"),
    [
        # The mixture is (5/8, 3/8) either way.
        (partial(skew_kl, skew=0.5), (3 / 4, 1 / 4), (1 / 2, 1 / 2), 3 / 4 * math.log(6 / 5) + math.log(2 / 3) / 4),
        (partial(reverse_skew_kl, skew=0.5), (3 / 4, 1 / 4), (1 / 2, 1 / 2), math.log(4 / 5) / 2 + math.log(4 / 3) / 2),
        # A fifth of the first argument: (11/20, 9/20), and (7/10, 3/10).
        (partial(skew_kl, skew=0.2), (3 / 4, 1 / 4), (1 / 2, 1 / 2), 3 / 4 * math.log(15 / 11) + math.log(5 / 9) / 4),
        (partial(reverse_skew_kl, skew=0.2), (3 / 4, 1 / 4), (1 / 2, 1 / 2), math.log(5 / 7) / 2 + math.log(5 / 3) / 2),
        # 12/25 at each of two entries overlap.
        (alpha_divergence, (16 / 25, 9 / 25), (9 / 25, 16 / 25), 4 / 25),
        # q^(1/3) p^(2/3) is 4/9 and 2/9.
        (partial(alpha_divergence, alpha=1 / 3), (1 / 9, 8 / 9), (8 / 9, 1 / 9), 9 / 2 * (1 - 6 / 9)),
        (total_variation, (3 / 4, 1 / 4), (1 / 2, 1 / 2), 1 / 4),
    ],
)
def test_two_entries_by_hand(divergence, q, p, expected):
    assert divergence(*pair(q, p)).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("skew", [0.01, 0.1, 0.5, 0.99])
def test_skew_kl_is_the_kl_to_a_mixture_with_its_first_argument(skew):
    q, p = random_logprobs(9, 13), random_logprobs(9, 13, seed=1)
    of_q, of_p = q.exp().numpy(), p.exp().numpy()
    forward = rel_entr(of_q, skew * of_q + (1 - skew) * of_p).sum(-1)
    reverse = rel_entr(of_p, skew * of_p + (1 - skew) * of_q).sum(-1)
    torch.testing.assert_close(skew_kl(q, p, skew=skew), torch.from_numpy(forward), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(reverse_skew_kl(q, p, skew=skew), torch.from_numpy(reverse), rtol=1e-12, atol=1e-14)


def test_hellinger_is_the_middle_of_alpha():
    q, p = random_logprobs(9, 13), random_logprobs(9, 13, seed=1)
    squared_hellinger = ((q / 2).exp() - (p / 2).exp()).square().sum(-1) / 2
    torch.testing.assert_close(alpha_divergence(q, p), 4 * squared_hellinger, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_alpha_is_that_of_the_pools_and_mirrors(alpha):
    q, p = random_logprobs(9, 13), random_logprobs(9, 13, seed=1)
    there = divergence_between(q, p, divergence="alpha", alpha=alpha)
    torch.testing.assert_close(alpha_divergence(q, p, alpha=alpha), there, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(alpha_divergence(p, q, alpha=1 - alpha), there, rtol=1e-12, atol=1e-14)


def test_ends_of_skew_and_alpha_are_the_kl_divergences_and_the_limits():
    q, p = random_logprobs(4, 6), random_logprobs(4, 6, seed=1)
    for divergence, end, limit in (
        (partial(skew_kl, skew=0.0), partial(skew_kl, skew=1e-9), forward_kl),
        (partial(reverse_skew_kl, skew=0.0), partial(reverse_skew_kl, skew=1e-9), reverse_kl),
        (partial(alpha_divergence, alpha=1.0), partial(alpha_divergence, alpha=1 - 1e-6), forward_kl),
        (partial(alpha_divergence, alpha=0.0), partial(alpha_divergence, alpha=1e-6), reverse_kl),
    ):
        assert torch.equal(divergence(q, p), limit(q, p))
        torch.testing.assert_close(end(q, p), limit(q, p), rtol=1e-4, atol=1e-6)


def test_bounds_are_kept_and_reached():
    q, p = random_logprobs(50, 7, scale=20), random_logprobs(50, 7, seed=1, scale=20)
    apart = Dense.from_probs(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)).logprobs.split(1)
    for divergence, bound in (
        (partial(skew_kl, skew=0.3), -math.log(0.3)),
        (partial(reverse_skew_kl, skew=0.3), -math.log(0.3)),
        (partial(alpha_divergence, alpha=0.2), 1 / 0.16),
        (total_variation, 1.0),
    ):
        assert (divergence(q, p) <= bound + 1e-12).all()
        assert divergence(*apart).item() == pytest.approx(bound, rel=1e-12)
    # Pinsker's inequality.
    assert (2 * total_variation(q, p) ** 2 <= forward_kl(q, p) + 1e-12).all()


def test_total_variation_takes_the_slope_0_at_its_corner():
    q = random_logprobs(2, 4)
    p = q.clone().requires_grad_()
    total_variation(q, p).sum().backward()
    assert torch.equal(p.grad, torch.zeros_like(q))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (partial(skew_kl, skew=1.0), r"skew=1\.0 must lie in \[0, 1\)"),
        (partial(skew_kl, skew=-0.1), r"skew=-0\.1 must lie"),
        (partial(reverse_skew_kl, skew=math.nan), "skew=nan must lie"),
        (partial(alpha_divergence, alpha=2.0), r"alpha=2\.0 must lie in \[0, 1\]: 1 is the forward KL"),
        (partial(alpha_divergence, alpha=math.nan), "alpha=nan must lie"),
    ],
)
def test_options_outside_are_refused(refused, message):
    with pytest.raises(ValueError, match=message):
        refused(random_logprobs(1, 2), random_logprobs(1, 2))
