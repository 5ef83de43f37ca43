"""Ask a recipe's teachers about its rows once, into stores, and read them from there ever after."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.errors import MashbillError
from mashbill.progress import Progress, Silent
from mashbill.teachers.protocol import Scored, Teacher
from mashbill.teachers.store.capturing import Work, begin, capture, expected_bytes
from mashbill.teachers.store.columns import Answered, joined
from mashbill.teachers.store.content import content_of
from mashbill.teachers.store.files import read_note
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, Shard, cut
from mashbill.train import recipe
from mashbill.train.assemble import TRAIN
from mashbill.train.build import build_teacher
from mashbill.train.corpus import Corpus, encode_sets
from mashbill.train.data import read_rows
from mashbill.train.loading import Loaded
from mashbill.train.protocol import Student
from mashbill.train.students import build_student
from mashbill.train.targets import require_answers


@dataclass(frozen=True)
class Captured:
    """One store, and what is in it.

    Attributes:
        teacher: Its id.
        rows: Name of the set of rows.
        folder: Where the store lies.
        plan: What it holds.
        n_bytes: Its shards' size.
        kept_mass: Mean mass of the entries that are kept.
        lost: Mean KL divergence in nats from the teacher to what is kept, its tail spread evenly; None if unknown.
        bytes_per_entry: Of ids and log-probabilities before compression.
        is_complete: Whether every row is there.
    """

    teacher: str
    rows: str
    folder: Path
    plan: Plan
    n_bytes: int
    kept_mass: float
    lost: float | None
    bytes_per_entry: float
    is_complete: bool


@dataclass(frozen=True)
class _Task:
    """One teacher and one set of rows."""

    spec: recipe.Teacher
    teacher: Teacher
    rows: str
    corpus: Corpus
    folder: Path
    plan: Plan
    batch_size: int


def folder_of(store: Path, rows: str) -> Path:
    """Return where in a teacher's store the answers to a set of rows lie."""
    return store / ("train" if rows == TRAIN else f"eval-{rows}")


def capture_recipe(
    loaded: Loaded, *, work: Work | None = None, workers: int = 1, progress: Progress | None = None
) -> list[Captured]:
    """Ask every teacher that has a store about all rows of the recipe, and return what is there.

    Args:
        loaded: The recipe.
        work: Which shards are this machine's.
        workers: Processes on this machine; each opens the teachers for itself.
        progress: Shown the pace of the work.

    Raises:
        MashbillError: No teacher has a store and can be asked; a store holds something else; the disk is full.
    """
    torch.set_num_threads(loaded.recipe.capture.threads)
    student, corpora = _corpora(loaded)
    tasks = list(_tasks(loaded, student, corpora))
    if not tasks:
        raise MashbillError(
            "no teacher has a `store` to capture into",
            where=loaded.where("teachers"),
            help="give a teacher with a `model` or a `plugin` a `store`, a folder for its answers",
        )
    if all(read_note(task.folder, shard) is None for task in tasks for shard in task.plan.shards):
        for task in tasks:
            require_answers([task.teacher], task.corpus)
    for task in tasks:
        begin(task.folder, task.plan)
    helpers = [
        get_context("spawn").Process(target=_helper, args=(loaded, work), daemon=True) for _ in range(workers - 1)
    ]
    for one in helpers:
        one.start()
    try:
        _fill(tasks, work, progress or Silent())
    finally:
        for one in helpers:
            one.join()
    return [_summary(task) for task in tasks]


def _helper(loaded: Loaded, work: Work | None) -> None:
    torch.set_num_threads(loaded.recipe.capture.threads)
    student, corpora = _corpora(loaded)
    _fill(list(_tasks(loaded, student, corpora)), work, Silent())


def _fill(tasks: Sequence[_Task], work: Work | None, progress: Progress) -> None:
    for task in tasks:
        capture(task.folder, task.plan, lambda shard, task=task: _ask(task, shard), work=work, progress=progress)
        getattr(task.teacher, "release", lambda: None)()  # one local model in memory at a time


def _corpora(loaded: Loaded) -> tuple[Student, Mapping[str, Corpus]]:
    given = loaded.recipe
    student = build_student(given.student, loaded.path.parent, given.train.seed)
    critical = given.critical.labels if given.critical else ()
    paths = {TRAIN: given.data.train, **given.data.eval}
    if given.data.scorecard is not None:
        paths["scorecard rows"] = given.data.scorecard
    sets = {name: read_rows(loaded.resolve(path), given.data, critical_labels=critical) for name, path in paths.items()}
    ids = [teacher.id for teacher in given.teachers]
    return student, encode_sets(student, sets, max_length=given.data.max_length, teachers=ids)


def _tasks(loaded: Loaded, student: Student, corpora: Mapping[str, Corpus]) -> Iterator[_Task]:
    options = loaded.recipe.capture
    layout = Layout(student.n_entries, k=options.k, mass=options.mass, unit=options.unit)
    for number, spec in enumerate(loaded.recipe.teachers):
        if spec.store is None or (spec.model is None and spec.plugin is None):
            continue
        wide = spec.model_copy(update={"top_k": options.k, "store": None})
        teacher = build_teacher(number, wide, student, loaded.path.parent)
        identity = {**teacher.identity(), "batch_size": str(spec.batch_size), "threads": str(options.threads)}
        for rows, corpus in corpora.items():
            shards = cut(corpus.n_counted.tolist(), contents(corpus), at_most=options.shard_positions)
            plan = Plan(identity, student.vocabulary.digest, layout, shards)
            yield _Task(spec, teacher, rows, corpus, folder_of(loaded.resolve(spec.store), rows), plan, spec.batch_size)


def contents(corpus: Corpus) -> list[bytes]:
    """Return the hash of what teachers are asked about each row."""
    found: list[bytes] = []
    for index in torch.arange(len(corpus)).split(256):
        inputs = corpus.inputs(index)
        found += [content_of(inputs, row) for row in range(len(index))]
    return found


def _ask(task: _Task, shard: Shard) -> Answered:
    """Ask about the rows of a shard, those of like length together, and return the answers in the rows' order."""
    index = torch.arange(shard.first, shard.first + shard.n_rows)
    order = index[task.corpus.lengths[index].argsort(stable=True)]
    each: dict[int, Answered] = {}
    for some in order.split(task.batch_size):
        inputs = task.corpus.inputs(some)
        scored = _listed(task.teacher.score(inputs), task.plan.layout.k) if bool(inputs.mask.any()) else None
        for row, place in enumerate(some.tolist()):
            where = inputs.mask[row].nonzero().squeeze(1)
            end = int(where[-1]) + 1 if len(where) else 0
            tokens = np.zeros(0, np.int32) if inputs.input_ids is None else inputs.input_ids[row, :end].numpy()
            each[place] = Answered(
                (inputs.row_ids[row],),
                (content_of(inputs, row),),
                (tokens,),
                np.array([0, len(where)]),
                where.numpy(),
                _nothing(task.plan.layout) if scored is None else _at(scored, row, where),
                (scored.refused.get(row, "") if scored is not None else "",),
            )
    return joined([each[place] for place in index.tolist()])


def _listed(scored: Scored, k: int) -> Scored:
    if isinstance(scored.distribution, TopK):
        return scored
    return Scored(TopK.from_logprobs(scored.distribution.logprobs, k=k), scored.statistics, scored.refused)


def _at(scored: Scored, row: int, where: torch.Tensor) -> Scored:
    topk, statistics = scored.distribution, scored.statistics
    assert isinstance(topk, TopK), "made one before"
    here = TopK(topk.ids[row][where], topk.logprobs[row][where], topk.log_tail[row][where], topk.n_entries)
    return Scored(here, Statistics(**{f.name: getattr(statistics, f.name)[row][where] for f in fields(Statistics)}))


def _nothing(layout: Layout) -> Scored:
    none = torch.zeros(0)
    topk = TopK(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1), none, layout.n_entries)
    numbers = {f.name: none for f in fields(Statistics) if f.name != "class_mass"}
    return Scored(topk, Statistics(**numbers, class_mass=torch.zeros(0, len(layout.classes))))


def _summary(task: _Task) -> Captured:
    notes = [note for shard in task.plan.shards if (note := read_note(task.folder, shard)) is not None]
    positions, kept = sum(one.n_positions for one in notes), sum(one.n_kept for one in notes)
    lost = [one.lost for one in notes]
    return Captured(
        task.spec.id,
        "train" if task.rows == TRAIN else task.rows,
        task.folder,
        task.plan,
        sum(one.n_bytes for one in notes),
        sum(one.kept_mass for one in notes) / max(1, positions),
        None
        if None in lost
        else sum(one for one in lost if one is not None) / max(1, sum(one.n_measured for one in notes)),
        sum(one.encoded_bytes for one in notes) / max(1, kept),
        len(notes) == len(task.plan.shards),
    )


def estimate(tasks: Sequence[_Task]) -> int:
    """Return about how many bytes the stores will take."""
    return sum(expected_bytes(task.plan, task.plan.n_positions) for task in tasks)


def usual_workers() -> int:
    """Return how many cores there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
