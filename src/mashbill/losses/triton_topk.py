"""Top-k teachers as the GPU kernels read them: one table, sorted by entry, with an index by block."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mashbill.distributions.topk import TopK
from mashbill.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Packed:
    """``K`` top-k teachers at ``N`` positions; ``K`` may be 0.

    Attributes:
        ids: Stored entries, ascending; unused slots stand in front and hold ``-1``.
        logprobs: Their log-probabilities in nats.
        log_tails: Logs of the tails, nats.
        starts: For each block of entries the slot of its first stored entry, and the end of the last.
    """

    ids: Int[Tensor, "K N S"]
    logprobs: Float[Tensor, "K N S"]
    log_tails: Float[Tensor, "K N"]
    starts: Int[Tensor, "K N P"]

    @property
    def n_slots(self) -> int:
        """``S``."""
        return self.ids.shape[-1]


def pack(teachers: Sequence[TopK], *, block: int, device: torch.device) -> Packed:
    """Pad the teachers to the same ``S`` and sort each position by entry, so that a block finds its own."""
    if not teachers:
        table = torch.empty(0, 0, 0, dtype=torch.float32, device=device)
        return Packed(table.int(), table, table[:, :, 0:1].sum(-1), table.int())
    n_entries, n_slots = teachers[0].n_entries, max(1, *(one.ids.shape[-1] for one in teachers))
    every = [torch.sort(one.ids.flatten(0, 1).int(), dim=-1) for one in teachers]
    padding = [(n_slots - one.ids.shape[-1], 0) for one in teachers]
    values = [
        one.logprobs.flatten(0, 1).float().gather(-1, order) for one, (_, order) in zip(teachers, every, strict=True)
    ]
    pad = torch.nn.functional.pad
    ids = torch.stack([pad(ascending, room, value=-1) for (ascending, _), room in zip(every, padding, strict=True)])
    logprobs = torch.stack([pad(one, room) for one, room in zip(values, padding, strict=True)])
    log_tails = torch.stack([one.log_tail.flatten().float() for one in teachers])
    bounds = torch.arange(0, n_entries + block, block, dtype=torch.int32, device=device)
    bounds = bounds.expand(*ids.shape[:2], -1).contiguous()
    return Packed(ids, logprobs, log_tails, torch.searchsorted(ids, bounds, out_int32=True))
