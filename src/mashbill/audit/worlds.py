"""Situations to put a weight rule into: teachers, student, labels, scores and contexts, from which evidence follows.

A rule sees evidence; a search needs what lies beneath it, because evidence cannot be changed freely: entropy, Gini
variance and divergences of one distribution move together. A :class:`World` holds the causes, gives the evidence, and
can be moved, cut, and permuted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch

from mashbill import numerics
from mashbill.distributions import comparison
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics, measure
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.weights.evidence import Evidence

CONTINUOUS = ("logits", "student", "features", "variance", "skill", "losses")
"""What a path between two worlds moves along; everything else is discrete and stays."""

DIVERGENCES = ("divergence:mean", "divergence:student")
OPTIONAL = (*DIVERGENCES, "gram", "variance", "logprobs", "student_logprobs")
"""Evidence that is gathered for who asks."""


@dataclass(frozen=True)
class World:
    """Causes of evidence.

    Attributes:
        teachers: Teacher ids.
        tasks: Task names.
        contexts: Context names.
        logits: The teachers' scores of each entry.
        student: The student's.
        labels: ``-100`` where there is none.
        mask: Positions that count.
        features: Context features of each row.
        variance: Measured variance of each teacher's answer, in ``[0, 1]``.
        skill: Measured accuracy and safety, in ``[0, 1]``: by task and then by context, ``[K M+D]`` each.
        losses: Measured losses in nats, ``[K M+D]``.
        task: Of each row.
        context: Of each row.
        route: The teacher that the row names, ``-1`` for none.
        orders: Certified pairs ``(safer, less safe)`` by context.
    """

    teachers: tuple[str, ...]
    tasks: tuple[str, ...]
    contexts: tuple[str, ...]
    logits: Float[Tensor, "K B T V"]
    student: Float[Tensor, "B T V"]
    labels: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    features: Float[Tensor, "B F"]
    variance: Float[Tensor, "K B T"]
    skill: Float[Tensor, "2 K N"]
    losses: Float[Tensor, "K N"]
    task: Int[Tensor, " B"]
    context: Int[Tensor, " B"]
    route: Int[Tensor, " B"]
    orders: Mapping[str, tuple[tuple[int, int], ...]]

    @property
    def n_teachers(self) -> int:
        """``K``."""
        return len(self.teachers)

    def evidence(self, needs: Collection[str] = OPTIONAL) -> Evidence:
        """Return what a rule may look at, which nobody else has the same tensors of; by default all that there is.

        Args:
            needs: What is gathered beyond the ordinary, as in training: a rule that does not ask gets nothing.
        """
        given = {name: _copied(self._gathered(name)) for name in OPTIONAL if name in needs}
        own = {f.name: _copied(getattr(self._ordinary, f.name)) for f in fields(Evidence) if f.name not in OPTIONAL}
        own["divergences"] = {name.partition(":")[2]: given.pop(name) for name in DIVERGENCES if name in given}
        return Evidence(**own | given)

    @cached_property
    def last_answer(self) -> dict[str, Any]:
        """The rule that was asked here last, and what it said: many axioms are about the same answer."""
        return {}

    @cached_property
    def _ordinary(self) -> Evidence:
        labels = torch.where(self.mask, self.labels, -100)
        accuracy, safety = self.skill
        n_tasks = len(self.tasks)
        measured = {"accuracy": accuracy, "safety": safety, "loss": self.losses}
        return Evidence(
            teachers=self.teachers,
            statistics=Statistics.stack([measure(one, labels=labels) for one in self._said]),
            mask=self.mask,
            n_entries=self.logits.shape[-1],
            tasks=self.tasks,
            task=self.task,
            contexts=self.contexts,
            context=self.context,
            features=self.features,
            route=self.route,
            scores={
                "task": {name: table[:, :n_tasks] for name, table in measured.items()},
                "context": {name: table[:, n_tasks:] for name, table in measured.items()},
            },
            orders=self.orders,
        )

    @cached_property
    def _said(self) -> list[Dense]:
        return [Dense.from_logits(logits) for logits in self.logits]

    def _gathered(self, name: str) -> Tensor:
        """Return what is costly, computed when it is first asked for."""
        if name not in self._known:
            self._known[name] = self._compute(name)
        return self._known[name]

    @cached_property
    def _known(self) -> dict[str, Tensor]:
        return {}

    def _compute(self, name: str) -> Tensor:
        if name == "variance":
            return self.variance
        if name == "logprobs":
            return torch.stack([one.logprobs for one in self._said])
        if name == "divergence:mean":
            return comparison.kl_to_mean(self._said)
        student = numerics.log_softmax(self.student)
        if name == "gram":
            labels = torch.where(self.mask, self.labels, -100)
            return comparison.gradient_gram(self._said, student, labels=labels, mask=self.mask)
        return comparison.kl_to(self._said, student) if name == "divergence:student" else student

    def toward(self, other: "World", share: float) -> "World":
        """Return the world a share of the way to another: continuous causes move, discrete ones stay."""
        moved = {
            name: torch.lerp(getattr(self, name), getattr(other, name).to(getattr(self, name).dtype), share)
            for name in CONTINUOUS
        }
        return replace(self, **moved)

    def rows(self, index: Sequence[int]) -> "World":
        """Return some rows, as a batch of their own."""
        at = torch.tensor(list(index))
        of_rows = {name: getattr(self, name)[at] for name in BY_ROW}
        return replace(self, logits=self.logits[:, at], variance=self.variance[:, at], **of_rows)

    def permuted(self, permutation: Sequence[int]) -> "World":
        """Return the same world with the teachers, and their names, in another order."""
        at, place = torch.tensor(list(permutation)), {old: new for new, old in enumerate(permutation)}
        route = torch.tensor([place.get(int(one), -1) for one in self.route])
        return replace(
            self,
            teachers=tuple(self.teachers[k] for k in permutation),
            logits=self.logits[at],
            variance=self.variance[at],
            skill=self.skill[:, at],
            losses=self.losses[at],
            route=route,
            orders={name: tuple((place[a], place[b]) for a, b in pairs) for name, pairs in self.orders.items()},
        )

    def to(self, dtype: torch.dtype) -> "World":
        """Return the same world with floating-point causes in another precision."""
        floating = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self,
            **{
                name: value.to(dtype)
                for name, value in floating.items()
                if isinstance(value, Tensor) and value.is_floating_point()
            },
        )


BY_ROW = ("student", "labels", "mask", "features", "task", "context", "route")


def _copied(value: Any) -> Any:
    """Return a value whose tensors are copies, with their gradient's history if they have one."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Statistics):
        return Statistics(**{f.name: getattr(value, f.name).clone() for f in fields(value)})
    if isinstance(value, Mapping):
        return {name: _copied(inner) for name, inner in value.items()}
    return value
