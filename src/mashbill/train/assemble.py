"""From a recipe to the things that it names, and to a training that is ready to start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mashbill.durable import sha256_of
from mashbill.errors import MashbillError
from mashbill.teachers.protocol import Teacher
from mashbill.train import recipe
from mashbill.train.build import build_operator, build_teachers
from mashbill.train.callbacks import open_reporter
from mashbill.train.classes import declared_classes
from mashbill.train.corpus import Corpus, encode_sets
from mashbill.train.data import read_rows
from mashbill.train.engine import Job, Training
from mashbill.train.gather import Knowledge
from mashbill.train.heard import require_known_certainty
from mashbill.train.ledger import Ledger, ledger_of
from mashbill.train.loading import Loaded
from mashbill.train.protocol import Student
from mashbill.train.sampler import Sampler, mix_probabilities
from mashbill.train.step import Lesson
from mashbill.train.stores import without_refused
from mashbill.train.students import build_student, origin
from mashbill.train.targets import Targets
from mashbill.weights.evidence import WeightOperator
from mashbill.weights.scorecard import Scorecard

TRAIN = "training rows"
"""Key of the training set beside the evaluation sets; with its space it is no name that a recipe can give."""


@dataclass(frozen=True)
class Parts:
    """Everything that a recipe names, built.

    Attributes:
        student: Who learns.
        teachers: In the order of the recipe.
        operator: Of their weights.
        corpora: Rows of each set, without those that a teacher refused.
        data: The sha256 of each data file.
        ledger: What a resumed run must not change.
        refused: Rows of each set that each teacher refused, by teacher and set.
    """

    student: Student
    teachers: Sequence[Teacher]
    operator: WeightOperator
    corpora: Mapping[str, Corpus]
    data: Mapping[str, str]
    ledger: Ledger
    refused: Mapping[str, Mapping[str, int]]


def data_hashes(loaded: Loaded) -> dict[str, str]:
    """Return the sha256 of each data file, by its key in the recipe.

    Raises:
        MashbillError: A file is not there.
    """
    data = loaded.recipe.data
    files = {"data.train": data.train, **{f"data.eval.{name}": path for name, path in data.eval.items()}}
    if data.scorecard is not None:
        files["data.scorecard"] = data.scorecard
    found = {key: loaded.resolve(path) for key, path in files.items()}
    for key, path in found.items():
        if not path.exists():
            raise MashbillError(f"no such file: {path}", where=loaded.where(key), help="correct the path")
    return {key: sha256_of(path) for key, path in found.items()}


def build_parts(loaded: Loaded, data: Mapping[str, str]) -> Parts:
    """Build everything that a recipe names, cheapest failures first."""
    given, base = loaded.recipe, loaded.path.parent
    ids = [teacher.id for teacher in given.teachers]
    operator = build_operator(given.weighting, ids)  # first: it fails fastest
    require_known_certainty(operator, given.teachers)
    student = build_student(given.student, base, given.train.seed)
    classes = declared_classes(loaded, student)
    teachers = build_teachers(given.teachers, student, base, data=given.data, classes=classes)
    critical = given.critical.labels if given.critical else ()
    paths = {TRAIN: given.data.train, **given.data.eval}
    sets = {name: read_rows(loaded.resolve(path), given.data, critical_labels=critical) for name, path in paths.items()}
    corpora = encode_sets(student, sets, max_length=given.data.max_length, teachers=ids)
    corpora, refused = without_refused(given.teachers, teachers, corpora)
    identities = {teacher.id: dict(teacher.identity()) for teacher in teachers}
    ledger = ledger_of(given, data=data, teachers=identities, student=origin(given.student, base))
    return Parts(student, teachers, operator, corpora, data, ledger, refused)


def prepare_training(
    loaded: Loaded,
    parts: Parts,
    targets: Mapping[str, Sequence[Targets]],
    scorecard: Scorecard | None,
    directory: Path,
) -> Training:
    """Return a training at its first step.

    Args:
        loaded: The recipe.
        parts: What :func:`build_parts` made of it.
        targets: Each teacher's answers to each set.
        scorecard: Measured skill, if the weights read it.
        directory: Of the run.
    """
    given, train = loaded.recipe, loaded.recipe.train
    parts.student.module.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def lesson(name: str) -> Lesson:
        corpus = parts.corpora[name]
        known = Knowledge() if scorecard is None else Knowledge.of(scorecard, corpus)
        return Lesson(parts.student, parts.operator, corpus, targets[name], given.distill, known, train.bf16)

    sampler = _sampler(given, parts.corpora[TRAIN])
    job = Job(
        lesson=lesson(TRAIN),
        evaluations={name: lesson(name) for name in parts.corpora if name != TRAIN},
        sampler=sampler,
        train=train,
        max_steps=train.max_steps or train.num_train_epochs * sampler.steps_per_epoch,
        directory=directory,
        ledger=parts.ledger,
    )
    return Training(
        job,
        reporter=lambda optimiser: open_reporter(
            given.report_to,
            train=train,
            max_steps=job.max_steps,
            directory=directory,
            student=parts.student,
            optimiser=optimiser,
        ),
    )


def _sampler(given: recipe.Recipe, corpus: Corpus) -> Sampler:
    train = given.train
    mix = mix_probabilities(
        {
            "task": (corpus.task, corpus.tasks, given.sampling.task),
            "context": (corpus.context, corpus.contexts, given.sampling.context),
        }
    )
    return Sampler(len(corpus), train.per_device_train_batch_size * train.gradient_accumulation_steps, train.seed, mix)
