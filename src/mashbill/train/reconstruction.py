"""What a captured form made of a teacher's numbers, as far as the form itself can tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mashbill.errors import DataError
from mashbill.shapes import Tensor
from mashbill.teachers.store.distillkit import Restored, Settings
from mashbill.teachers.store.distillkit_files import as_topk

MOST = 1.5
"""Half of the lists may sum to as much: a curve misses the sum of some, and another curve of most."""
_TOP = 8
_SHIFTS = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class Reconstruction:
    """What is known of the numbers at some positions without the teacher.

    Attributes:
        n_positions: Positions looked at.
        written: Most by which an entry can be off that is written as a number, in nats, dividing out what its list
            sums to above 1, and the mass on ids that the student lacks, included.
        binned: The same for entries of which a curve and what it misses is written; None if there are none.
        fitted: Entries a position of which only a curve is written: for them the form has no bound.
        disorder: Largest rise along a list that should fall, in nats; half of it is an error that is certain.
        over: Share of positions whose probabilities sum to more than 1; entries on the curve share what is left.
        excess: Largest such sum, less 1.
        foreign: Mean mass on ids that the student does not have; it is shared among the others.
    """

    n_positions: int
    written: float
    binned: float | None
    fitted: int
    disorder: float
    over: float
    excess: float
    foreign: float


def reconstruction_of(parts: Sequence[Restored], settings: Settings, n_entries: int, *, where: str) -> Reconstruction:
    """Sum up what the form says about some rows.

    Raises:
        DataError: Lists are no distributions.
    """
    first, last = settings.exact_k, settings.exact_k + settings.n_binned
    read = [as_topk(part, n_entries) for part in parts]
    moved = [
        torch.where(topk.ids >= 0, (topk.logprobs - part.logprobs).abs(), 0)
        for (topk, _), part in zip(read, parts, strict=True)
    ]
    off = torch.cat([part.error + shift for part, shift in zip(parts, moved, strict=True)])
    logprobs = torch.cat([part.logprobs for part in parts])
    known = logprobs.isfinite()
    sums = torch.cat([total for _, total in read])
    if float(sums.median()) > MOST:
        raise DataError(
            f"half of the captured lists sum to more than {MOST:g}: {float(sums.median()):.1e}",
            where=where,
            why="the settings are not those that the capture was written with",
            help="give those: --config FILE",
        )
    foreign = torch.cat([part.logprobs.exp().masked_fill(part.ids < n_entries, 0).sum(dim=-1) for part in parts])
    rises = torch.where(known[:, 1:] & known[:, :-1], logprobs.diff(dim=1), 0)
    return Reconstruction(
        n_positions=len(off),
        written=_largest(off[:, :first], known[:, :first]) or 0.0,
        binned=_largest(off[:, first:last], known[:, first:last]),
        fitted=settings.k - last,
        disorder=float(rises.clamp_min(0).max()) if rises.numel() else 0.0,
        over=float((sums > 1 + 1e-6).double().mean()),
        excess=max(0.0, float(sums.max()) - 1),
        foreign=float(foreign.mean()),
    )


def require_alignment(parts: Sequence[Restored], labels: Sequence[Tensor], *, where: str) -> None:
    """Refuse distributions that are about another position than the one that they stand at.

    A teacher expects what comes next more often than what came before: the labels are among its first entries most
    often where they belong.

    Raises:
        DataError: They are so at another shift, and clearly.
    """
    hits = {shift: _hits(parts, labels, shift) for shift in _SHIFTS}
    best = max(hits, key=lambda shift: hits[shift])
    if best and hits[best] > 0.3 and hits[best] > 2 * hits[0]:
        raise DataError(
            f"the distributions are about other positions: {abs(best)} {'later' if best > 0 else 'earlier'}",
            where=where,
            why=f"there {100 * hits[best]:.0f} % of the tokens are among the first {_TOP} entries, "
            f"and where they stand {100 * hits[0]:.0f} %",
            help="capture again with a server that returns the distribution of each token at its own place",
        )


def _hits(parts: Sequence[Restored], labels: Sequence[Tensor], shift: int) -> float:
    found, n = 0, 0
    for part, label in zip(parts, labels, strict=True):
        size = min(len(part.ids), len(label))
        begin, end = max(0, -shift), size - max(0, shift)
        wanted = label[begin + shift : end + shift]
        counts = wanted >= 0
        found += int(((part.ids[begin:end, :_TOP] == wanted.unsqueeze(-1)).any(dim=-1) & counts).sum())
        n += int(counts.sum())
    return found / n if n >= 20 else 0.0


def _largest(values: Tensor, known: Tensor) -> float | None:
    return float(values[known].max()) if bool(known.any()) else None
