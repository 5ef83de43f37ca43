import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense


def test_from_logits_is_normalised_and_floored():
    dense = Dense.from_logits(torch.tensor([[2.0, -torch.inf, 0.0]]))
    assert dense.logprobs[0, 1] == numerics.LOG_ZERO
    torch.testing.assert_close(dense.logprobs.exp().sum(-1), torch.ones(1))
    assert dense.n_entries == 3


def test_from_probs_round_trips_with_zeros():
    probabilities = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(Dense.from_probs(probabilities).logprobs.exp(), probabilities, rtol=0, atol=1e-15)


@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [torch.nan, 1.0]])
def test_from_probs_refuses_what_is_no_distribution(row):
    with pytest.raises(ValueError, match=r"sum to 1 within 0\.0001"):
        Dense.from_probs(torch.tensor(row))


def test_from_probs_allows_the_rounding_of_the_dtype():
    rounded = torch.softmax(torch.randn(1000, generator=torch.Generator().manual_seed(0)), -1).bfloat16()
    assert abs(rounded.float().sum().item() - 1) > 1e-4
    assert Dense.from_probs(rounded).n_entries == 1000


def test_logprob_of_picks_one_entry_a_position():
    dense = Dense(torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]))
    assert dense.logprob_of(torch.tensor([1, 0], dtype=torch.int32)).tolist() == [-2.0, -3.0]


def test_one_entry_is_certain():
    assert Dense.from_logits(torch.tensor([[7.0]])).logprobs.tolist() == [[0.0]]
