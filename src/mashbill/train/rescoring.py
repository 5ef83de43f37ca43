"""Stored answers beside those that the teacher gives today: on the same rows, number by number."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.topk import TopK
from mashbill.errors import MashbillError
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.teachers.protocol import Scored, Teacher
from mashbill.train.corpus import Corpus

MOST_LOST = 1.0
"""Nats beyond the cut that half of the positions of an imported form may have lost."""
LEAST_AGREEMENT = 0.5
"""The form writes the most probable entry first and most exactly; at most positions it must be the teacher's."""


@dataclass(frozen=True)
class Difference:
    """How far stored answers are from those of today.

    Attributes:
        n_rows: Rows that were asked about again.
        n_positions: Positions in them.
        largest: Largest difference of a stored log-probability, in nats.
        where: Row and position of it.
        mean: Mean difference of a stored log-probability, in nats, each weighted by its probability.
        infinite: Share of positions where what is stored leaves nothing for all other entries: the divergence there is
            infinite, and the three figures below are of the others alone.
        lost: Mean KL divergence in nats from the teacher to what is stored, its tail spread evenly.
        cut: The part of it that no number of the same entries could avoid: they alone are kept, but exactly.
        typical: Median of what is lost beyond that part, in nats.
        agreement: Share of positions whose most probable entry is the teacher's.
        apart: How far the lists of the worst position are apart, of a teacher that answers with lists: 0 for equal
            ones, 1 for lists with nothing in common.
        where_apart: Row and position of it.
    """

    n_rows: int
    n_positions: int
    largest: float
    where: str
    mean: float
    infinite: float
    lost: float
    cut: float
    typical: float
    agreement: float
    apart: float = 0.0
    where_apart: str = ""

    @property
    def is_of_another(self) -> bool:
        """Whether no cut and no curve excuses the difference: a capture in such a form is not this teacher's."""
        return self.typical > MOST_LOST or self.agreement < LEAST_AGREEMENT


def sample_of(corpus: Corpus, n_rows: int) -> Int[Tensor, " N"]:
    """Return some rows that have positions, evenly spread over the corpus."""
    index = corpus.n_counted.nonzero().squeeze(1)
    n = min(n_rows, len(index))
    return index[torch.linspace(0, len(index) - 1, n).round().long().unique()] if n else index


def rescore(live: Teacher, stored: Teacher, corpus: Corpus, index: Int[Tensor, " N"]) -> Difference:
    """Ask a teacher about rows again, and compare.

    Raises:
        MashbillError: There is no row to compare, or a row is not the one that was captured.
    """
    parts, names = [], []
    for one in index.split(1):  # a row at a time: whole distributions are large
        inputs = corpus.inputs(one)
        kept = stored.score(inputs)
        if kept.refused:
            continue
        mask = inputs.mask
        parts.append((flat(live.score(inputs), mask), flat(kept, mask)))
        names += [f"row `{inputs.row_ids[0]}`, position {place}" for place in mask[0].nonzero().squeeze(1).tolist()]
    return difference(parts, names)


def difference(parts: Sequence[tuple[Dense | TopK, Dense | TopK]], names: Sequence[str]) -> Difference:
    """Compare a teacher's answers, first, with those that were kept, at positions ``[P]`` of several rows.

    Raises:
        MashbillError: There are none.
    """
    if not names:
        raise MashbillError("there is no row to ask about again", help="the store has none that the teacher answered")
    gaps, weights, lost, cut, same, infinite, apart = [], [], [], [], [], [], []
    for live, kept in parts:
        truth = dense(live).double()
        assert isinstance(kept, TopK), "a store keeps nothing else"
        used = kept.ids >= 0
        said = truth.gather(-1, kept.ids.clamp_min(0))
        if isinstance(live, TopK):
            used = _listed(live, kept)  # of the others its tail alone says something
            apart.append(_apart(live, kept, said))
        gaps.append(torch.where(used, (said - kept.logprobs).abs(), 0).amax(dim=-1))
        weights.append((torch.where(used, said.exp() * (said - kept.logprobs).abs(), 0)).sum(dim=-1))
        exact = _cut_to(truth, kept)
        infinite.append((kept.n_used < kept.n_entries) & (kept.log_tail <= numerics.LOG_ZERO))
        lost.append(_kl(truth, kept.densify()))
        cut.append(_kl(truth, exact.densify()))
        best = torch.where(kept.ids >= 0, kept.logprobs, -torch.inf).argmax(dim=-1, keepdim=True)
        same.append(kept.ids.gather(-1, best).squeeze(-1) == truth.argmax(dim=-1))
    gap, far = torch.cat(gaps), torch.cat(apart or [torch.zeros(len(names))])
    is_infinite = torch.cat(infinite)
    lost_of, cut_of = (torch.cat(each)[~is_infinite] for each in (lost, cut))
    return Difference(
        n_rows=len(parts),
        n_positions=len(gap),
        largest=float(gap.max()),
        where=names[int(gap.argmax())],
        mean=float(torch.cat(weights).mean()),
        infinite=float(is_infinite.double().mean()),
        lost=float(lost_of.mean()) if len(lost_of) else 0.0,
        cut=float(cut_of.mean()) if len(cut_of) else 0.0,
        typical=float((lost_of - cut_of).median()) if len(lost_of) else 0.0,
        agreement=float(torch.cat(same).double().mean()),
        apart=float(far.max()),
        where_apart=names[int(far.argmax())],
    )


def flat(scored: Scored, mask: Tensor) -> Dense | TopK:
    """Return the distributions at the positions that count."""
    given = scored.distribution
    if isinstance(given, Dense):
        return Dense(given.logprobs[mask])
    return TopK(given.ids[mask], given.logprobs[mask], given.log_tail[mask], given.n_entries)


def dense(given: Dense | TopK) -> Float[Tensor, "P V"]:
    """Return log-probabilities of all entries, a tail spread evenly."""
    return given.logprobs if isinstance(given, Dense) else given.densify()


def _listed(live: TopK, kept: TopK) -> Bool[Tensor, "P S"]:
    """Say which stored entries the teacher lists today."""
    known = torch.zeros(len(live.ids), live.n_entries + 1)
    known.scatter_(-1, torch.where(live.ids >= 0, live.ids, live.n_entries).long(), 1)
    return (known.gather(-1, kept.ids.clamp_min(0).long()) > 0) & (kept.ids >= 0)


def _apart(live: TopK, kept: TopK, said: Float[Tensor, "P S"]) -> Float[Tensor, " P"]:
    """Return ``1 - sum min(p, q) / sum max(p, q)`` over the stored entries.

    One that is not listed today is no more probable than the least that is, and counts as that near.
    """
    stored = kept.logprobs.double().exp().masked_fill(kept.ids < 0, 0)
    least = live.logprobs.double().masked_fill(live.ids < 0, 0).amin(dim=-1, keepdim=True).exp()
    today = torch.where(_listed(live, kept), said.exp(), torch.minimum(stored, least))
    high = torch.maximum(stored, today).sum(dim=-1)
    low = torch.minimum(stored, today).sum(dim=-1)
    return torch.where(high > 0, 1 - low / high.clamp_min(1e-300), 0)


def _cut_to(truth: Float[Tensor, "P V"], kept: TopK) -> TopK:
    slot = torch.where(kept.ids >= 0, kept.ids, truth.shape[-1])
    wide = torch.nn.functional.pad(truth, (0, 1), value=-torch.inf)
    rest = wide.scatter(-1, slot, -torch.inf).logsumexp(dim=-1).clamp_min(numerics.LOG_ZERO)
    return TopK(kept.ids, wide.gather(-1, slot).clamp_min(numerics.LOG_ZERO), rest, kept.n_entries)


def _kl(p: Float[Tensor, "P V"], q: Float[Tensor, "P V"]) -> Float[Tensor, " P"]:
    return (p.exp() * (p - q.double())).sum(dim=-1)
