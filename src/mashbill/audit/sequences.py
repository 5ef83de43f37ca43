"""Sequences to put a rule into that reads labels, what it and its teachers lose there, and what it states of that."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mashbill.audit.moods import Stage, make_world
from mashbill.audit.worlds import World
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.weights.evidence import WeightOperator, needs_of

DOUBLE = torch.float64
NO_LABEL = -100


@dataclass(frozen=True)
class Sequences:
    """Rows in which entry 0 has these probabilities; the label of a position is 0, 1 or none.

    Attributes:
        logits: Log-odds of entry 0.
        labels: 0, 1, or ``-100``.
        mask: Positions that count.
    """

    logits: Float[Tensor, "K B T"]
    labels: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    def pick(self, row: int) -> "Sequences":
        """Return one row."""
        return Sequences(self.logits[:, row : row + 1], self.labels[row : row + 1], self.mask[row : row + 1])

    def world(self, stage: Stage) -> World:
        """Return a situation with these rows; a vocabulary of more than two shares what entry 0 leaves evenly."""
        n_teachers, n_rows, n_positions = self.logits.shape
        n_entries = stage.n_entries or 2
        generator = torch.Generator().manual_seed(0)
        world = make_world(
            stage, generator, n_teachers=n_teachers, n_rows=n_rows, n_positions=n_positions, n_entries=n_entries
        )
        rest = torch.zeros(n_teachers, n_rows, n_positions, n_entries - 1, dtype=DOUBLE) - math.log(n_entries - 1)
        first = torch.zeros_like(world.task)
        return replace(
            world,
            logits=torch.cat([self.logits.unsqueeze(-1), rest], dim=-1),
            student=torch.zeros_like(world.student),
            labels=self.labels,
            mask=self.mask,
            task=first,
            context=first,
            route=first - 1,
            orders=dict.fromkeys(stage.contexts, ()),
        )

    def label_logprob(self, stage: Stage) -> Float[Tensor, "K B T"]:
        """Return what each teacher gives the labels, NaN where a position is no evidence."""
        log_p = torch.nn.functional.logsigmoid(self.logits)
        other = torch.nn.functional.logsigmoid(-self.logits) - math.log((stage.n_entries or 2) - 1)
        said = torch.where(self.labels == 0, log_p, other)
        return torch.where(self.mask & (self.labels >= 0), said, torch.nan)

    def to_json(self) -> dict[str, Any]:
        """Return the first row as plain numbers."""
        p = torch.sigmoid(self.logits[:, 0].detach())
        return {
            "p": [[float(f"{x:.15g}") for x in row] for row in p.tolist()],
            "labels": self.labels[0].tolist(),
            "counts": self.mask[0].tolist(),
        }


def of_numbers(p: Sequence[Sequence[float]], labels: Sequence[int], counts: Sequence[bool]) -> Sequences:
    """Return one row from the probabilities of entry 0, teacher by teacher."""
    given = torch.tensor(p, dtype=DOUBLE)[:, None]
    return Sequences(given.log() - (-given).log1p(), torch.tensor([labels]), torch.tensor([counts]))


def random_rows(generator: torch.Generator, n_teachers: int, n_rows: int, n_positions: int) -> Sequences:
    """Rows of even and of sure teachers, of a perfect one, of one perfect after another, some labels missing."""
    shape = (n_teachers, n_rows, n_positions)
    logits = torch.randn(shape, generator=generator, dtype=DOUBLE)
    size = 10 ** (2 * torch.rand(n_rows, generator=generator, dtype=DOUBLE) - 1)
    best = torch.randint(n_teachers, (n_rows, 1), generator=generator)
    length = torch.randint(2, max(3, n_positions), (n_rows, 1), generator=generator)
    kind = torch.arange(n_rows) % 4
    turn = torch.where((kind == 2)[:, None], torch.arange(n_positions) // length, 0)
    is_best = (best + turn) % n_teachers == torch.arange(n_teachers)[:, None, None]
    perfect = torch.where(is_best, 1.0, -1.0) * size[:, None]
    logits = torch.where((kind >= 1)[:, None] & (kind <= 2)[:, None], perfect, logits * size[:, None])
    labels = (torch.rand(n_rows, n_positions, generator=generator) < 0.5).long() * (kind == 0)[:, None]
    missing = (torch.rand(n_rows, n_positions, generator=generator) < 0.3) & (kind == 3)[:, None]
    mask = torch.rand(n_rows, n_positions, generator=generator) > 0.2 * (kind == 3)[:, None]
    return Sequences(logits, labels.masked_fill(missing, NO_LABEL), mask)


def flipped_rows(rows: Sequences) -> Sequences:
    """Return the rows with other labels."""
    return replace(rows, labels=other_label(rows.labels))


def other_label(labels: Tensor) -> Tensor:
    """Return 1 for 0, and 0 for 1 or no label."""
    return (labels == 0).long()


def cut_rows(rows: Sequences, n_positions: int) -> Sequences:
    """Return the first positions."""
    return Sequences(rows.logits[..., :n_positions], rows.labels[:, :n_positions], rows.mask[:, :n_positions])


def weights_of(rule: WeightOperator, rows: Sequences, stage: Stage) -> Float[Tensor, "K B T"]:
    """Return the rule's log-weights, one for each position, normalised."""
    log_weights = rule(rows.world(stage).evidence(needs_of(rule))).double()
    return torch.log_softmax(log_weights, dim=0).expand_as(rows.logits)


def losses(said: Tensor, log_weights: Tensor) -> tuple[Float[Tensor, " B"], Float[Tensor, "K B"]]:
    """Return the cumulative log-loss of the linear pool and of each teacher, in nats."""
    is_known = ~said.isnan().any(dim=0)
    known = torch.where(is_known, said, 0.0)
    pooled = torch.where(is_known, torch.logsumexp(known + log_weights, dim=0), 0.0)
    return -pooled.sum(dim=-1), -known.sum(dim=-1)


def best_path_losses(said: Tensor, n_switches: int, first: Float[Tensor, " K"] | None = None) -> Float[Tensor, " B"]:
    """Return the least loss of any sequence of teachers with so many changes at most, by dynamic programming.

    Positions without a label are no positions: nothing changes there, nor before the first of the others.

    Args:
        said: Log-probabilities of the labels, ``[K B T]``, NaN without label.
        n_switches: At most so many changes.
        first: What it costs to begin with each teacher, in nats; nothing by default.
    """
    is_known = ~said.isnan().any(dim=0)
    loss = -torch.where(is_known, said, 0.0)
    least = loss.new_zeros(n_switches + 1, *loss.shape[:-1])
    least = least if first is None else least + first[:, None]
    has_begun = torch.zeros_like(is_known[:, 0])
    for t in range(loss.shape[-1]):
        fewer = least[:-1].amin(dim=1, keepdim=True)
        moved = torch.cat([least[:1], torch.minimum(least[1:], fewer)])
        least = torch.where(has_begun & is_known[:, t], moved, least) + loss[..., t]
        has_begun = has_begun | is_known[:, t]
    return least[-1].amin(dim=0)


@dataclass(frozen=True)
class Stated:
    """What a rule says that it can lose, read from its attributes.

    Attributes:
        temperature: ``T >= 1`` of a posterior: at most ``T ln(1/prior_k)`` more than teacher ``k``.
        rate: Of fixed share: ``ln(1/prior) - S ln(rate/K) - (n-1-S) ln(1 - rate + rate/K)`` with ``S`` changes and the
            prior of the first teacher; :func:`mashbill.weights.regret.tracking_bound` derives it.
        prior: Weight of each teacher before any label, alike unless given.
        constant: A bound of the caller's own, in nats.
    """

    temperature: float = 1.0
    rate: float | None = None
    prior: Mapping[str, float] | None = None
    constant: float | None = None

    def log_prior(self, teachers: Sequence[str]) -> Tensor:
        """Return ``ln prior``, ``[K]``."""
        each = [1.0] * len(teachers) if self.prior is None else [float(self.prior[name]) for name in teachers]
        return torch.tensor([one / math.fsum(each) for one in each], dtype=DOUBLE).log()

    def told(self) -> str:
        """Say the bound in words."""
        if self.constant is not None:
            return f"{self.constant:g} nats"
        if self.rate is not None:
            return f"fixed share's bound for a rate of {self.rate:g}"
        return f"{'' if self.temperature == 1 else f'{self.temperature:g} '}ln 1/prior{'' if self.prior else ' = ln K'}"

    def regret(self, n_positions: Tensor, log_prior: Tensor) -> Tensor:
        """Return how much more than each teacher it may lose, ``[K B]``."""
        if self.constant is not None:
            return torch.full((len(log_prior), len(n_positions)), self.constant, dtype=DOUBLE)
        if self.rate is not None:
            return self.tracking(n_positions, 0, len(log_prior)) - log_prior[:, None]
        return -self.temperature * log_prior[:, None].expand(-1, len(n_positions))

    def tracking(self, n_positions: Tensor, n_switches: int, n_teachers: int) -> Tensor:
        """Return how much more than a sequence of teachers, less the price of its first, ``[B]``."""
        assert self.rate is not None, "asked of a rate only"
        stay, change = 1 - self.rate + self.rate / n_teachers, self.rate / n_teachers
        kept = (n_positions - 1 - n_switches).clamp_min(0)
        return -n_switches * math.log(change) - kept * math.log(stay)


def stated_by(rule: Any) -> Stated | None:
    """Return what a rule states by its attributes ``rate``, ``temperature`` and ``prior``; None for no bound.

    A rule that states nothing is held to ``ln K``, what Bayes' rule loses; a temperature below 1 guarantees nothing.
    """
    prior = getattr(rule, "prior", None)
    prior = prior if isinstance(prior, Mapping) else None
    rate, temperature = getattr(rule, "rate", None), getattr(rule, "temperature", 1.0)
    if isinstance(rate, (int, float)) and 0 < rate <= 1:
        return Stated(rate=float(rate), prior=prior)
    if not isinstance(temperature, (int, float)):
        return Stated(prior=prior)
    return Stated(temperature=float(temperature), prior=prior) if temperature >= 1 else None
