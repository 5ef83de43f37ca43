"""Distributions and weights to put a pool, a softening or a recursion into: whole grids of small ones, and random ones.

A batch of :class:`Cases` has one size. Small sizes come first, so that what is found first is small. Zeros enter as
``LOG_ZERO``, which is how they enter every operator of this library; a teacher with weight and a zero has a weight of
at least 0.05, because what a zero does under a vanishing weight is asked by the search for jumps, and by no other.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mashbill import numerics
from mashbill.shapes import Bool, Float, Tensor

DOUBLE = torch.float64

SIZES = ((2, 2), (2, 3), (3, 3), (1, 3), (3, 10), (8, 3), (64, 2))
"""Distributions and entries, small ones first."""


@dataclass(frozen=True)
class Cases:
    """Situations of one size.

    Attributes:
        log_p: Log-probabilities of ``K`` distributions.
        log_w: Their log-weights.
        extras: Further numbers, one a case, e.g. ``temperature``.
    """

    log_p: Float[Tensor, "K N V"]
    log_w: Float[Tensor, "K N"]
    extras: Mapping[str, Float[Tensor, " N"]]

    def __len__(self) -> int:
        return self.log_p.shape[1]

    @property
    def p(self) -> Float[Tensor, "K N V"]:
        """Probabilities."""
        return self.log_p.exp()

    @property
    def w(self) -> Float[Tensor, "K N"]:
        """Weights."""
        return self.log_w.exp()

    def pick(self, index: Sequence[int] | Tensor) -> "Cases":
        """Return some of the cases."""
        at = torch.as_tensor(index)
        extras = {name: values[at] for name, values in self.extras.items()}
        return Cases(self.log_p[:, at], self.log_w[:, at], extras)

    def drawn(self, choices: Mapping[str, Sequence[float]], generator: torch.Generator) -> "Cases":
        """Return the same cases, each with one of the choices of each further number."""
        extras = {
            name: torch.tensor(list(given), dtype=DOUBLE)[torch.randint(len(given), (len(self),), generator=generator)]
            for name, given in choices.items()
        }
        return replace(self, extras=extras)

    def to_json(self, index: int = 0) -> dict[str, Any]:
        """Return one case as plain numbers."""
        one = self.pick([index])
        extras = {name: float(values[0]) for name, values in one.extras.items()}
        return {"p": _written(one.log_p[:, 0]), "w": _written(one.log_w[:, 0])} | extras


def of_numbers(p: Sequence[Sequence[float]], w: Sequence[float], **extras: float) -> Cases:
    """Return one case from probabilities; zeros become ``LOG_ZERO``."""
    return Cases(
        numerics.log_of(torch.tensor(p, dtype=DOUBLE)).unsqueeze(1),
        numerics.log_of(torch.tensor(w, dtype=DOUBLE)).unsqueeze(1),
        {name: torch.tensor([value], dtype=DOUBLE) for name, value in extras.items()},
    )


def _written(logs: Tensor) -> Any:
    """Write probabilities; exp(log 0.6) is 0.6 again in 15 digits."""
    if logs.ndim > 1:
        return [_written(one) for one in logs]
    return [float(f"{x:.15g}") for x in torch.where(logs <= numerics.LOG_ZERO, 0.0, logs.exp()).tolist()]


def grid(n_rows: int, n_entries: int) -> Cases:
    """Return all pairs of simple distributions with simple weights: corners, ties, halves, and nearly corners.

    Of two or three entries. Two rows have weights that differ; one row has all of it, three have roles and no weights.
    """
    if n_entries == 2:
        firsts = (0.5, 0.6, 0.4, 0.75, 0.25, 0.9, 0.1, 0.99, 0.01, 1 - 1e-6, 1e-6, 1.0, 0.0)
        points = [(x, 1 - x) for x in firsts]
    else:
        lattice = [(a, b, 5 - a - b) for a in range(6) for b in range(6 - a)]
        points = [tuple(x / 5 for x in point) for point in lattice]
        points += [(0.98, 0.01, 0.01), (0.01, 0.98, 0.01), (0.01, 0.01, 0.98)]
        points += [(1 - 1e-6, 5e-7, 5e-7), (1e-6, 0.5, 0.499999)]
    weights = (0.5, 0.25, 0.75, 0.1, 0.9, 0.0, 1.0)
    rows = list(itertools.product(points, repeat=n_rows))
    p = torch.tensor(rows, dtype=DOUBLE).transpose(0, 1)
    first = torch.tensor(weights, dtype=DOUBLE)
    w = (
        torch.cat([first[None], ((1 - first) / max(n_rows - 1, 1)).expand(n_rows - 1, -1)])
        if n_rows > 1
        else first[None, :1] * 2
    )
    n_weights = w.shape[1]
    p = p.repeat_interleave(n_weights, dim=1)
    return Cases(numerics.log_of(p), numerics.log_of(w.repeat(1, len(rows))), {})


def random_cases(generator: torch.Generator, *, n_rows: int, n_entries: int, n_each: int) -> Cases:
    """Return as many cases of each mood."""
    parts = [_mooded(mood, generator, n_rows, n_entries, n_each) for mood in MOODS]
    return Cases(torch.cat([p for p, _ in parts], dim=1), torch.cat([w for _, w in parts], dim=1), {})


def full_support(cases: Cases) -> Cases:
    """Return the cases in which nothing is impossible, or nearly so, and every distribution has weight."""
    return cases.pick(is_full(cases).nonzero().squeeze(-1))


def is_full(cases: Cases, *, least: float = 1e-13) -> Bool[Tensor, " N"]:
    """Return in which cases no probability and no weight is below ``least``."""
    log_least = math.log(least)
    return (cases.log_p > log_least).all(dim=-1).all(dim=0) & (cases.log_w > log_least).all(dim=0)


def _mooded(mood: str, generator: torch.Generator, n_rows: int, n_entries: int, n: int) -> tuple[Tensor, Tensor]:
    logits = torch.randn(n_rows, n, n_entries, generator=generator, dtype=DOUBLE)
    scores = torch.randn(n_rows, n, generator=generator, dtype=DOUBLE)
    return MOODS[mood](logits, scores, generator)


def _softmax(logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    return numerics.log_softmax(logits), numerics.log_softmax(scores.T).T


def _plain(logits: Tensor, scores: Tensor, _generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _softmax(1.5 * logits, scores)


def _sharp(logits: Tensor, scores: Tensor, _generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _softmax(8 * logits, 3 * scores)


def _even(logits: Tensor, scores: Tensor, _generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _softmax(0.1 * logits, 0 * scores)


def _tied(logits: Tensor, scores: Tensor, _generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All distributions agree on the first entry, half of the time on all."""
    p = logits.softmax(-1)
    first = p[:1, :, :1]
    p = torch.cat([first.expand(len(p), -1, -1), p[..., 1:] / p[..., 1:].sum(-1, keepdim=True) * (1 - first)], dim=-1)
    p = torch.where(scores[0, :, None] > 0, p, p[:1])
    return numerics.log_of(p / p.sum(-1, keepdim=True)), _softmax(logits, scores)[1]


def _tiny(logits: Tensor, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One entry of each distribution is small, from 1e-2 down to 1e-12."""
    size = 10 ** (-2 - 10 * torch.rand(logits.shape[:2], generator=generator, dtype=DOUBLE))
    at = torch.randint(logits.shape[-1], logits.shape[1:2], generator=generator)
    alike = torch.rand(logits.shape[:2], generator=generator) < 0.5  # often the same entry for all
    own = torch.randint(logits.shape[-1], logits.shape[:2], generator=generator)
    entry = torch.where(alike, at, own).unsqueeze(-1)
    p = logits.softmax(-1).scatter(-1, entry, 0)
    p = p / p.sum(-1, keepdim=True) * (1 - size.unsqueeze(-1))
    return numerics.log_of(p.scatter(-1, entry, size.unsqueeze(-1))), _softmax(logits, scores)[1]


def _zeros(logits: Tensor, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the entries are impossible; some weights are 0."""
    gone = torch.rand(logits.shape, generator=generator) < 0.5
    gone = gone & (logits < logits.amax(-1, keepdim=True))
    return numerics.log_softmax(logits.masked_fill(gone, -torch.inf)), _firm(scores, generator)


def _disjoint(logits: Tensor, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """No two distributions share an entry, as far as there are entries."""
    n_rows, n, n_entries = logits.shape
    owner = torch.randperm(n_entries, generator=generator) % n_rows
    owned = owner[None, None, :] == (torch.arange(n_rows) % n_entries)[:, None, None]
    owned = torch.where(owned.any(-1, keepdim=True), owned, torch.ones_like(owned))
    return numerics.log_softmax(logits.masked_fill(~owned.expand(n_rows, n, n_entries), -torch.inf)), _firm(
        scores, generator
    )


def _corners(logits: Tensor, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All certain of one entry."""
    return numerics.log_softmax(logits.masked_fill(logits < logits.amax(-1, keepdim=True), -torch.inf)), _firm(
        scores, generator
    )


def _faint(logits: Tensor, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Nobody is certain; one teacher has nearly all the weight, or all."""
    faint = 10 ** (-12 * torch.rand(scores.shape[1], generator=generator, dtype=DOUBLE))
    faint = torch.where(scores[0] > 1, 0.0, faint)
    w = torch.full_like(scores, 0) + faint / len(scores)
    w[0] = 1 - w[1:].sum(dim=0)
    return _softmax(1.5 * logits, scores)[0], numerics.log_of(w)


def _firm(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Weights that are 0 or at least 0.05, if there are few of them."""
    least = 0.05 if len(scores) <= 8 else 0.0
    off = torch.rand(scores.shape, generator=generator) < 0.2
    off = off & (scores < scores.amax(dim=0))
    w = scores.masked_fill(off, -torch.inf).softmax(dim=0)
    w = torch.where(off, 0.0, least + (1 - least * (~off).double().sum(dim=0)) * w)
    return numerics.log_of(w)


MOODS: dict[str, Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]] = {
    "plain": _plain,
    "sharp": _sharp,
    "even": _even,
    "tied": _tied,
    "tiny": _tiny,
    "zeros": _zeros,
    "disjoint": _disjoint,
    "corners": _corners,
    "faint": _faint,
}
"""Kinds of distributions and weights, each unpleasant in its own way."""
