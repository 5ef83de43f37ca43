import math

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, TopK
from mashbill.losses import forward_kl

LN2 = math.log(2)


def random_logprobs(*shape, seed=0, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(*shape, dtype=dtype, generator=generator) * scale, dim=-1)


def with_gaps() -> TopK:
    """Three rows over five entries: full slots, a gap in front, nothing stored."""
    return TopK(
        ids=torch.tensor([[3, 1], [-1, 2], [-1, -1]]),
        logprobs=torch.tensor([[0.5, 0.2], [0.0, 0.6], [0.0, 0.0]], dtype=torch.float64)
        .log()
        .clamp_min(numerics.LOG_ZERO),
        log_tail=torch.tensor([0.3, 0.4, 1.0], dtype=torch.float64).log(),
        n_entries=5,
    )


def test_all_entries_kept_is_dense():
    logprobs = random_logprobs(4, 7)
    stored = TopK.from_logprobs(logprobs, k=7)
    assert stored.log_tail.tolist() == [numerics.LOG_ZERO] * 4
    torch.testing.assert_close(stored.densify(), logprobs, rtol=0, atol=0)
    torch.testing.assert_close(stored.densify(like=random_logprobs(4, 7, seed=1)), logprobs, rtol=0, atol=0)


def test_k_beyond_the_vocabulary_keeps_all():
    assert TopK.from_logprobs(random_logprobs(2, 3), k=9).ids.shape == (2, 3)


def test_no_entry_kept_is_refused():
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        TopK.from_logprobs(random_logprobs(2, 3), k=0)


def test_tail_is_the_mass_cut_off_even_where_one_minus_the_rest_is_rounding():
    logprobs = Dense.from_logits(torch.tensor([0.0, -25.0, -26.0])).logprobs
    exact = math.log(math.exp(-25) + math.exp(-26)) - math.log1p(math.exp(-25) + math.exp(-26))
    assert TopK.from_logprobs(logprobs, k=1).log_tail.item() == pytest.approx(exact, abs=1e-6)


def test_tail_of_impossible_entries_is_none():
    logprobs = Dense.from_logits(torch.tensor([0.0, -torch.inf, -torch.inf])).logprobs
    assert TopK.from_logprobs(logprobs, k=1).log_tail.item() == numerics.LOG_ZERO


def test_even_tail_gives_every_unstored_entry_the_same():
    dense = with_gaps().densify().exp()
    expected = [[0.1, 0.2, 0.1, 0.5, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.2] * 5]
    torch.testing.assert_close(dense, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


def test_unused_slots_count_nowhere():
    stored = with_gaps()
    assert stored.n_used.tolist() == [2, 1, 0]
    found = stored.logprob_of(torch.tensor([3, 0, 4])).exp()
    torch.testing.assert_close(found, torch.tensor([0.5, 0.1, 0.2], dtype=torch.float64), rtol=0, atol=1e-15)


def test_logprob_of_agrees_with_the_dense_form():
    stored = TopK.from_logprobs(random_logprobs(50, 9), k=3)
    index = torch.randint(9, (50,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(stored.logprob_of(index), Dense(stored.densify()).logprob_of(index))


def test_shaped_tail_sums_to_one_and_follows_the_shape():
    like = random_logprobs(3, 5, seed=2)
    dense = with_gaps().densify(like=like)
    torch.testing.assert_close(dense.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    # Unstored entries 0, 2, 4 of the first row keep the student's ratios.
    torch.testing.assert_close(dense[0, [0, 2]] - dense[0, 4], like[0, [0, 2]] - like[0, 4])
    torch.testing.assert_close(dense[2], like[2])


def test_shaped_tail_gives_the_coarse_grained_divergence():
    teacher, student = random_logprobs(20, 11), random_logprobs(20, 11, seed=3)
    stored = TopK.from_logprobs(teacher, k=4)
    fine = forward_kl(stored.densify(like=student), student)
    # The same two distributions with everything unstored put into one bucket.
    bucket = torch.ones(20, 11, dtype=torch.float64).scatter(-1, stored.ids, 0)
    log_left = (student.exp() * bucket).sum(-1, keepdim=True).log()
    p = torch.cat([stored.logprobs, stored.log_tail.unsqueeze(-1)], -1)
    s = torch.cat([student.gather(-1, stored.ids), log_left], -1)
    torch.testing.assert_close(fine, forward_kl(p, s), rtol=1e-12, atol=1e-13)
    # It is the least of all completions, so less than the even one and the truth.
    assert (fine <= forward_kl(stored.densify(), student) + 1e-12).all()
    assert (fine <= forward_kl(teacher, student) + 1e-12).all()


def test_shaped_tail_is_right_where_the_shape_has_almost_no_mass():
    like = Dense.from_logits(torch.tensor([[0.0, -30.0, -31.0]])).logprobs
    stored = TopK(torch.tensor([[0]]), torch.tensor([[-LN2]]), torch.tensor([-LN2]), n_entries=3)
    share = 1 / (1 + math.exp(-1))
    expected = torch.tensor([[0.5, 0.5 * share, 0.5 * (1 - share)]])
    torch.testing.assert_close(stored.densify(like=like).exp(), expected)


def test_shaped_tail_is_even_where_the_shape_has_no_mass():
    like = Dense.from_logits(torch.tensor([[0.0, -torch.inf, -torch.inf]])).logprobs
    stored = TopK(torch.tensor([[0]]), torch.tensor([[-LN2]]), torch.tensor([-LN2]), n_entries=3)
    torch.testing.assert_close(stored.densify(like=like).exp(), torch.tensor([[0.5, 0.25, 0.25]]))


def test_masked_entries_of_the_shape_stay_impossible():
    like = Dense.from_logits(torch.tensor([[0.0, 0.0, -torch.inf]])).logprobs
    stored = TopK(torch.tensor([[0]]), torch.tensor([[-LN2]]), torch.tensor([-LN2]), n_entries=3)
    dense = stored.densify(like=like)
    assert dense[0, 2] == numerics.LOG_ZERO
    torch.testing.assert_close(dense.exp(), torch.tensor([[0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_values_are_widened_before_sums(dtype):
    logprobs = random_logprobs(6, 1000, dtype=torch.float32).to(dtype)
    stored = TopK.from_logprobs(logprobs, k=8)
    rest = 1 - stored.logprobs.double().exp().sum(-1)
    total = logprobs.double().exp().sum(-1)
    torch.testing.assert_close(stored.log_tail.double().exp(), rest + total - 1, rtol=0, atol=1e-6)
    assert stored.densify().dtype == torch.float32


def test_vocabularies_of_one_and_two():
    one = TopK.from_logprobs(torch.zeros(2, 1), k=1)
    assert one.densify().tolist() == [[0.0], [0.0]]
    two = TopK.from_logprobs(torch.tensor([[0.9, 0.1]]).log(), k=1)
    torch.testing.assert_close(two.densify().exp(), torch.tensor([[0.9, 0.1]]))
