"""What a weight rule may look at, and the contract that every rule keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol, cast, runtime_checkable

import torch

from mashbill.distributions.statistics import Statistics
from mashbill.shapes import Bool, Float, Int, LogWeights, Tensor

Scale = Literal["task", "context"]
Reference = Literal["mean", "student"]


@dataclass(frozen=True)
class Evidence:
    """All that is known about a batch when its weights are decided; one value, no setters.

    Attributes:
        teachers: Teacher ids, in the order of axis ``K``.
        statistics: What each teacher says at each position, ``[K B T]`` each.
        mask: Positions that count.
        n_entries: ``V``, the size of the vocabulary or label set; entropies are divided by ``ln V``.
        tasks: Task names; ``task`` indexes them.
        task: Task of each row.
        contexts: Names of the declared deployment contexts; ``context`` indexes them.
        context: Context of each row.
        features: Numeric context features of each row, ``[B F]``; ``F`` may be 0.
        route: Index of the one teacher that a row names in its ``teacher_id`` column, ``-1`` if it names none.
        scores: Measured skill of each teacher, from a scorecard: ``scores["task"]["accuracy"]`` is ``[K M]`` over
            ``tasks``, ``scores["context"]["safety"]`` is ``[K D]`` over ``contexts``.
        orders: For each context with a certified safety order, the pairs ``(safer, less safe)`` of teacher indices.
        divergences: ``KL(p_k || reference)`` in nats at each position, ``[K B T]``: against the teachers' plain mean,
            and against the student as it is now.
        gram: Inner products of logit-space gradients, each row's positions summed, ``[B K+1 K+1]``: the teachers'
            ``p_S - p_k`` first, the labels' ``p_S - onehot(y)`` last, which is 0 where there is no label.
        variance: Variance of each teacher's prediction where somebody measured it, from samples or paraphrases.
        logprobs: The teachers' log-probabilities in full, for the few rules that learn from them.
        student_logprobs: The student's, without gradient.

    The last five are None, or lack an entry, unless the rule asks for them in its ``needs``.
    """

    teachers: tuple[str, ...]
    statistics: Statistics
    mask: Bool[Tensor, "B T"]
    n_entries: int
    tasks: tuple[str, ...]
    task: Int[Tensor, " B"]
    contexts: tuple[str, ...]
    context: Int[Tensor, " B"]
    features: Float[Tensor, "B F"]
    route: Int[Tensor, " B"]
    scores: Mapping[Scale, Mapping[str, Float[Tensor, "K _"]]] = field(default_factory=dict)
    orders: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    divergences: Mapping[Reference, Float[Tensor, "K B T"]] = field(default_factory=dict)
    gram: Float[Tensor, "B J J"] | None = None
    variance: Float[Tensor, "K B #T"] | None = None
    logprobs: Float[Tensor, "K B T V"] | None = None
    student_logprobs: Float[Tensor, "B T V"] | None = None

    @property
    def n_teachers(self) -> int:
        """``K``."""
        return len(self.teachers)

    def score(self, measure: str, *, by: Scale) -> Float[Tensor, "K _"]:
        """Return a measured score, teachers by tasks or by contexts.

        Raises:
            ValueError: The evidence carries no such score, or a teacher was not measured on some task or context.
        """
        table = self.scores.get(by, {})
        if measure not in table:
            raise ValueError(
                f"measure={measure!r} by {by} is not in the evidence (has {sorted(table)}); "
                "run `mashbill scorecard` on a labelled sample first"
            )
        found = table[measure]
        # Scores live on the CPU as a rule; looking at them elsewhere would make the step wait for the device.
        if found.device.type == "cpu" and not bool(found.isfinite().all()):
            teacher, column = (int(i) for i in (~found.isfinite()).nonzero()[0])
            names = self.tasks if by == "task" else self.contexts
            raise ValueError(
                f"measure={measure!r} of teacher {self.teachers[teacher]!r} on {by} {names[column]!r} was not "
                f"measured; add rows of that {by} to the scorecard sample"
            )
        return found

    def given(self, name: str) -> Tensor:
        """Return an optional field, or an entry of ``divergences`` as ``"divergence:mean"``.

        Raises:
            ValueError: The evidence does not carry it.
        """
        kind, _, reference = name.partition(":")
        found = self.divergences.get(cast(Reference, reference)) if kind == "divergence" else getattr(self, kind)
        if found is None:
            raise ValueError(
                f"needs={name!r} is not in the evidence; name it in the rule's `needs` and training gathers it, or "
                "give it to Evidence(...)"
            )
        return found

    @classmethod
    def plain(cls, teachers: tuple[str, ...], statistics: Statistics, *, n_entries: int) -> "Evidence":
        """Evidence with one task, one context, no scores: enough for rules that read statistics only."""
        _, n_rows, n_positions = statistics.entropy.shape
        device = statistics.entropy.device
        none = torch.zeros(n_rows, dtype=torch.long, device=device)
        return cls(
            teachers=teachers,
            statistics=statistics,
            mask=torch.ones(n_rows, n_positions, dtype=torch.bool, device=device),
            n_entries=n_entries,
            tasks=("all",),
            task=none,
            contexts=("all",),
            context=none,
            features=torch.zeros(n_rows, 0, device=device),
            route=none - 1,
        )

    @classmethod
    def unread(
        cls, teachers: tuple[str, ...], mask: Bool[Tensor, "B T"], *, n_entries: int, n_classes: int = 0
    ) -> "Evidence":
        """Evidence before anything is read: one task, one context, and statistics of NaN that take no memory.

        What else is known of the rows goes in with ``dataclasses.replace``. For
        :func:`mashbill.weights.between`.

        Args:
            teachers: Teacher ids.
            mask: Positions that count.
            n_entries: ``V``.
            n_classes: Of how many classes of entries the mass will be measured.

        >>> mask = torch.ones(2, 5, dtype=torch.bool)
        >>> evidence = Evidence.unread(("large", "small"), mask, n_entries=3)
        >>> evidence.statistics.entropy.shape, evidence.statistics.entropy.untyped_storage().nbytes()
        (torch.Size([2, 2, 5]), 4)
        """
        unknown = torch.full((), torch.nan, device=mask.device).expand(len(teachers), *mask.shape)
        names = (entry.name for entry in fields(Statistics))
        by_class = unknown.unsqueeze(-1).expand(*unknown.shape, n_classes)
        statistics = Statistics(**dict.fromkeys(names, unknown) | {"class_mass": by_class})
        return replace(cls.plain(teachers, statistics, n_entries=n_entries), mask=mask)


@runtime_checkable
class WeightOperator(Protocol):
    """A weight rule: a pure call from evidence to log-weights.

    The result exp-sums to 1 over ``K``; its last axis is 1 unless the rule works at the token scale. The same
    evidence gives the same weights: no state changes in a call.
    """

    def __call__(self, evidence: Evidence, /) -> LogWeights:
        """Return log-weights ``[K B #T]``."""
        ...


def needs_of(operator: WeightOperator) -> frozenset[str]:
    """Return what a rule asks for; a plain function without ``needs`` asks for nothing beyond the ordinary."""
    return frozenset(getattr(operator, "needs", frozenset()))


@dataclass(frozen=True)
class Declared:
    """What a rule promises of its weights, as data that the audit recomputes and attacks.

    Attributes:
        lowest: Greatest certain lower bound of any weight, a probability.
        highest: Least certain upper bound of any weight.
        lipschitz: Constant of weights in the sup norm against ``metric``; None if there is none.
        metric: The input and norm in which ``lipschitz`` is stated, e.g. ``"teacher logits, sup"``.
        source: Where it is proved.
        score_lipschitz: Constant of the log-weights up to a number common to all teachers, in the same metric; None
            if there is none of its own (``lipschitz / lowest`` then bounds it). Products add these.
        reads_student: The weights follow the student as it is now (without gradient), so the objective moves with it.
        mixes_rows: The weights of a row depend on the other rows of its batch.
    """

    lowest: float
    highest: float
    lipschitz: float | None
    metric: str
    source: str
    score_lipschitz: float | None = None
    reads_student: bool = False
    mixes_rows: bool = False


@dataclass(frozen=True)
class Observation:
    """What a rule that learns sees, once after each optimiser step; nothing in it carries a gradient.

    Attributes:
        step: Optimiser steps taken, from 1.
        evidence: Of the step's last rows.
        log_weights: What the whole operator answered to it.
        losses: ``KL(p_k || student)`` in nats at each position, ``[K B T]``: each teacher's own distillation loss.
    """

    step: int
    evidence: Evidence
    log_weights: LogWeights
    losses: Float[Tensor, "K B T"]


@runtime_checkable
class Learner(Protocol):
    """A rule that learns, also an ``nn.Module``: its state changes here and nowhere else."""

    def observe(self, observation: Observation, /) -> None:
        """Take one learning step."""
        ...
