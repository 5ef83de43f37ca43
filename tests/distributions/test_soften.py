import itertools
import math

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, TopK, measure, soften

P = torch.tensor([0.7, 0.2, 0.08, 0.02], dtype=torch.float64)


def random_logprobs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(*shape, dtype=torch.float64, generator=generator) * 3, dim=-1)


def entropy(logprobs):
    return measure(Dense(logprobs)).entropy


def test_power_golden(golden):
    expected, [entropy_nats] = golden("F46")["expected"]
    soft = soften.power(P.log(), temperature=2.0)
    assert soft.exp().tolist() == pytest.approx(expected, abs=golden("F46")["tol"])
    assert entropy(soft).item() == pytest.approx(entropy_nats, abs=golden("F46")["tol"])


def test_mixture_golden(golden):
    soft = soften.mixture(P.log(), temperature=2.0).exp()
    assert soft.tolist() == pytest.approx(golden("F48")["expected"], abs=golden("F48")["tol"])


@pytest.mark.parametrize("family", [soften.power, soften.mixture])
def test_temperature_one_changes_nothing(family):
    logprobs = random_logprobs(3, 5)
    assert family(logprobs, temperature=1.0) is logprobs


@pytest.mark.parametrize(
    ("family", "pairs"), [(soften.power, [(0.5, 3.0), (2.0, 4.0)]), (soften.mixture, [(2.0, 3.0)])]
)
def test_semigroup(family, pairs):
    logprobs = random_logprobs(8, 6)
    for first, second in pairs:
        twice = family(family(logprobs, temperature=first), temperature=second)
        torch.testing.assert_close(twice, family(logprobs, temperature=first * second), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", [soften.power, soften.mixture])
def test_entropy_grows_and_ranking_stays(family):
    logprobs = random_logprobs(20, 6)
    softened = [family(logprobs, temperature=t) for t in (1.0, 1.5, 2.0, 5.0, 20.0)]
    for before, after in itertools.pairwise(softened):
        assert (entropy(after) > entropy(before)).all()
        assert (after.argsort(-1) == logprobs.argsort(-1)).all()


def test_entropy_derivative_is_the_varentropy_over_t_cubed():
    logprobs, t, step = random_logprobs(5, 7), 1.7, 1e-5
    up, down = (entropy(soften.power(logprobs, temperature=t + s)) for s in (step, -step))
    p = soften.power(logprobs, temperature=t).exp()
    variance = (p * logprobs**2).sum(-1) - (p * logprobs).sum(-1) ** 2
    torch.testing.assert_close((up - down) / (2 * step), variance / t**3, rtol=1e-7, atol=1e-9)


def test_limits():
    logprobs = Dense.from_probs(torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64)).logprobs
    on_support = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(soften.power(logprobs, temperature=1e9).exp(), on_support, rtol=0, atol=1e-8)
    everywhere = torch.full((4,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(soften.mixture(logprobs, temperature=1e9).exp(), everywhere, rtol=0, atol=1e-8)
    sharp = soften.power(logprobs, temperature=1e-3).exp()
    torch.testing.assert_close(sharp, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_zeros_stay_zero_at_every_temperature():
    logprobs = Dense.from_probs(torch.tensor([0.5, 0.5, 0.0])).logprobs
    for t in (0.1, 1.0, 20.0, 1e6):
        assert soften.power(logprobs, temperature=t)[2] == numerics.LOG_ZERO


def test_narrow_input_is_softened_in_float32():
    logprobs = random_logprobs(4, 100).bfloat16()
    for family in (soften.power, soften.mixture):
        got = family(logprobs, temperature=3.0)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, family(logprobs.double(), temperature=3.0).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2])
def test_smallest_vocabularies(n):
    even = torch.full((n,), -math.log(n))
    for family in (soften.power, soften.mixture):
        torch.testing.assert_close(family(even, temperature=4.0), even)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_power_refuses_temperatures_that_are_not_positive(temperature):
    stored = TopK.from_logprobs(random_logprobs(2, 4), k=2)
    with pytest.raises(ValueError, match="must be positive"):
        soften.power(random_logprobs(2, 4), temperature=temperature)
    with pytest.raises(ValueError, match="must be positive"):
        soften.power_topk(stored, temperature=temperature)


def test_mixture_refuses_to_sharpen():
    with pytest.raises(ValueError, match=r"temperature=0\.5 must be at least 1; use soften\.power"):
        soften.mixture(random_logprobs(2, 4), temperature=0.5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0, 20.0])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_top_k_is_softened_as_its_even_completion(temperature, k):
    stored = TopK.from_logprobs(random_logprobs(5, 6), k=k)
    softened = soften.power_topk(stored, temperature=temperature)
    expected = soften.power(stored.densify(), temperature=temperature)
    torch.testing.assert_close(softened.densify(), expected, rtol=1e-12, atol=1e-12)


def test_top_k_keeps_unused_slots_and_missing_tails_empty():
    stored = TopK(
        torch.tensor([[0, -1]]),
        torch.tensor([[0.0, numerics.LOG_ZERO]]),
        torch.tensor([numerics.LOG_ZERO]),
        n_entries=3,
    )
    softened = soften.power_topk(stored, temperature=1e5)
    assert softened.logprobs.tolist() == [[0.0, numerics.LOG_ZERO]]
    assert softened.log_tail.tolist() == [numerics.LOG_ZERO]
