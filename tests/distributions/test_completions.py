import math
from collections import Counter

import pytest
import torch

from mashbill.distributions import Dense, empirical, empirical_error, entropy_bias, measure, paraphrase_consistency

DOUBLE = torch.float64


def draws(p, n, *, repeats, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(p, n * repeats, replacement=True, generator=generator).reshape(n, repeats)


def test_paraphrase_consistency_golden(golden):
    assert paraphrase_consistency(["a", "a", "b", "a", "c"]) == pytest.approx(golden("F75")["expected"])
    assert paraphrase_consistency("aabac") == 0.6
    assert paraphrase_consistency([7]) == 1.0
    assert paraphrase_consistency([1, 2, 3, 4]) == 0.25


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1])
def test_counts_are_those_of_a_counter(smoothing):
    n, n_entries = 7, 6
    answers = torch.randint(0, n_entries, (n, 4, 3), generator=torch.Generator().manual_seed(0))
    answers[:, 0, 0] = 2
    found = empirical(answers, n_entries=n_entries, smoothing=smoothing)
    dense = found.distribution.densify().exp()
    for b in range(4):
        for t in range(3):
            counts = Counter(answers[:, b, t].tolist())
            expected = [(counts[v] + smoothing) / (n + smoothing * n_entries) for v in range(n_entries)]
            assert dense[b, t].tolist() == pytest.approx(expected, abs=1e-6)
            shares = [count / n for count in counts.values()]
            assert float(found.entropy[b, t]) == pytest.approx(-sum(s * math.log(s) for s in shares), abs=1e-6)
            assert float(found.consistency[b, t]) == pytest.approx(max(shares))
            assert float(found.entropy_bias[b, t]) == pytest.approx(entropy_bias(len(counts), n_samples=n))
    torch.testing.assert_close(found.corrected_entropy, (found.entropy - found.entropy_bias).clamp_max(math.log(6)))


def test_one_answer_is_one_hot():
    found = empirical(torch.tensor([[2, 0]]), n_entries=4)
    assert found.distribution.densify().exp().tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert measure(found.distribution).entropy.tolist() == [0, 0]
    assert found.entropy_bias.tolist() == [0, 0]


def test_consistency_of_ids_is_that_of_the_answers():
    ids = torch.tensor([0, 0, 1, 0, 2])
    assert float(empirical(ids, n_entries=9).consistency) == pytest.approx(paraphrase_consistency(ids.tolist()))


@pytest.mark.parametrize(("n", "smoothing"), [(20, 0.0), (200, 0.0), (20, 0.5), (200, 2.0)])
def test_the_expected_error_is_below_its_bound_and_near_it_at_uniform(n, smoothing):
    n_entries, repeats = 30, 500
    uniform = torch.full((n_entries,), 1 / n_entries, dtype=DOUBLE)
    skewed = torch.zeros(n_entries, dtype=DOUBLE)
    skewed[0] = 1.0
    bound = empirical_error(n_entries, n_samples=n, smoothing=smoothing)
    errors = []
    for p in (uniform, skewed):
        found = empirical(draws(p, n, repeats=repeats), n_entries=n_entries, smoothing=smoothing)
        assert found.expected_error == bound
        errors.append(float((found.distribution.densify().exp() - p).abs().sum(-1).mean()))
    assert max(errors) <= bound
    if smoothing == 0:
        # A binomial's mean absolute deviation is sqrt(2/pi) of its standard deviation.
        assert errors[0] > 0.7 * bound


def test_the_bias_of_the_entropy_is_millers_and_madows():
    n_entries, n, repeats = 50, 2000, 2000
    p = torch.randn(n_entries, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).mul(0.5).softmax(-1)
    found = empirical(draws(p, n, repeats=repeats), n_entries=n_entries)
    exact = float(measure(Dense.from_probs(p)).entropy)
    bias = float(found.entropy.double().mean()) - exact
    noise = 4 * float(found.entropy.std()) / repeats**0.5
    assert entropy_bias(50, n_samples=2000) == -0.01225
    assert bias == pytest.approx(-0.01225, abs=noise + 2e-4)
    assert float(found.corrected_entropy.double().mean()) == pytest.approx(exact, abs=noise + 2e-4)


def test_the_error_never_passes_the_largest_distance():
    assert empirical_error(50257, n_samples=1) == 2.0
    assert empirical_error(1, n_samples=3) == 0.0


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"^answers has none"):
        empirical(torch.zeros(0, 2, dtype=torch.long), n_entries=3)
    with pytest.raises(ValueError, match=r"^answers are ids from 0 to 3, but must be in \[0, 3\)"):
        empirical(torch.tensor([0, 3]), n_entries=3)
    with pytest.raises(ValueError, match=r"^smoothing=-1 must be finite and not negative"):
        empirical(torch.tensor([0]), n_entries=3, smoothing=-1)
    with pytest.raises(ValueError, match=r"^answers=\[\] must hold at least one"):
        paraphrase_consistency([])
