"""What a list says of a tail that is smaller than the rounding of its numbers."""

import math

import pytest
import torch

from mashbill import numerics
from mashbill.distributions.interval import softened_tail_interval
from mashbill.distributions.topk import TopK
from mashbill.shapes import Tensor
from mashbill.teachers.endpoint.assembling import assemble
from mashbill.teachers.endpoint.replies import listed
from mashbill.teachers.endpoint.rounding import Rounding
from mashbill.teachers.protocol import Inputs
from mashbill.train.heard import tail_ends

N_ENTRIES = 50_000


def peaked(height: float, *, seed: int) -> Tensor:
    """Return the log-probabilities of one position in float64, as of a softmax of float32 logits."""
    logits = torch.randn(N_ENTRIES, generator=torch.Generator().manual_seed(seed)) * 1.5
    logits[0] += height
    return logits


@pytest.mark.parametrize("height", [0, 8, 16, 20, 24, 26, 28, 30, 32, 34])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_what_a_rounded_list_leaves_open_holds_the_truth(height: int, dtype: torch.dtype, temperature: float) -> None:
    logits = peaked(height, seed=height)
    exact = torch.log_softmax(logits.double(), dim=-1)
    said = torch.log_softmax(logits, dim=-1).to(dtype)
    top = said.float().topk(64)
    one = listed(zip(top.indices.tolist(), top.values.tolist(), strict=True), n_least=64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    inputs = Inputs(("r",), ("",), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), mask)
    scored = assemble({0: {0: one}}, inputs, n_entries=N_ENTRIES, refused={})

    found, statistics = scored.distribution, scored.statistics
    assert isinstance(found, TopK)
    rest = exact.clone()
    rest[top.indices] = -math.inf
    assert float(found.log_tail) > numerics.LOG_ZERO
    assert float(found.logprobs.exp().sum() + found.log_tail.exp()) == pytest.approx(1, abs=1e-6)
    entropy = float(-(exact.exp() * exact).sum())
    assert float(statistics.entropy_low) <= entropy <= float(statistics.entropy)

    softened = torch.log_softmax(exact / temperature, dim=-1)
    truth = 1 - float(softened[top.indices].exp().sum())
    low, high = tail_ends(found, temperature, is_top=False, is_rounded=True)
    assert float(low) - 1e-7 <= truth <= float(high) + 1e-7


def test_where_the_tail_is_large_the_interval_is_that_of_the_numbers() -> None:
    top = torch.log_softmax(peaked(8, seed=8), dim=-1).topk(64)
    one = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    log_tail = torch.tensor(math.log(1 - math.fsum(map(math.exp, one.values()))))
    found = TopK(top.indices, top.values, log_tail, N_ENTRIES)
    plain = softened_tail_interval(found, temperature=2.0, is_top=False)
    torch.testing.assert_close(tail_ends(found, 2.0, is_top=False, is_rounded=True), plain, atol=5e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sixteen_bits_are_told_from_the_numbers(dtype: torch.dtype) -> None:
    numbers = torch.log_softmax(torch.randn(64, generator=torch.Generator().manual_seed(0)), dim=-1).to(dtype)
    share = {torch.float32: 0.0, torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}[dtype]
    assert Rounding.of(numbers.tolist()).share == share
    assert Rounding.of([float(f"{one:.9g}") for one in numbers.tolist()]).share == share
    true = torch.log_softmax(torch.randn(64, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    off = abs(math.fsum(map(math.exp, numbers.tolist())) - float(true.exp().sum()))
    assert off <= Rounding(share).of_mass(numbers.tolist())
