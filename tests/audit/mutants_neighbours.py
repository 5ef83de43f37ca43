"""Weight rules that look at their neighbours, at places, or back at earlier calls."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from audit.situations import leading, situation, weights
from audit.specimens import Mutant, Rule
from torch import nn

from mashbill.audit.worlds import World
from mashbill.weights.evidence import Evidence

# Neighbours.


def by_batch_spread(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Normalised by the batch, as a batch norm does."""
    return signal * (0.5 + signal.mean(dim=(1, 2), keepdim=True).amax(dim=0, keepdim=True) / 2)


def first_row(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    is_first = torch.arange(signal.shape[1]) == 0
    return signal * torch.where(is_first, 0.9, 1.0).reshape(1, -1, 1)


def only_large_batches(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return signal * (0.9 if signal.shape[1] >= 4 else 1.0)


def task_share(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """How common the row's task is in its batch."""
    same = (evidence.task[:, None] == evidence.task[None]).to(signal.dtype).mean(dim=1)
    return signal * (0.5 + same / 2).reshape(1, -1, 1)


def favours_first(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    favour = torch.zeros_like(signal)
    favour[0] = 0.1
    return signal + favour


def favours_first_at_ties(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """``argmax`` takes the first of equals."""
    favour = torch.zeros_like(signal).scatter(0, signal.argmax(dim=0, keepdim=True), 0.05)
    return torch.where((signal == signal.amax(dim=0)).sum(dim=0) > 1, signal + favour, signal)


def unsorted_wrongly(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Sorted, and put back by the permutation where its inverse is right: the same for two teachers."""
    order = log_weights.argsort(dim=0)
    return log_weights.gather(0, order).gather(0, order)


def rolled(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights.roll(1, dims=0) if len(log_weights) > 2 else log_weights


def by_place(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Places beyond the 32nd are forgotten."""
    place = torch.arange(signal.shape[0]).reshape(-1, 1, 1)
    return torch.where(place < 32, signal, 0.0)


# Memory.


@dataclass
class Counting:
    """Answers otherwise from the n-th call on."""

    n: int
    calls: int = 0
    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = Rule().needs

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        self.calls += 1
        return Rule(steep=1.0 if self.calls < self.n else 0.9)(evidence)


@dataclass
class Remembering:
    """Remembers what it said of evidence that looks alike."""

    memory: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)
    scale: ClassVar[str] = "token"
    needs: ClassVar[frozenset[str]] = Rule().needs

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        signal = evidence.statistics.margin
        key = tuple(signal.shape)
        smooth = 0.9 * signal + 0.1 * self.memory.get(key, signal)
        self.memory[key] = signal.detach()
        return Rule(twist=lambda _signal, _evidence: smooth)(evidence)


class Normed(nn.Module):
    """A module whose running mean moves in every call, as a batch norm's does in training."""

    scale = "token"
    needs = Rule().needs
    running: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, evidence: Evidence, /) -> torch.Tensor:
        with torch.no_grad():
            self.running.lerp_(evidence.statistics.margin.mean().double(), 0.1)
        return Rule(steep=float(0.5 + self.running))(evidence)


def shaken(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return signal + 1e-3 * torch.rand(1, dtype=signal.dtype) * (signal - 1)


def in_place(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """``sub_`` where ``sub`` was meant: the evidence itself is changed."""
    return evidence.statistics.margin.mul_(0.9)


def filled_in(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Harmless to itself, not to whoever reads the evidence next."""
    evidence.statistics.gini.clamp_(0.2, 0.4)
    return signal


def first_answer_again(world: World) -> Callable[[Any], float]:
    """How much the answer to one situation changes when it is asked again."""

    def shows(operator: Any) -> float:
        evidence = world.evidence()
        first = operator(evidence).double().exp()
        operator(leading(0.9, 0.8).evidence())
        return max(float((operator(evidence).double().exp() - first).abs().max()) for _ in range(3))

    return shows


def changed_evidence(operator: Any) -> float:
    evidence = leading(0.2, 0.9).evidence()
    before = copy.deepcopy(evidence.statistics)
    operator(evidence)
    return float((evidence.statistics.gini - before.gini).abs().max())


def batches(first: int, rows: int) -> Callable[[Any], float]:
    """How much one row's weights differ between a batch of many and a batch of its own."""

    def shows(operator: Any) -> float:
        world = situation(rows=rows, teachers=2, task=torch.tensor([0] + [1] * (rows - 1)))
        alone = weights(operator, world.rows([first]))
        return float((weights(operator, world)[:, [first]] - alone).abs().max())

    return shows


def permuted(world: World, order: tuple[int, ...]) -> Callable[[Any], float]:
    """How much weights change when teachers change places."""
    return lambda operator: float(
        (weights(operator, world)[list(order)] - weights(operator, world.permuted(order))).abs().max()
    )


NEIGHBOURS = [
    Mutant("scaled by the batch", lambda: Rule(twist=by_batch_spread), ("contract.rows",), batches(0, 5)),
    Mutant("first row counts less", lambda: Rule(twist=first_row), ("contract.rows",), batches(1, 5)),
    Mutant("large batches only", lambda: Rule(twist=only_large_batches), ("contract.rows",), batches(0, 5)),
    Mutant("share of the task in the batch", lambda: Rule(twist=task_share), ("contract.rows",), batches(0, 5)),
    Mutant(
        "favours the first teacher",
        lambda: Rule(twist=favours_first),
        ("contract.permutation",),
        permuted(leading(0.2, 0.7), (1, 0)),
    ),
    Mutant(
        "favours the first at ties",
        lambda: Rule(twist=favours_first_at_ties),
        ("contract.permutation", "token.III.4", "contract.precision"),
        permuted(leading(0.5, 0.5), (1, 0)),
    ),
    Mutant(
        "put back by the wrong permutation",
        lambda: Rule(spoil=unsorted_wrongly),
        ("contract.permutation", "token.III.5", "token.III.4", "contract.precision"),
        permuted(leading(0.9, 0.2, 0.5), (1, 2, 0)),
    ),
    Mutant(
        "rolled by one from three teachers on",
        lambda: Rule(spoil=rolled),
        ("contract.permutation", "token.III.5"),
        permuted(leading(0.9, 0.2, 0.5), (1, 0, 2)),
    ),
    Mutant(
        "places beyond 32 forgotten",
        lambda: Rule(twist=by_place),
        ("contract.permutation",),
        permuted(situation(teachers=64), tuple(reversed(range(64)))),
    ),
]

TWO = leading(0.2, 0.9)
# What a rule with a memory breaks besides depends on what it is asked in between.
MEMORY = ("contract.rows", "contract.permutation", "contract.precision", "composition.student", "token.III.4")

STATE = [
    Mutant("third call differs", lambda: Counting(3), ("contract.state", *MEMORY), first_answer_again(TWO)),
    Mutant(
        "remembers the last signal", Remembering, ("contract.state", *MEMORY, "token.III.5"), first_answer_again(TWO)
    ),
    Mutant("running mean in a module", Normed, ("contract.state", *MEMORY), first_answer_again(TWO)),
    Mutant(
        "drawn anew in every call", lambda: Rule(twist=shaken), ("contract.state", *MEMORY), first_answer_again(TWO)
    ),
    Mutant("changes the evidence it reads", lambda: Rule(twist=in_place), ("contract.state",), first_answer_again(TWO)),
    Mutant(
        "changes evidence for others",
        lambda: Rule(twist=filled_in, more=frozenset({"gini"})),
        ("contract.state",),
        changed_evidence,
    ),
]
