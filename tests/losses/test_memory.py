"""The chunked loss needs the gradient and a few chunks above its inputs, however many teachers there are."""

import math

import pytest
import torch

from mashbill.distributions import Dense, TopK
from mashbill.losses import chunked, distillation_loss


@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_memory_is_the_gradient_and_a_few_chunks(kind, peak_mib):
    n_positions, n_entries = 256, 50_000
    logits = torch.randn(1, n_positions, n_entries, generator=torch.Generator().manual_seed(0)).requires_grad_()
    dense = Dense.from_logits(logits.detach())
    teachers = [dense if kind == "dense" else TopK.from_logprobs(dense.logprobs, k=32)] * 3
    log_weights, mask = torch.full((3, 1, 1), -math.log(3)), torch.ones(1, n_positions, dtype=torch.bool)
    gradient_mib = logits.numel() * 4 / 2**20
    chunks_mib = 8 * chunked.rows_at_once(n_entries, torch.device("cpu")) * n_entries * 4 / 2**20

    def run():
        loss = distillation_loss(logits, teachers, log_weights, mask=mask, scale=1 / n_positions)
        torch.autograd.grad(loss.total, logits)

    run()  # Once unmeasured: first calls load code.
    # Several times: memory that others free meanwhile hides a rise.
    assert 0.5 * gradient_mib < max(peak_mib(run) for _ in range(3)) <= gradient_mib + chunks_mib + 8
