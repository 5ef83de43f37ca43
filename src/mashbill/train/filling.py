"""What one process does to fill stores: teachers are opened, and asked about the shards that nobody else is at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mashbill.errors import MashbillError
from mashbill.progress import Progress
from mashbill.teachers.bases import Bases
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.store.asking import answer, read_asked
from mashbill.teachers.store.capturing import Work, capture
from mashbill.teachers.store.columns import Answered, Mixed
from mashbill.teachers.store.files import read_note
from mashbill.teachers.store.known import Known
from mashbill.teachers.store.plan import Plan, Shard
from mashbill.teachers.store.renewing import is_answered, stores_for
from mashbill.train.build import build_teacher
from mashbill.train.classes import declared_classes
from mashbill.train.loading import Loaded
from mashbill.train.protocol import Student


@dataclass(frozen=True)
class Task:
    """One store to fill: what one teacher says of one set of rows. A process can send it to another.

    Attributes:
        number: The teacher's place in the recipe.
        teacher: Its id.
        rows: Name of the set.
        folder: Where the store is filled.
        plan: What it is to hold.
        batch_size: Rows asked about together.
        asked_bytes: About what the questions take while the store is filled.
        place: Where it is to lie; another than ``folder`` if a store lies there whose answers it takes over.
        again: Whether rows that got no answer are asked about again.
    """

    number: int
    teacher: str
    rows: str
    folder: Path
    plan: Plan
    batch_size: int
    asked_bytes: int
    place: Path
    again: bool = False

    def left(self, work: Work) -> tuple[Shard, ...]:
        """Return this machine's shards that are not there yet."""
        there = self.place if self.again and self.folder != self.place else None  # those are brought over as they are
        return tuple(
            one
            for one in work.of(self.plan)
            if read_note(self.folder, self.plan, one) is None
            and not (there is not None and is_answered(there, self.plan, one))
        )

    def known(self) -> Known:
        """Return the answers that are taken over."""
        return Known(stores_for(self.place, self.folder, self.plan))


def askable_teachers(loaded: Loaded, student: Student) -> dict[int, Teacher]:
    """Return the teachers that have a store and can be asked, by their place in the recipe.

    Raises:
        MashbillError: There is none, or one cannot be built.
    """
    options = loaded.recipe.capture
    shared = {"bases": Bases(), "classes": declared_classes(loaded, student)}
    found = {}
    for number, spec in enumerate(loaded.recipe.teachers):
        if spec.store is not None and spec.can_be_asked:
            asked = spec.model_copy(update={"top_k": options.k, "store": None})
            found[number] = build_teacher(number, asked, student, loaded.path.parent, **shared)
    if not found:
        raise MashbillError(
            "no teacher has a `store` to capture into",
            where=loaded.where("teachers"),
            help="give a teacher that can be asked, as one with a `model`, a `store`: a folder for its answers",
        )
    _require_own_stores(loaded, found)
    return found


def fill(
    tasks: Sequence[Task],
    teachers: Mapping[int, Teacher],
    work: Work,
    *,
    progress: Progress | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Do what nobody else does of some tasks, one after the other.

    Raises:
        MashbillError: As :func:`mashbill.teachers.store.capturing.capture`.
    """
    for place, task in enumerate(tasks):
        teacher = teachers[task.number]
        capture(task.folder, task.plan, ask_of(task, teacher), work=work, progress=progress, go_on=go_on)
        if all(other.number != task.number for other in tasks[place + 1 :]):
            getattr(teacher, "release", lambda: None)()  # no more than one local model in memory at a time


def ask_of(task: Task, teacher: Teacher) -> Callable[[Shard], Answered | Mixed]:
    """Return what asks a teacher about a shard, whose questions are laid down; what is known is not asked again."""
    known = cache(task.known)  # read when the first shard is wanted

    def ask(shard: Shard) -> Answered | Mixed:
        asked = read_asked(task.folder, shard)

        def some(rows: Sequence[int]) -> Answered:
            return answer(teacher, asked.at(rows), task.plan.layout, batch_size=task.batch_size)

        if not len(known().keys):
            return some(range(len(asked)))
        return known().answers(asked.row_ids, asked.contents(), some)

    return ask


def _require_own_stores(loaded: Loaded, teachers: Mapping[int, Teacher]) -> None:
    owners: dict[Path, int] = {}
    for number in teachers:
        store = loaded.recipe.teachers[number].store
        assert store is not None, "only those with a store are here"
        first = owners.setdefault(loaded.resolve(store).resolve(), number)
        if first != number:
            raise MashbillError(
                f"the store `{store}` is that of teachers[{first}] already",
                where=loaded.where(f"teachers[{number}].store"),
                help="give each teacher a folder of its own",
            )
