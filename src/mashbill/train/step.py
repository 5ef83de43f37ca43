"""One forward pass: rows in, a loss with its gradient and everything that happened out.

The student's optimiser is not here, and nothing keeps state: calling twice on the same rows gives the same value.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mashbill.errors import MashbillError, NumericError
from mashbill.losses.call import distillation_loss
from mashbill.shapes import Float, Int, LogWeights, Tensor
from mashbill.teachers.protocol import Scored
from mashbill.train import recipe
from mashbill.train.corpus import Corpus
from mashbill.train.gather import Knowledge, gather
from mashbill.train.protocol import NO_LABEL, Batch, Student
from mashbill.train.targets import Targets, is_finite, non_finite_teacher
from mashbill.weights.evidence import Evidence, WeightOperator, needs_of


@dataclass(frozen=True)
class Lesson:
    """All that a step needs beside the choice of rows.

    Attributes:
        student: Who learns.
        operator: How much each teacher counts.
        corpus: The rows.
        targets: Each teacher's answers, in the order of ``corpus.teachers``.
        distill: The loss's options.
        knowledge: Measured skill for the operator.
        bf16: Compute the student in bfloat16 where that is safe; the loss stays in float32.
    """

    student: Student
    operator: WeightOperator
    corpus: Corpus
    targets: Sequence[Targets]
    distill: recipe.Distill = field(default_factory=recipe.Distill)
    knowledge: Knowledge = field(default_factory=Knowledge)
    bf16: bool = False

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.student.module.parameters()).device


@dataclass(frozen=True)
class Outcome:
    """What one forward pass gave.

    Attributes:
        total: Scalar with gradient: the sum over the batch's positions that count, divided by ``n_counted``.
        batch: The rows, on the student's device.
        scored: What the teachers say.
        evidence: What the rules looked at.
        log_weights: ``[K B #T]``.
        logits: The student's scores, without gradient.
        divergence: Nats at each position; 0 where masked.
        cross_entropy: Nats at each position; 0 where masked or without a label.
    """

    total: Float[Tensor, ""]
    batch: Batch
    scored: Sequence[Scored]
    evidence: Evidence
    log_weights: LogWeights
    logits: Float[Tensor, "B T V"]
    divergence: Float[Tensor, "B T"]
    cross_entropy: Float[Tensor, "B T"]

    @property
    def is_faulty(self) -> Tensor:
        """Whether an answer, a weight or the loss is no number, as a tensor: asking costs no synchronisation.

        Answers are looked at themselves: a loss can stay finite on a teacher that is not.
        """
        answers = torch.stack([is_finite(each).all() for each in self.scored]).all().to(self.total.device)
        return ~answers | ~self.total.detach().isfinite() | self.log_weights.isnan().any()


def step(lesson: Lesson, index: Int[Tensor, " B"], *, n_counted: int, world_size: int = 1) -> Outcome:
    """Compute the loss of some rows.

    ``world_size / n_counted * sum_positions [ (1 - c) T^2 D + c CE ]``. ``n_counted`` is that of the whole optimiser
    step, all its micro-batches and processes together: the mean of means would weigh tokens of short batches more.
    Processes average their gradients, hence the factor ``world_size``.

    Args:
        lesson: Student, teachers and loss.
        index: Rows of the corpus.
        n_counted: Positions that count in the whole optimiser step.
        world_size: Processes that share the step.
    """
    asked = lesson.corpus.batch(index)
    scored = [targets.batch(index, asked.labels.shape[1]) for targets in lesson.targets]
    batch = asked.to(lesson.device)
    with torch.autocast(lesson.device.type, torch.bfloat16, enabled=lesson.bf16):
        logits = lesson.student.logits(batch)
    evidence = evidence_of(lesson, asked, scored, logits)
    with torch.no_grad():
        log_weights = lesson.operator(evidence).to(lesson.device)
    options = lesson.distill
    output = distillation_loss(
        logits,
        [each.distribution for each in scored],
        log_weights,
        mask=batch.mask,
        labels=batch.labels if options.cross_entropy > 0 else None,
        divergence=options.divergence.name,
        **options.divergence.given,
        temperature=options.divergence.temperature,
        pool=options.pool,
        tail=options.tail,
        cross_entropy=options.cross_entropy,
        scale=world_size / n_counted,
    )
    return Outcome(
        output.total, batch, scored, evidence, log_weights, logits.detach(), output.divergence, output.cross_entropy
    )


def evidence_of(lesson: Lesson, batch: Batch, scored: Sequence[Scored], logits: Float[Tensor, "B T V"]) -> Evidence:
    """Return what the lesson's rules may look at."""
    return gather(
        lesson.corpus, batch, scored, lesson.knowledge, needs=needs_of(lesson.operator), student_logits=logits
    )


def explain_fault(lesson: Lesson, index: Int[Tensor, " B"], outcome: Outcome) -> MashbillError | None:
    """Return the error that names the first thing in a batch that is not finite: teacher, weight, or student."""
    mask = lesson.corpus.batch(index).mask
    for targets, scored in zip(lesson.targets, outcome.scored, strict=True):
        bad = ~is_finite(scored) & mask
        if bool(bad.any()):
            row, position = (int(n) for n in bad.nonzero()[0])
            return non_finite_teacher(targets.teacher, lesson.corpus.rows[int(index[row])].id, position)
    if bool(outcome.log_weights.isnan().any()):
        teacher, row, position = (int(n) for n in outcome.log_weights.isnan().nonzero()[0])
        what = f"the weight of teacher `{lesson.corpus.teachers[teacher]}`"
        return _fault(lesson, index, (row, position), what, "look at the rules under `weighting`, and at that row")
    student = outcome.logits.isfinite().all(dim=-1) & outcome.divergence.isfinite() & outcome.cross_entropy.isfinite()
    bad = (~student.cpu()) & mask
    if bool(bad.any()):
        row, position = (int(n) for n in bad.nonzero()[0])
        help = "lower train.learning_rate or train.max_grad_norm, or look at that row"
        return _fault(lesson, index, (row, position), "the student's own output or loss", help)
    return None


def _fault(lesson: Lesson, index: Tensor, place: tuple[int, int], what: str, help: str) -> NumericError:
    row, position = place
    return NumericError(
        f"{what} is not finite",
        where=f"row `{lesson.corpus.rows[int(index[row])].id}`, position {position}",
        why="the optimiser has not moved; the last checkpoint is as it was",
        help=help,
    )


@torch.no_grad()
def evaluate(lesson: Lesson, *, batch_size: int) -> Mapping[str, float]:
    """Return loss, accuracy and, of a language model, perplexity over a whole corpus; the student is left in its mode.

    Accuracy and perplexity count positions that have a label, and are left out if none has.
    """
    module = lesson.student.module
    was_training = module.training
    module.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    try:
        for index in torch.arange(len(lesson.corpus)).split(batch_size):
            outcome = step(lesson, index, n_counted=1)
            labelled = outcome.batch.mask & (outcome.batch.labels != NO_LABEL)
            labels, logits = outcome.batch.labels[labelled], outcome.logits[labelled].float()
            right = (logits.argmax(dim=-1) == labels).sum()
            nats = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") if len(labels) else right.float()
            sums += torch.stack([outcome.total.double(), right.double(), nats.double(), labelled.sum().double()]).cpu()
    finally:
        module.train(was_training)
    loss, right, nats, n_labelled = sums.tolist()
    measured = {"loss": loss / int(lesson.corpus.n_counted.sum())}
    if n_labelled:
        measured["accuracy"] = right / n_labelled
        if lesson.student.kind == "causal_lm":
            measured["perplexity"] = math.exp(min(nats / n_labelled, 700.0))
    return measured
