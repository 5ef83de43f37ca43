"""Ask a recipe's teachers about its rows once, into stores, and read them from there ever after."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mashbill.errors import MashbillError, NumericError, TeacherError
from mashbill.progress import Progress, Silent
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.store.asking import answer, forget_asked, has_asked, write_asked
from mashbill.teachers.store.capturing import (
    RESERVE,
    Work,
    begin,
    capture,
    expected_bytes,
    require_room,
    require_startable,
)
from mashbill.teachers.store.files import read_note
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan
from mashbill.teachers.store.sets import list_sets
from mashbill.train.assemble import TRAIN
from mashbill.train.classes import declared_classes
from mashbill.train.crew import fill_together, require_one_who_asks, usual_workers
from mashbill.train.filling import Task, ask_of, askable_teachers
from mashbill.train.loading import Loaded
from mashbill.train.protocol import Student
from mashbill.train.questions import Questions, question_sets
from mashbill.train.students import build_student


@dataclass(frozen=True)
class Captured:
    """One store, and what is in it.

    Attributes:
        teacher: Its id.
        rows: Name of the set of rows.
        folder: Where the store lies.
        plan: What it holds.
        n_bytes: Its shards' size.
        n_refused: Rows that the teacher cannot answer.
        kept_mass: Mean mass of the entries that are kept.
        lost: Mean KL divergence in nats from the teacher's full distribution to what is kept, its tail spread evenly,
            on a sample of positions; None if the full distribution is not known.
        n_measured: Positions in that sample.
        bytes_per_entry: Of ids and log-probabilities before compression.
        is_complete: Whether every row is there.
    """

    teacher: str
    rows: str
    folder: Path
    plan: Plan
    n_bytes: int
    n_refused: int
    kept_mass: float
    lost: float | None
    n_measured: int
    bytes_per_entry: float
    is_complete: bool


Fill = Callable[[Loaded, Sequence[Task], Work, Progress], None]
"""Does this machine's shards of some stores that were begun and whose questions are laid down."""


def folder_of(store: Path, rows: str) -> Path:
    """Return where in a teacher's store the answers to a set of rows lie."""
    return store / ("train" if rows == TRAIN else f"eval-{rows}")


def capture_recipe(
    loaded: Loaded,
    *,
    work: Work | None = None,
    workers: int | None = None,
    fill_with: Fill | None = None,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> list[Captured]:
    """Ask every teacher that has a store about all rows of the recipe, and return what is there.

    Args:
        loaded: The recipe.
        work: Which shards are this machine's.
        workers: Processes on this machine, each with teachers of its own; None for as many as fit.
        fill_with: Fills the stores instead of such processes, as :mod:`mashbill.train.on_ray` does.
        progress: Shown the pace of the work.
        say: Told, before the work starts, how much there is and what it will take.

    Raises:
        MashbillError: No teacher has a store and can be asked; a store holds something else; the disk is too small.
    """
    require_one_who_asks(loaded, workers)
    torch.set_num_threads(loaded.recipe.capture.threads)
    share, shown = work or Work(), progress or Silent()
    student = build_student(loaded.recipe.student, loaded.path.parent, loaded.recipe.train.seed)
    sets, teachers = question_sets(loaded, student), askable_teachers(loaded, student)
    tasks = list(_tasks(loaded, student, teachers, sets))
    for task in tasks:
        require_startable(task.folder, task.plan)
    left = [task for task in tasks if task.left(share)]
    say(_announce(left, share))
    if left:
        _require_answers(left, teachers, sets)
        for task in tasks:
            begin(task.folder, task.plan)
    for top in dict.fromkeys(task.folder.parent for task in tasks):
        list_sets(top, (task.folder.name for task in tasks if task.folder.parent == top))
    if left:
        _lay_down_questions(left, sets, share)
        if fill_with is not None:
            fill_with(loaded, left, share, shown)
        else:
            n_workers = usual_workers(loaded, left, share) if workers is None else workers
            fill_together(loaded, left, teachers, share, n_workers=n_workers, progress=shown, say=say)
    for task in tasks:  # writes manifests that a killed run did not come to
        capture(task.folder, task.plan, ask_of(task, teachers[task.number]), work=share)
        forget_asked(task.folder, share.of(task.plan))
    return [_summary(task) for task in tasks]


def _tasks(
    loaded: Loaded, student: Student, teachers: Mapping[int, Teacher], sets: Mapping[str, Questions]
) -> Iterator[Task]:
    options = loaded.recipe.capture
    classes = declared_classes(loaded, student).names
    layout = Layout(student.n_entries, k=options.k, mass=options.mass, unit=options.unit, classes=classes)
    shards = {name: each.shards(at_most=options.shard_positions) for name, each in sets.items()}
    for number, teacher in teachers.items():
        spec = loaded.recipe.teachers[number]
        assert spec.store is not None, "only those with a store are here"
        # What the last bits of an answer depend on, beside the teacher: what shares a product, and how it is cut up.
        asked = {"temperature": "1", "batch_size": str(spec.batch_size), "threads": str(options.threads)}
        identity = {**asked, **teacher.identity()}
        for rows, (cut, n_bytes) in shards.items():
            plan = Plan(identity, student.vocabulary.digest, layout, cut)
            folder = folder_of(loaded.resolve(spec.store), rows)
            yield Task(number, spec.id, rows, folder, plan, spec.batch_size, n_bytes)


def _announce(tasks: Sequence[Task], work: Work) -> str:
    """Say how much there is to do, and refuse to begin what does not fit on the disk.

    Raises:
        MashbillError: It does not.
    """
    if not tasks:
        return "nothing to capture: every shard is there"
    n_positions, by_disk = 0, dict[int, tuple[Path, int]]()
    for task in tasks:
        place = next(folder for folder in (task.folder, *task.folder.absolute().parents) if folder.exists())
        mine = sum(shard.n_positions for shard in task.left(work))
        n_positions += mine
        _, before = by_disk.get(place.stat().st_dev, (place, 0))
        needed = expected_bytes(task.plan, mine) + task.asked_bytes
        by_disk[place.stat().st_dev] = (place, before + needed)
    said = []
    for place, needed in by_disk.values():
        free = shutil.disk_usage(place).free
        require_room(place, free=free, needed=needed, reserve=RESERVE)
        said.append(f"at most about {_size(needed)} of the {_size(free)} that are free at {place}")
    return f"{n_positions:,} positions to capture in {len(tasks)} store(s): {', '.join(said)}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.1f} MiB"


def _require_answers(tasks: Sequence[Task], teachers: Mapping[int, Teacher], sets: Mapping[str, Questions]) -> None:
    """Ask every teacher about a row, before anything is written: one that fails here is bad input.

    Raises:
        MashbillError: A teacher cannot be opened, fails, gives no distribution, or cannot read every row.
    """
    some, layout = {task.rows: sets[task.rows].samples() for task in tasks}, tasks[0].plan.layout
    for number in sorted({task.number for task in tasks}):
        teacher = teachers[number]
        try:
            for _, longest in some.values():
                getattr(teacher, "require_fit", lambda _: None)(longest.inputs([0]))
            first, _ = next(iter(some.values()))
            answer(teacher, first, layout, batch_size=1)
        except (TeacherError, NumericError) as error:
            raise MashbillError(error.what, where=error.where, why=error.why, help=error.help) from error


def _lay_down_questions(tasks: Sequence[Task], sets: Mapping[str, Questions], work: Work) -> None:
    for rows in dict.fromkeys(task.rows for task in tasks):
        here = [(task, set(task.left(work))) for task in tasks if task.rows == rows]
        for shard, asked in sets[rows].of(here[0][0].plan.shards):
            for task, left in here:
                if shard in left and not has_asked(task.folder, shard):
                    write_asked(task.folder, shard, asked)


def _summary(task: Task) -> Captured:
    notes = [note for shard in task.plan.shards if (note := read_note(task.folder, task.plan, shard)) is not None]
    positions, kept = sum(one.n_positions for one in notes), sum(one.n_kept for one in notes)
    n_measured, lost = sum(one.n_measured for one in notes), [one.lost for one in notes]
    return Captured(
        task.teacher,
        "train" if task.rows == TRAIN else task.rows,
        task.folder,
        task.plan,
        sum(one.n_bytes for one in notes),
        sum(one.n_refused for one in notes),
        sum(one.kept_mass for one in notes) / max(1, positions),
        None if None in lost else sum(one for one in lost if one is not None) / max(1, n_measured),
        n_measured,
        sum(one.encoded_bytes for one in notes) / max(1, kept),
        len(notes) == len(task.plan.shards),
    )
