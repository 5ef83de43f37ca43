"""What a shard keeps and loses of the answers in it; positions that nobody answered take no part."""

from dataclasses import dataclass

import torch

from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Float, Tensor
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


def measured(answered: Answered, kept: Scored, layout: Layout) -> Figures:
    """Compare what was given with what is read back."""
    topk, given = kept.distribution, answered.scored.distribution
    assert isinstance(topk, TopK), "it was encoded as one"
    assert isinstance(given, TopK), "it was encoded as one"
    is_refused = torch.tensor([bool(reason) for reason in answered.refused], dtype=torch.bool)
    n_each = torch.from_numpy(answered.starts).diff()
    (told,) = ((topk.n_used > 0) & ~is_refused.repeat_interleave(n_each)).nonzero(as_tuple=True)
    here = told[torch.linspace(0, max(0, len(told) - 1), min(N_MEASURED, len(told))).long()]
    lost = lost_nats(part_of(answered.scored, here), part_of(kept, here)) if len(here) else None
    return Figures(
        len(told),
        int(topk.n_used[told].sum()),
        float((1 - topk.log_tail[told].double().exp()).sum()),
        0 if layout.mass is None else int(_is_short(given, topk, layout.mass)[told].sum()),
        len(here),
        None if lost is None else float(lost.sum()),
    )


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


def _is_short(given: TopK, kept: TopK, mass: float) -> Bool[Tensor, " P"]:
    """Say where the kept entries, the largest of those given, hold less than a mass; up to what a sum is off."""
    ordered = torch.where(given.ids >= 0, given.logprobs.double().exp(), 0).sort(dim=-1, descending=True).values
    is_kept = torch.arange(ordered.shape[-1]) < kept.n_used.unsqueeze(-1)
    return torch.where(is_kept, ordered, 0).sum(dim=-1) < mass - SUM_ROUNDING
