"""The chunked loss needs the gradient and a few chunks above its inputs, however many teachers there are."""

import gc
import math
from pathlib import Path

import pytest
import torch

from mashbill.distributions import Dense, TopK
from mashbill.losses import chunked, distillation_loss


def peak_mib(run) -> float:
    """Return how far the process's memory rose above where it stood, in MiB."""
    gc.collect()  # What other tests left would be freed meanwhile and hide a rise.
    Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status")

    def field(name):
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    before = field("VmRSS")
    run()
    return field("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's resettable high-water mark")
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_memory_is_the_gradient_and_a_few_chunks(kind):
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
