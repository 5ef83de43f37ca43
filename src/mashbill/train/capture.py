"""Ask a recipe's teachers about its rows once, into stores, and read them from there ever after."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mashbill.errors import MashbillError
from mashbill.progress import Progress, Silent
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.store.asking import forget_asked, has_asked, write_asked
from mashbill.teachers.store.capturing import (
    RESERVE,
    Work,
    begin,
    capture,
    expected_bytes,
    require_room,
    require_startable,
)
from mashbill.teachers.store.files import Note, read_note
from mashbill.teachers.store.finishing import MANIFEST
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan
from mashbill.teachers.store.renewing import carry, folder_for, settle, tidy
from mashbill.teachers.store.sets import list_sets
from mashbill.train.assemble import TRAIN
from mashbill.train.classes import declared_classes
from mashbill.train.crew import fill_together, require_one_who_asks, usual_workers
from mashbill.train.filling import Task, ask_of, askable_teachers
from mashbill.train.first_question import n_new, require_answers
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
        n_rows: Rows that are there.
        n_bytes: Its shards' size.
        n_positions: Positions in them.
        n_refused: Rows that the teacher cannot answer.
        n_answered: Positions that it answered; all figures below are of those alone.
        kept_mass: Mean mass of the entries that are kept; None where nothing was answered.
        n_short: At how many of them the entries kept hold less than the recipe's ``capture.mass``.
        lost: Mean KL divergence in nats from the teacher's full distribution to what is kept, its tail spread evenly,
            on a sample of positions; None if nothing was answered, or the full distribution is not known.
        n_measured: Positions in that sample.
        bytes_per_entry: Of ids and log-probabilities before compression; None where no entry is kept.
        is_complete: Whether every row is there.
        others: Stores beside it with answers to rows that are asked about no more, and how many.
    """

    teacher: str
    rows: str
    folder: Path
    plan: Plan
    n_rows: int
    n_bytes: int
    n_positions: int
    n_refused: int
    n_answered: int
    kept_mass: float | None
    n_short: int
    lost: float | None
    n_measured: int
    bytes_per_entry: float | None
    is_complete: bool
    others: Mapping[Path, int]


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
    again: bool = False,
    fill_with: Fill | None = None,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> list[Captured]:
    """Ask every teacher that has a store about all rows of the recipe, and return what is there.

    Args:
        loaded: The recipe.
        work: Which shards are this machine's.
        workers: Processes on this machine, each with teachers of its own; None for as many as fit.
        again: Ask about rows again that got no answer.
        fill_with: Fills the stores instead of such processes, as :mod:`mashbill.train.on_ray` does.
        progress: Shown the pace of the work.
        say: Told, before the work starts, how much there is and what it will take.

    Raises:
        MashbillError: No teacher has a store and can be asked; a store holds something else; the disk is too small.
    """
    require_one_who_asks(loaded, workers)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(loaded.recipe.capture.threads)
    try:
        share, shown = work or Work(), progress or Silent()
        return _capture(loaded, share, workers=workers, again=again, fill_with=fill_with, shown=shown, say=say)
    finally:
        torch.set_num_threads(n_threads)


def _capture(
    loaded: Loaded,
    share: Work,
    *,
    workers: int | None,
    again: bool,
    fill_with: Fill | None,
    shown: Progress,
    say: Callable[[str], object],
) -> list[Captured]:
    student = build_student(loaded.recipe.student, loaded.path.parent, loaded.recipe.train.seed)
    sets, teachers = question_sets(loaded, student), askable_teachers(loaded, student)
    tasks = list(_tasks(loaded, student, teachers, sets, again=again))
    for task in tasks:
        require_startable(task.folder, task.plan)
    left = [task for task in tasks if task.left(share)]
    new = [n_new(task, sets[task.rows], share) for task in left]
    say(_announce(tasks, left, new, share))
    if left:
        if asked := [task for task, n in zip(left, new, strict=True) if n]:
            require_answers(asked, teachers, sets)
        for task in tasks:
            begin(task.folder, task.plan)
            if again and task.folder != task.place:
                carry(task.place, task.folder, task.plan)
    for top in dict.fromkeys(task.place.parent for task in tasks):
        list_sets(top, (task.place.name for task in tasks if task.place.parent == top))
    if left:
        _lay_down_questions(left, sets, share)
        try:
            if fill_with is not None:
                fill_with(loaded, left, share, shown)
            else:
                n_workers = usual_workers(loaded, left, share) if workers is None else workers
                fill_together(loaded, left, teachers, share, n_workers=n_workers, progress=shown, say=say)
        except (MashbillError, OSError):
            if all(task.folder.exists() for task in left):
                raise  # else another command has done it, and put it in its place
    return [_summary(*_finished(task, teachers[task.number], share)) for task in tasks]


def _finished(task: Task, teacher: Teacher, work: Work) -> tuple[Task, Mapping[Path, int]]:
    """Write the manifest, if a killed run has not come to it, and put a store that is complete in its place."""
    if not task.folder.exists():
        task = replace(task, folder=task.place)
    capture(task.folder, task.plan, ask_of(task, teacher), work=work)
    forget_asked(task.folder, work.of(task.plan))
    if not (task.folder / MANIFEST).exists():
        return task, {}
    if task.folder != task.place:
        settle(task.place, task.folder)
    return replace(task, folder=task.place), tidy(task.place)


def _tasks(
    loaded: Loaded, student: Student, teachers: Mapping[int, Teacher], sets: Mapping[str, Questions], *, again: bool
) -> Iterator[Task]:
    options = loaded.recipe.capture
    classes = declared_classes(loaded, student).names
    layout = Layout(student.n_entries, k=options.k, mass=options.mass, unit=options.unit, classes=classes)
    shards = {name: each.shards(at_most=options.shard_positions) for name, each in sets.items()}
    for number, teacher in teachers.items():
        spec = loaded.recipe.teachers[number]
        assert spec.store is not None, "only those with a store are here"
        # What the last bits of an answer depend on, beside the teacher: what shares a product, and how it is cut up.
        # An endpoint computes elsewhere, and what shares a product there nobody knows.
        shared = {"batch_size": str(spec.batch_size), "threads": str(options.threads)}
        identity = {"temperature": "1", **(shared if spec.endpoint is None else {}), **teacher.identity()}
        for rows, (cut, n_bytes) in shards.items():
            plan = Plan(identity, student.vocabulary.digest, layout, cut)
            place = folder_of(loaded.resolve(spec.store), rows)
            folder = folder_for(place, plan, again=again)
            yield Task(number, spec.id, rows, folder, plan, spec.batch_size, n_bytes, place, again)


def _announce(all_tasks: Sequence[Task], tasks: Sequence[Task], new: Sequence[int], work: Work) -> str:
    """Say how much there is to do, and refuse to begin what does not fit on the disk.

    Raises:
        MashbillError: It does not.
    """
    if not tasks:
        is_whole = not any(task.left(Work()) for task in all_tasks)
        return "nothing to capture: every shard is there" if is_whole else "nothing to capture here: others do the rest"
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
    known = n_positions - sum(new)
    taken = f"; {known:,} of them are answered already, and taken over" if known else ""
    return f"{n_positions:,} positions to capture in {len(tasks)} store(s): {', '.join(said)}{taken}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.1f} MiB"


def _lay_down_questions(tasks: Sequence[Task], sets: Mapping[str, Questions], work: Work) -> None:
    for rows in dict.fromkeys(task.rows for task in tasks):
        here = [(task, set(task.left(work))) for task in tasks if task.rows == rows]
        for shard, asked in sets[rows].of(here[0][0].plan.shards):
            for task, left in here:
                if shard in left and not has_asked(task.folder, shard):
                    write_asked(task.folder, shard, asked)


def _summary(task: Task, others: Mapping[Path, int]) -> Captured:
    notes = [note for shard in task.plan.shards if (note := read_note(task.folder, task.plan, shard)) is not None]
    n_kept, n_answered = sum(one.n_kept for one in notes), sum(one.n_answered for one in notes)
    return Captured(
        teacher=task.teacher,
        rows="train" if task.rows == TRAIN else task.rows,
        folder=task.folder,
        plan=task.plan,
        n_rows=sum(one.n_rows for one in notes),
        n_bytes=sum(one.n_bytes for one in notes),
        n_positions=sum(one.n_positions for one in notes),
        n_refused=sum(one.n_refused for one in notes),
        n_answered=n_answered,
        kept_mass=sum(one.kept_mass for one in notes) / n_answered if n_answered else None,
        n_short=sum(one.n_short for one in notes),
        lost=mean_lost(notes),
        n_measured=sum(one.n_measured for one in notes),
        bytes_per_entry=sum(one.encoded_bytes for one in notes) / n_kept if n_kept else None,
        is_complete=len(notes) == len(task.plan.shards),
        others=others,
    )


def mean_lost(notes: Sequence[Note]) -> float | None:
    """Return the mean KL lost a position: each shard's own mean, as often as it has positions that were answered.

    None where nothing was answered, or the full distribution of some shard is not known.
    """
    answered = [one for one in notes if one.n_answered]
    each = [one.lost * one.n_answered / one.n_measured for one in answered if one.lost is not None]
    if not answered or len(each) < len(answered):
        return None
    return sum(each) / sum(one.n_answered for one in answered)
