import math

import pytest
import torch
from scipy.special import rel_entr

from mashbill import numerics
from mashbill.distributions import Dense
from mashbill.losses import forward_kl, js, reverse_kl

ALL = [forward_kl, reverse_kl, js]


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
    assert divergence(q, q).abs().max() <= 1e-15
    assert (divergence(q, p) > 0).all()


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
