"""The pool inside the loss is the public pool."""

import pytest
import torch

from mashbill import pools
from mashbill.distributions import Dense
from mashbill.losses import target


@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_streamed_pool_equals_the_public_one(problem, pool):
    case = problem()
    stacked = torch.stack([one.logprobs for one in case.teachers if isinstance(one, Dense)])
    expected = getattr(pools, pool)(stacked, case.log_weights).flatten(0, 1)
    got = target.pooled(list(stacked.flatten(1, 2)), case.log_weights.flatten(1), pool=pool)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
