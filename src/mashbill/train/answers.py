"""What student, teachers and pool say at the same positions, streamed in small chunks.

Evaluation and examples both look at predictions side by side. A chunk holds a few positions of all of them, so memory
stays bounded whatever the number of rows and the size of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from mashbill.distributions.dense import Dense
from mashbill.distributions.topk import TopK
from mashbill.pools.arithmetic import linear
from mashbill.pools.geometric import log_linear
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.teachers.protocol import Scored
from mashbill.train.corpus import Corpus
from mashbill.train.gather import Knowledge, densified, gather
from mashbill.train.metrics import Marks
from mashbill.train.protocol import NO_LABEL, Batch, Student
from mashbill.train.targets import Targets
from mashbill.weights.evidence import WeightOperator, needs_of

CHUNK_ELEMENTS = 2**24
"""Log-probabilities held at once for each candidate, 64 MiB in float32."""


@dataclass(frozen=True)
class Answers:
    """Predictions at ``P`` positions.

    Attributes:
        row: Place of each position's row in the corpus.
        position: Place of each position in its row.
        labels: ``-100`` where unknown.
        student: The student's distribution.
        teachers: The teachers', at temperature 1.
        label_logprobs: What each teacher gives the label, in nats; exact also where only the top entries are stored.
        log_weights: How much each teacher counts there.
        pool: The pooled target at temperature 1; mass that a teacher did not say where is spread evenly.
        disagreement: ``sum_k w_k KL(p_k || pool)`` in nats.
    """

    row: Int[Tensor, " P"]
    position: Int[Tensor, " P"]
    labels: Int[Tensor, " P"]
    student: Dense
    teachers: tuple[Dense | TopK, ...]
    label_logprobs: Float[Tensor, "K P"]
    log_weights: Float[Tensor, "K P"]
    pool: Dense
    disagreement: Float[Tensor, " P"]


@dataclass(frozen=True)
class Panel:
    """Everyone who is judged on a corpus, and how they are weighed.

    Attributes:
        student: In any mode; it is put into evaluation mode.
        corpus: Encoded rows.
        targets: Each teacher's stored answers to those rows.
        operator: The run's weights.
        known: What the weights may read of measured skill.
        pool: How the teachers are pooled.
    """

    student: Student
    corpus: Corpus
    targets: Sequence[Targets]
    operator: WeightOperator
    known: Knowledge
    pool: Literal["linear", "log_linear"]

    def answers(self, rows: Int[Tensor, " N"], *, batch_size: int) -> Iterator[Answers]:
        """Ask everyone about some rows of the corpus, in their order; only positions that count."""
        is_training = self.student.module.training
        self.student.module.eval()
        try:
            for index in rows.split(n_rows_at_once(self.corpus, self.student.n_entries, batch_size)):
                yield from self._batch(index)
        finally:
            self.student.module.train(is_training)

    def _batch(self, index: Int[Tensor, " B"]) -> Iterator[Answers]:
        batch = self.corpus.batch(index)
        scored = [targets.batch(index, batch.labels.shape[1]) for targets in self.targets]
        # A generator hands control back in between, so gradients are switched off inside the calls and not around them.
        with torch.no_grad():
            logits = self.student.logits(batch.to(_device(self.student))).cpu()
            needs = needs_of(self.operator)
            evidence = gather(self.corpus, batch, scored, self.known, needs=needs, student_logits=logits)
            log_weights = self.operator(evidence).cpu()
        log_weights = log_weights.expand(len(scored), *batch.labels.shape)
        places = batch.mask.nonzero()
        per_chunk = max(1, CHUNK_ELEMENTS // (self.student.n_entries * max(1, len(scored))))
        for some in places.split(per_chunk):
            yield self._at(batch, logits, scored, log_weights, some)

    def _at(
        self,
        batch: Batch,
        logits: Float[Tensor, "B T V"],
        scored: Sequence[Scored],
        log_weights: Float[Tensor, "K B T"],
        places: Int[Tensor, "P 2"],
    ) -> Answers:
        b, t = places.unbind(dim=1)
        teachers = tuple(at(each.distribution, b, t) for each in scored)
        dense = torch.stack([densified(each) for each in teachers])
        weights = log_weights[:, b, t].to(dense.dtype)
        pooled = linear(dense, weights) if self.pool == "linear" else log_linear(dense, weights)
        divergence = (dense.exp() * (dense - pooled)).sum(dim=-1).clamp_min(0)
        return Answers(
            row=batch.index[b],
            position=t,
            labels=batch.labels[b, t],
            student=Dense.from_logits(logits[b, t]),
            teachers=teachers,
            label_logprobs=torch.stack([each.statistics.label_logprob[b, t] for each in scored]),
            log_weights=weights,
            pool=Dense(pooled),
            disagreement=(weights.exp() * divergence).sum(dim=0),
        )


def mark(
    distribution: Dense | TopK,
    labels: Int[Tensor, " P"],
    rows: Int[Tensor, " P"],
    *,
    label_logprobs: Float[Tensor, " P"] | None = None,
) -> Marks:
    """Compare predictions with labels, at the positions that have one.

    Args:
        distribution: ``P`` predictions.
        labels: ``-100`` where unknown.
        rows: The sampled unit that each position belongs to.
        label_logprobs: Log-probability of each label in nats, where it is known better than ``distribution`` tells.
    """
    found = distribution.logprob_of(labels.clamp_min(0)) if label_logprobs is None else label_logprobs
    top, log_confidence = prediction(distribution)
    known = labels != NO_LABEL
    return Marks(
        row=rows[known].numpy().astype(np.int64),
        nll=(-found[known].double()).clamp_min(0).numpy(),
        is_correct=(top == labels)[known].numpy(),
        confidence=log_confidence[known].double().exp().clamp_max(1).numpy(),
    )


def prediction(distribution: Dense | TopK) -> tuple[Int[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the most probable entry and its log-probability in nats.

    Entry ``-1`` means that entries outside the stored ones are more probable than any stored one: the distribution
    names nothing, which no label equals.
    """
    if isinstance(distribution, Dense):
        best = distribution.logprobs.max(dim=-1)
        return best.indices, best.values
    best = distribution.logprobs.max(dim=-1)
    top = distribution.ids.gather(-1, best.indices.unsqueeze(-1)).squeeze(-1).long()
    share = distribution.log_tail_share().to(best.values.dtype)
    return torch.where(share > best.values, -1, top), torch.maximum(best.values, share)


def at(distribution: Dense | TopK, b: Int[Tensor, " P"], t: Int[Tensor, " P"]) -> Dense | TopK:
    """Take single positions out of a batch."""
    if isinstance(distribution, Dense):
        return Dense(distribution.logprobs[b, t])
    return TopK(
        distribution.ids[b, t], distribution.logprobs[b, t], distribution.log_tail[b, t], distribution.n_entries
    )


def n_rows_at_once(corpus: Corpus, n_entries: int, batch_size: int) -> int:
    """Return how many rows to look at together: ``batch_size``, or fewer if their distributions would fill the memory.

    A batch of long texts over a large vocabulary is gigabytes of logits, whatever the recipe asks for.
    """
    longest = int(corpus.labels.lengths.max()) if len(corpus) else 1
    return max(1, min(batch_size, 4 * CHUNK_ELEMENTS // (longest * n_entries)))


def source_rows(corpus: Corpus) -> Int[Tensor, " N"]:
    """Number the rows that the corpus was made from: blocks cut from one text (``id#0``, ``id#1``) share a number.

    Blocks of one text are no independent observations, so intervals and certificates count texts.
    """
    ids = [row.id for row in corpus.rows]
    numbers = [0] * len(ids)
    for place, (before, own) in enumerate(pairwise(ids), start=1):
        numbers[place] = numbers[place - 1] + (not _continues(before, own))
    return torch.tensor(numbers, dtype=torch.long)


def first_rows(source: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Mark the first block of each source row."""
    return torch.cat([torch.ones(min(1, len(source)), dtype=torch.bool), source[1:] != source[:-1]])


def _continues(before: str, own: str) -> bool:
    base, _, number = own.rpartition("#")
    return number.isdecimal() and int(number) > 0 and before == f"{base}#{int(number) - 1}"


def _device(student: Student) -> torch.device:
    return next(student.module.parameters()).device
