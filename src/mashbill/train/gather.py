"""Putting together what weight rules may look at, batch by batch: only what they ask for in their ``needs``."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mashbill import numerics
from mashbill.distributions import comparison
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.errors import MashbillError
from mashbill.shapes import Float, Tensor
from mashbill.teachers.protocol import Scored
from mashbill.train.corpus import Corpus
from mashbill.train.protocol import Batch
from mashbill.weights.construction import look_up
from mashbill.weights.evidence import Evidence, Scale
from mashbill.weights.scorecard import MEASURES, Scorecard


@dataclass(frozen=True)
class Knowledge:
    """A scorecard in the order of a corpus: teachers, tasks and contexts by index.

    Attributes:
        scores: ``scores["task"]["accuracy"]`` is ``[K M]``; a measure that some teacher lacks is left out.
        orders: Certified pairs of teacher indices, by context.
    """

    scores: Mapping[Scale, Mapping[str, Float[Tensor, "K _"]]] = field(default_factory=dict)
    orders: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, scorecard: Scorecard, corpus: Corpus) -> "Knowledge":
        """Look up every teacher of the corpus; a task or context that was not measured takes the pooled figure.

        Raises:
            MashbillError: The scorecard lacks a teacher.
        """
        names = {"teachers": corpus.teachers, "tasks": corpus.tasks, "contexts": corpus.contexts}
        return cls(*look_up(scorecard, **names))

    @classmethod
    def supposed(cls, corpus: Corpus) -> "Knowledge":
        """Suppose that every teacher measures 1/2 everywhere: for trying out rules before anything is measured."""
        n_teachers = len(corpus.teachers)
        by_task, by_context = (torch.full((n_teachers, len(each)), 0.5) for each in (corpus.tasks, corpus.contexts))
        return cls({"task": dict.fromkeys(MEASURES, by_task), "context": dict.fromkeys(MEASURES, by_context)})


STUDENT_NEEDS = frozenset({"divergence:student", "gram", "student_logprobs"})
"""Evidence that is computed from what the student says now."""


@torch.no_grad()
def gather(
    corpus: Corpus,
    batch: Batch,
    scored: Sequence[Scored],
    scorecard: Scorecard | Knowledge | None,
    *,
    needs: Collection[str] = (),
    student_logits: Float[Tensor, "B T V"] | None = None,
) -> Evidence:
    """Return the evidence for a batch.

    Args:
        corpus: Where the batch comes from.
        batch: Some of its rows.
        scored: Each teacher's answers to them, in the order of ``corpus.teachers``.
        scorecard: Measured skill; :class:`Knowledge` saves looking it up at every step.
        needs: What the rules ask for; the costly fields are computed for who names them.
        student_logits: What the student says; only rules that read the student need it. No gradient flows back.

    Raises:
        MashbillError: A rule asks for variances and the data has none.
    """
    known = Knowledge.of(scorecard, corpus) if isinstance(scorecard, Scorecard) else scorecard or Knowledge()
    return Evidence(
        teachers=corpus.teachers,
        statistics=Statistics.stack([each.statistics for each in scored]),
        mask=batch.mask,
        n_entries=scored[0].distribution.n_entries,
        tasks=corpus.tasks,
        task=corpus.task[batch.index],
        contexts=corpus.contexts,
        context=corpus.context[batch.index],
        features=corpus.features[batch.index],
        route=corpus.route[batch.index],
        scores=known.scores,
        orders=known.orders,
        variance=_variance(corpus, batch) if "variance" in needs else None,
        **_compared([each.distribution for each in scored], batch, needs, student_logits),
    )


def _variance(corpus: Corpus, batch: Batch) -> Float[Tensor, "K B 1"]:
    if corpus.variances.shape[1] == 0:
        raise MashbillError(
            "a rule reads the variance of each teacher's answer, and the rows have none",
            where="data.variance_columns",
            help="name for each teacher the column that holds it",
        )
    return corpus.variances[batch.index].T.unsqueeze(-1)


def _compared(
    teachers: Sequence[Dense | TopK], batch: Batch, needs: Collection[str], student_logits: Tensor | None
) -> dict[str, Any]:
    """Return the fields of the evidence that compare whole distributions."""
    found: dict[str, Any] = {"divergences": {}}
    if "divergence:mean" in needs:
        found["divergences"]["mean"] = comparison.kl_to_mean(teachers)
    if "logprobs" in needs:
        found["logprobs"] = torch.stack([densified(each) for each in teachers])
    if STUDENT_NEEDS.isdisjoint(needs):
        return found
    assert student_logits is not None, "callers with rules that read the student pass what it says"
    student = numerics.log_softmax(student_logits.detach().to(teachers[0].logprobs.device))
    if "student_logprobs" in needs:
        found["student_logprobs"] = student
    if "divergence:student" in needs:
        found["divergences"]["student"] = comparison.kl_to(teachers, student, mask=batch.mask.to(student.device))
    if "gram" in needs:
        labels = batch.labels.to(student.device)
        found["gram"] = comparison.gradient_gram(teachers, student, labels=labels, mask=batch.mask.to(student.device))
    return found


def densified(distribution: Dense | TopK) -> Float[Tensor, "*batch V"]:
    """Log-probabilities of all entries, in float32 at least; a tail is spread evenly."""
    logprobs = distribution.logprobs if isinstance(distribution, Dense) else distribution.densify()
    return logprobs.to(numerics.reduction_dtype(logprobs.dtype))
