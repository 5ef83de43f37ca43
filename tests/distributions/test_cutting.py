from dataclasses import fields

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, TopK, measure
from mashbill.distributions.cutting import measure_and_cut


@pytest.mark.parametrize("n_entries", [9, 20_000])
@pytest.mark.parametrize("spread", [0.1, 3, 60])
def test_the_passes_that_are_shared_change_nothing(n_entries: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(6, n_entries, generator=generator)
    logits[0, 3:] = -torch.inf
    logits[1] = 0  # every entry as large as any other
    logits[2, 4] = 200 + logits[2].max()  # all others together are less than float32 has probabilities for
    logprobs, labels = numerics.log_softmax(logits), torch.tensor([0, 1, -100, 3, 4, 5])
    topk, statistics = measure_and_cut(logprobs, labels=labels, k=5)
    plain = TopK.from_logprobs(logprobs, k=5)
    assert torch.equal(topk.logprobs, plain.logprobs)
    assert torch.equal(topk.logprobs, logprobs.gather(-1, topk.ids))
    assert all(len(set(row)) == 5 for row in topk.ids.tolist())
    torch.testing.assert_close(topk.log_tail, plain.log_tail, rtol=1e-5, atol=1e-5)
    exact = measure(Dense(logprobs), labels=labels)
    for field in fields(exact):
        torch.testing.assert_close(
            getattr(statistics, field.name), getattr(exact, field.name), rtol=1e-6, atol=1e-6, equal_nan=True
        )


def test_what_is_no_number_stays_none() -> None:
    topk, statistics = measure_and_cut(torch.full((1, 8), torch.nan), labels=torch.tensor([-100]), k=2)
    assert topk.log_tail.isnan().all()
    assert statistics.entropy.isnan().all()
