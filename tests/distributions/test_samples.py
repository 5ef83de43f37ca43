import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from mashbill.distributions import Dense, entropy_from_samples, max_varentropy, measure, reads_needed

DOUBLE = torch.float64


def varentropy(logprobs):
    p = logprobs.exp()
    mean = (p * logprobs).sum(-1, keepdim=True)
    return (p * (logprobs - mean).square()).sum(-1)


def reads_of(logprobs, n, *, repeats, seed=0):
    """Return log-probabilities of draws, ``[n repeats]``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(logprobs.exp(), n * repeats, replacement=True, generator=generator)
    return logprobs[drawn].reshape(n, repeats)


def test_reads_for_a_language_model():
    assert max_varentropy(50257) == pytest.approx(30.28, abs=0.005)
    assert reads_needed(50257, error=0.05) == 12114
    assert reads_needed(50257, error=0.1) == math.ceil(max_varentropy(50257) / 0.01)
    assert reads_needed(1, error=0.1) == 1


@pytest.mark.parametrize("n_entries", [2, 3, 10, 1000, 50257, 10**6])
def test_max_varentropy_is_the_best_two_level_distribution(n_entries):
    log_others = math.log(n_entries - 1)

    def negative(x):
        a = 1 / (1 + math.exp(-x))
        return -a * (1 - a) * (x + log_others) ** 2

    best = minimize_scalar(negative, bounds=(0, 30), method="bounded", options={"xatol": 1e-10})
    assert max_varentropy(n_entries) == pytest.approx(-best.fun, rel=1e-12)
    assert log_others**2 / 4 <= max_varentropy(n_entries) <= log_others**2 / 4 + 1


@pytest.mark.parametrize("n_entries", [2, 4, 9])
def test_ascent_reaches_max_varentropy_and_never_passes_it(n_entries):
    logits = torch.randn(60, n_entries, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).mul_(2)
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for _ in range(250):
        optimiser.zero_grad()
        (-varentropy(logits.log_softmax(-1)).sum()).backward()
        optimiser.step()
    largest = float(varentropy(logits.detach().log_softmax(-1)).max())
    assert 0.9999 * max_varentropy(n_entries) < largest <= max_varentropy(n_entries) * (1 + 1e-12)


def test_estimate_and_standard_error_are_those_of_the_mean():
    logprobs = (2 * torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)).log_softmax(-1)
    n, repeats = 200, 4000
    estimate = entropy_from_samples(reads_of(logprobs, n, repeats=repeats))
    entropy, error = measure(Dense(logprobs)).entropy, (varentropy(logprobs) / n).sqrt()
    assert estimate.n_reads == n
    assert float(estimate.entropy.mean()) == pytest.approx(float(entropy), abs=4 * float(error) / repeats**0.5)
    assert float(estimate.entropy.std()) == pytest.approx(float(error), rel=0.05)
    assert float(estimate.standard_error.mean()) == pytest.approx(float(error), rel=0.02)


def test_the_guaranteed_interval_covers_even_where_the_standard_error_does_not():
    # Few reads of the distribution of largest varentropy: most draws see nothing but its one large entry.
    n_entries, n = 50257, 3
    logprobs = torch.full((n_entries,), math.log(0.03 / (n_entries - 1)), dtype=DOUBLE)
    logprobs[0] = math.log(0.97)
    entropy = float(measure(Dense(logprobs)).entropy)
    estimate = entropy_from_samples(reads_of(logprobs, n, repeats=4000))
    told = (estimate.entropy - entropy).abs() <= 2 * estimate.standard_error
    assert float(told.double().mean()) < 0.2
    low, high = estimate.interval(n_entries=n_entries, confidence=0.8)
    assert ((low <= entropy) & (entropy <= high)).double().mean() >= 0.8
    assert float(high.max()) <= math.log(n_entries)
    assert (low >= 0).all()


def test_the_guaranteed_interval_is_chebyshevs():
    estimate = entropy_from_samples(torch.full((1000, 2), -3.0, dtype=DOUBLE))
    low, high = estimate.interval(n_entries=50257, confidence=0.9)
    reach = math.sqrt(max_varentropy(50257) / 100)
    assert [float(low[0]), float(high[1])] == pytest.approx([3 - reach, 3 + reach])
    assert float(estimate.standard_error.max()) == 0


def test_a_single_read_has_no_standard_error():
    estimate = entropy_from_samples(torch.tensor([[-1.5]]))
    assert estimate.entropy.tolist() == [1.5]
    assert estimate.standard_error.tolist() == [math.inf]
    assert entropy_from_samples(torch.zeros(4, 2, dtype=torch.float16)).entropy.dtype == torch.float32


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match=r"^logprobs has no reads"):
        entropy_from_samples(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"^error=0 must be positive"):
        reads_needed(10, error=0)
    with pytest.raises(ValueError, match=r"^confidence=1\.0 must be at least 0 and below 1"):
        entropy_from_samples(torch.zeros(2)).interval(n_entries=3, confidence=1.0)
