"""Weight rules at the scales of tasks and contexts that break one axiom of their scale."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from audit.mutants_token import lift_if
from audit.situations import (
    at,
    below,
    is_zero,
    misses_one,
    moves,
    skilled,
    turns,
)
from audit.specimens import DeafIn, Mutant, Rule, wave

from mashbill.weights.evidence import Evidence


def scaled_in_code(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights + 1e-3 * (evidence.task == evidence.tasks.index("code")).reshape(1, -1, 1)


def scaled_far_out(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return log_weights + 1e-3 * (evidence.features.norm(dim=-1) > 2).reshape(1, -1, 1)


@dataclass(frozen=True)
class ByAccuracy:
    """Weights proportional to accuracy: a teacher that is never right has none."""

    scale: ClassVar[str] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"score:task:accuracy"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        accuracy = evidence.score("accuracy", by="task")[:, evidence.task, None]
        accuracy = torch.where(accuracy.sum(dim=0) > 0, accuracy, 1.0)
        return (accuracy / accuracy.sum(dim=0)).log()


def silent_when_far(log_weights: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """A kernel with a support: where a teacher's wave is at its lowest, it has no weight."""
    kernel = (wave(evidence) - 0.02).clamp_min(0)
    return torch.log_softmax(log_weights + kernel.log().clamp_min(-1e4), dim=0)


@dataclass(frozen=True)
class InverseTaskLoss:
    """``w ~ 1/loss^2``, and a loss has no largest value."""

    scale: ClassVar[str] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"score:task:loss"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        loss = evidence.score("loss", by="task")[:, evidence.task, None]
        return torch.log_softmax(-2 * (loss + 1e-2).log(), dim=0)


def logit_of_features(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Log-odds that grow with the cube of a feature."""
    sign = torch.tensor([(-1.0) ** int(name.removeprefix("t")) for name in evidence.teachers])
    return signal + (sign[:, None] * 5 * evidence.features[:, 0] ** 3).unsqueeze(-1)


@dataclass(frozen=True)
class LeastLoss:
    """The teacher with the smallest loss gets 0.6 of everything; ties share."""

    scale: ClassVar[str] = "task"
    needs: ClassVar[frozenset[str]] = frozenset({"score:task:loss"})

    def __call__(self, evidence: Evidence, /) -> torch.Tensor:
        loss = evidence.score("loss", by="task")[:, evidence.task, None]
        best = loss == loss.amin(dim=0)
        return (0.4 / len(loss) + 0.6 * best / best.sum(dim=0)).log()


def passing_grade(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    return signal + 0.05 * (signal > 0.6)


def nearest_cell(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Another steepness on the other side of a line in feature space."""
    return signal * torch.where(evidence.features.sum(dim=-1) > 0.4, 1.0, 0.9).reshape(1, -1, 1)


def one_wave_in_ring(signal: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    radius = evidence.features.norm(dim=-1).reshape(1, -1, 1)
    return lift_if((radius > 1.0) & (radius < 1.05), 0.02, signal)


BOTH_TASKS = replace(skilled(0.5, 0.9, rows=2), task=torch.tensor([0, 1]))

TASK = [
    Mutant(
        "sum off in one task",
        lambda: Rule("task", spoil=scaled_in_code),
        ("task.III.10", "contract.precision"),
        misses_one(BOTH_TASKS),
    ),
    Mutant("weights proportional to accuracy", ByAccuracy, ("task.III.11", "task.III.12"), is_zero(skilled(0.0, 0.5))),
    Mutant(
        "squared inverse loss",
        InverseTaskLoss,
        ("task.III.12",),
        below(1e-6, skilled(0.5, 0.5, losses=(1e-3, 1e3))),
    ),
    Mutant(
        "least loss takes most",
        LeastLoss,
        ("task.III.13",),
        moves(skilled(0.5, 0.5, losses=(1.0, 1.0 - 1e-9)), skilled(0.5, 0.5, losses=(1.0, 1.0 + 1e-9))),
    ),
    Mutant(
        "bonus above a passing grade",
        lambda: Rule("task", twist=passing_grade),
        ("task.III.13",),
        moves(skilled(0.6 - 1e-9, 0.5), skilled(0.6 + 1e-9, 0.5)),
    ),
]

CONTEXT = [
    Mutant(
        "sum off far from home",
        lambda: Rule("features", spoil=scaled_far_out, more=frozenset({"features"})),
        ("context.III.18", "contract.precision"),
        misses_one(at(3.0, 0.0)),
    ),
    Mutant(
        "silent where far",
        lambda: Rule("features", spoil=silent_when_far, is_ordered=False),
        ("context.III.19", "context.III.20", "context.III.22"),
        is_zero(at(-1.5707963, 0.0)),
    ),
    Mutant(
        "log-odds without end in a feature",
        lambda: Rule("features", twist=logit_of_features),
        ("context.III.20",),
        below(1e-6, at(3.0, 0.0)),
    ),
    Mutant(
        "another rule beyond a line",
        lambda: Rule("features", twist=nearest_cell),
        ("context.III.21",),
        moves(at(0.2, 0.2 - 1e-9), at(0.2, 0.2 + 1e-9)),
    ),
    Mutant(
        "bump of 1e-3 in a ring",
        lambda: Rule("features", twist=one_wave_in_ring),
        ("context.III.21",),
        moves(at(0.8, 0.6 - 1e-9), at(0.8, 0.6 + 1e-9)),
    ),
    Mutant(
        "order ignored in the field",
        lambda: DeafIn(Rule("context"), context="field"),
        ("context.III.22",),
        turns(replace(skilled(0.2, 0.8), context=torch.tensor([1]))),
    ),
]
