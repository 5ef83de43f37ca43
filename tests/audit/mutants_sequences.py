"""Rules that read labels and break what rules inside a sequence promise.

Each says which prior, temperature and rate it works with, as `Bayes` and `FixedShare` do; the promise that follows is
``temperature ln(1/prior)`` against the best teacher, and fixed share's against the best sequence of teachers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from audit.situations import situation
from audit.specimens import Mutant

from mashbill.weights.evidence import Evidence

CAUSAL, REGRET, TRACKING = "sequence.causal", "sequence.regret", "sequence.tracking"


def known_losses(evidence: Evidence) -> torch.Tensor:
    """Return ``-log p_k(y)``, 0 where there is no label or the position does not count."""
    said = evidence.statistics.label_logprob
    counts = evidence.mask & ~said.isnan().any(dim=0)
    return -torch.where(counts, said, 0.0)


def counted(evidence: Evidence) -> torch.Tensor:
    return evidence.mask & ~evidence.statistics.label_logprob.isnan().any(dim=0)


@dataclass(frozen=True)
class Posterior:
    """``w_t ~ prior exp(-eta losses before t)`` with a uniform prior; each fault is one attribute.

    Attributes:
        temperature: As stated.
        shift: From which position on a label counts: 1 is right, 0 is its own.
        eta: What is used for ``1/temperature``.
        drift: Nats by which every second teacher, by name, starts behind.
        forgets: Share of the past that each position forgets.
    """

    temperature: float = 1.0
    shift: int = 1
    eta: float = 1.0
    drift: float = 0.0
    forgets: float = 0.0
    prior: None = None

    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        losses = known_losses(evidence)
        start = torch.tensor([self.drift * (int(name.removeprefix("t")) % 2) for name in evidence.teachers])
        past, columns = torch.zeros_like(losses[..., 0]), []
        for t in range(losses.shape[-1]):
            if self.shift == 0:
                past = past + losses[..., t]
            columns.append(-self.eta * past)
            if self.shift == 1:
                past = (1 - self.forgets) * past + losses[..., t]
        return torch.log_softmax(torch.stack(columns, dim=-1) - start[:, None, None], dim=0)


@dataclass(frozen=True)
class WholeRow:
    """Weighs by the loss of the whole row: hindsight."""

    prior: None = None
    temperature: float = 1.0
    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        losses = known_losses(evidence)
        return torch.log_softmax(-losses.mean(dim=-1, keepdim=True).expand_as(losses), dim=0)


@dataclass(frozen=True)
class Sharing:
    """Fixed share, ``w' = (1 - rate) posterior + rate/K``, each fault one attribute.

    Attributes:
        rate: As stated.
        used: What is used for it; 0 forgets to share.
        to_best: Shares go to the leader and not to all.
        ahead: The label of the next position is taken for this one's.
    """

    rate: float = 0.1
    used: float = 0.1
    to_best: bool = False
    ahead: bool = False
    prior: None = None

    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"label_logprob"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        losses, counts = known_losses(evidence), counted(evidence)
        if self.ahead:
            losses, counts = losses.roll(-1, dims=-1), counts.roll(-1, dims=-1)
        n_teachers = losses.shape[0]
        weights, columns = torch.full_like(losses[..., 0], 1 / n_teachers), []
        for t in range(losses.shape[-1]):
            columns.append(weights)
            posterior = torch.softmax(weights.log() - losses[..., t], dim=0)
            best = posterior == posterior.amax(dim=0)
            to = best / best.sum(dim=0) if self.to_best else torch.full_like(posterior, 1 / n_teachers)
            shared = ((1 - self.used) * posterior + self.used * to).clamp_min(1e-300)
            weights = torch.where(counts[:, t], shared, weights)
        return torch.stack(columns, dim=-1).log()


Row = tuple[tuple[float, ...], ...]
"""Probabilities of the labels of one row, teacher by teacher."""

FIRST_IS_RIGHT: Row = ((0.99,) * 8, (0.01,) * 8)
SECOND_IS_RIGHT: Row = ((0.01,) * 8, (0.99,) * 8)
CHANGES: Row = ((0.99,) * 12 + (0.01,) * 12, (0.01,) * 12 + (0.99,) * 12)


def labelled(row: Row) -> Evidence:
    """Return the evidence of two entries of which label 0 has these probabilities."""
    p = torch.tensor(row, dtype=torch.float64)[:, None]
    n_positions = p.shape[-1]
    world = situation(positions=n_positions, teachers=len(row), labels=torch.zeros(1, n_positions, dtype=torch.long))
    student = torch.zeros(1, n_positions, 2, dtype=torch.float64)
    return replace(world, logits=torch.stack([p, 1 - p], dim=-1).log(), student=student).evidence()


def mixture_loss(operator: Any, row: Row) -> float:
    p = torch.tensor(row, dtype=torch.float64)
    weights = operator(labelled(row)).double().exp()[:, 0]
    return -float((weights * p).sum(dim=0).log().sum())


def sees(row: Row, changed: Row, position: int) -> Callable[[Any], float]:
    """How much the weights up to a position change with labels from there on."""

    def shows(operator: Any) -> float:
        here, there = (operator(labelled(each)).exp()[..., : position + 1] for each in (row, changed))
        return float((here - there).abs().max())

    return shows


def regrets(row: Row, best: int) -> Callable[[Any], float]:
    """The loss above the best teacher's and ``temperature ln 2``."""
    p = torch.tensor(row, dtype=torch.float64)
    loss = -float(p[best].log().sum())
    return lambda operator: mixture_loss(operator, row) - loss - operator.temperature * math.log(2)


def loses_track(operator: Any) -> float:
    """The loss above that of the sequence that changes teacher once, and what fixed share pays for it."""
    n, rate, stay = 24, operator.rate, 1 - operator.rate + operator.rate / 2
    price = math.log(2) - math.log(rate / 2) - (n - 2) * math.log(stay)
    return mixture_loss(operator, CHANGES) + n * math.log(0.99) - price


LATER: Row = ((0.99,) * 4 + (0.01,) * 4, (0.01,) * 4 + (0.99,) * 4)


def mutant(name: str, make: Callable[[], Any], breaks: tuple[str, ...], shows: Callable[[Any], float]) -> Mutant:
    return Mutant(f"sequence: {name}", make, breaks, shows, kind="sequence")


SEQUENCES = [
    mutant("its own label", lambda: Posterior(shift=0), (CAUSAL,), sees(FIRST_IS_RIGHT, SECOND_IS_RIGHT, 0)),
    mutant("hindsight", WholeRow, (CAUSAL, REGRET), sees(FIRST_IS_RIGHT, LATER, 4)),
    mutant("the next label", lambda: Sharing(ahead=True), (CAUSAL, REGRET, TRACKING), sees(FIRST_IS_RIGHT, LATER, 4)),
    mutant("too eager", lambda: Posterior(eta=3.0), (REGRET,), regrets(((0.5, 0.01) * 4, (0.01, 0.6) * 4), 1)),
    mutant("another prior", lambda: Posterior(drift=4.0), (REGRET,), regrets(SECOND_IS_RIGHT, 1)),
    mutant("forgets half", lambda: Posterior(forgets=0.9), (REGRET,), regrets(((0.6,) * 24, (0.4,) * 24), 0)),
    mutant("share forgotten", lambda: Sharing(used=1e-9), (TRACKING,), loses_track),
    mutant("share to the leader", lambda: Sharing(to_best=True), (TRACKING, REGRET), loses_track),
]
