"""What a shard keeps and loses of the answers in it; positions that nobody answered take no part."""

from dataclasses import dataclass, replace

import torch

from mashbill.distributions.topk import TopK
from mashbill.shapes import Float, Int, Tensor
from mashbill.teachers.positions import part_of
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.columns import Answered
from mashbill.teachers.store.layout import SUM_ROUNDING, Layout

N_MEASURED = 256
"""Positions of a shard on which the loss is measured."""


@dataclass(frozen=True)
class Figures:
    """Figures of one shard.

    Attributes:
        n_answered: Positions of rows that were answered where the answer names an entry at all.
        n_kept: Entries kept there.
        kept_mass: Sum over them of the mass of what is kept.
        n_short: How many of them hold less than ``Layout.mass``, since the teacher named no more, or ``k`` allows none.
        n_measured: How many of them, evenly spaced, the loss was measured on.
        lost: Sum over those of :func:`lost_nats`; None if nothing was measured, or the teacher's entropy is not known.
    """

    n_answered: int
    n_kept: int
    kept_mass: float
    n_short: int
    n_measured: int
    lost: float | None

    def with_loss(self, n_measured: int, lost: float | None) -> "Figures":
        """Add what was measured of rows that were answered before."""
        if self.n_measured == 0:
            return replace(self, n_measured=n_measured, lost=lost)
        both = None if lost is None or self.lost is None else self.lost + lost
        return replace(self, n_measured=self.n_measured + n_measured, lost=both)


def measured(fresh: Answered, kept: Scored, whole: Answered, layout: Layout) -> Figures:
    """Measure a shard.

    Args:
        fresh: Answers in it as they were given, of some or all of its rows.
        kept: The same as they are read back; the loss is measured on them.
        whole: All of the shard as it is read back.
        layout: How it is kept.
    """
    told, topk = _told(whole, whole.scored), whole.scored.distribution
    assert isinstance(topk, TopK), "a store keeps nothing else"
    tail = topk.log_tail[told].double().exp()
    at = _told(fresh, kept)
    here = at[torch.linspace(0, max(0, len(at) - 1), min(N_MEASURED, len(at))).long()]
    lost = lost_nats(part_of(fresh.scored, here), part_of(kept, here)) if len(here) else None
    return Figures(
        len(told),
        int(topk.n_used[told].sum()),
        float((1 - tail).sum()),
        # What rounding moves of the tail is no lack of entries.
        0 if layout.mass is None else int((1 - tail * (1 - layout.error_bound) < layout.mass - SUM_ROUNDING).sum()),
        len(here),
        None if lost is None else float(lost.sum()),
    )


def _told(answered: Answered, kept: Scored) -> Int[Tensor, " N"]:
    """Return the positions of rows that were answered where an entry is kept."""
    topk = kept.distribution
    assert isinstance(topk, TopK), "a store keeps nothing else"
    is_refused = torch.tensor([bool(reason) for reason in answered.refused], dtype=torch.bool)
    n_each = torch.from_numpy(answered.starts).diff()
    return ((topk.n_used > 0) & ~is_refused.repeat_interleave(n_each)).nonzero().squeeze(1)


def lost_nats(given: Scored, kept: Scored) -> Float[Tensor, " P"] | None:
    """Return ``KL(teacher || kept, tail spread evenly)`` at each position in nats; None if the entropy is not exact.

    Over the kept entries that is ``sum p ln(p/q) - p + q``, which what is not quite 1 together does not move. Over all
    others it is ``-h - r ln q + (V - S) q - r`` for their mass ``r``, their part ``h`` of the entropy of the teacher's
    full distribution, and the one value ``q`` that they are read as: what the teacher said of each need not be known.
    Rounding of the entropy can make that less than 0 by some 1e-6. Where nothing is left it is exactly 0.
    """
    statistics, topk, full = given.statistics, kept.distribution, given.distribution
    assert isinstance(topk, TopK), "a store keeps nothing else"
    assert isinstance(full, TopK), "a store is given nothing else"
    if not torch.equal(statistics.entropy, statistics.entropy_low):
        return None
    is_same = (topk.ids.unsqueeze(-1) == full.ids.unsqueeze(-2)) & (topk.ids >= 0).unsqueeze(-1)
    said = full.logprobs.double()
    mass = torch.where(full.ids >= 0, said.exp(), 0)
    p = torch.where(is_same, mass.unsqueeze(-2), 0).sum(dim=-1)
    log_p = torch.where(is_same, said.unsqueeze(-2), 0).sum(dim=-1)
    log_q = topk.logprobs.double()
    inside = torch.where(topk.ids >= 0, p * (log_p - log_q) - p + log_q.exp(), 0).sum(dim=-1)
    rest = full.log_tail.double().exp() + torch.where(is_same.any(dim=-2), 0, mass).sum(dim=-1)
    h = statistics.entropy.double() + (p * log_p).sum(dim=-1)
    outside = -h - rest * topk.log_tail_share().double() + topk.log_tail.double().exp() - rest
    return inside + torch.where((rest > 0) & (topk.n_used < topk.n_entries), outside, 0)
