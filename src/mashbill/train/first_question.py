"""What is found out before anything is captured: how much there is to ask, and whether teachers answer."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from mashbill.distributions.topk import TopK
from mashbill.errors import MashbillError, NumericError, TeacherError
from mashbill.teachers.endpoint.telling import SAME, distance
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.store.asking import Asked, answer
from mashbill.teachers.store.capturing import Work
from mashbill.teachers.store.columns import Answered, decode, encode
from mashbill.teachers.store.known import Known, keys_of
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import FILE
from mashbill.teachers.store.renewing import stores_for
from mashbill.train.filling import Task
from mashbill.train.questions import Questions


def n_new(task: Task, questions: Questions, work: Work) -> int:
    """Return how many positions of this machine's shards a teacher is to be asked about."""
    left = task.left(work)
    known = task.known()
    if not len(known.keys):
        return sum(shard.n_positions for shard in left)
    n, wanted = 0, set(left)
    for shard, asked in questions.of(task.plan.shards):
        if shard in wanted:
            is_known = known.has(keys_of(asked.contents()))
            n += sum(len(places) for places, known_ in zip(asked.places, is_known, strict=True) if not known_)
    return n


def require_answers(tasks: Sequence[Task], teachers: Mapping[int, Teacher], sets: Mapping[str, Questions]) -> None:
    """Ask every teacher about a row, before anything is written: one that fails here is bad input.

    An endpoint is asked about a row that it has answered before, if there is one: another model behind the same name
    would answer otherwise.

    Raises:
        MashbillError: A teacher cannot be opened, fails, gives no distribution, refuses the row, or cannot read every
            row; or an endpoint answers otherwise than before.
    """
    some, layout = {task.rows: sets[task.rows].samples() for task in tasks}, tasks[0].plan.layout
    for number in sorted({task.number for task in tasks}):
        teacher, mine = teachers[number], [task for task in tasks if task.number == number]
        try:
            for _, longest in some.values():
                getattr(teacher, "require_fit", lambda _: None)(longest.inputs([0]))
            before = _before(mine, sets) if teacher.identity().get("kind") == "endpoint" else None
            row = next(iter(some.values()))[0] if before is None else before[0]
            answered = answer(teacher, row, layout, batch_size=1)
        except (TeacherError, NumericError) as error:
            raise MashbillError(error.what, where=error.where, why=error.why, help=error.help) from error
        if answered.refused[0]:
            raise MashbillError(
                f"teacher `{teacher.id}` refuses row `{row.row_ids[0]}`",
                where=f"teachers.{teacher.id}",
                why=answered.refused[0],
                help="it is asked before the others, and has to be answered: look at the teacher, or take the row out",
            )
        if before is not None:
            _require_same(teacher, answered, before[1], layout)


def _before(tasks: Sequence[Task], sets: Mapping[str, Questions]) -> tuple[Asked, Answered] | None:
    """Return a row with an answer that lies in a store already."""
    for task in tasks:
        stores = dict(stores_for(task.place, task.folder, task.plan))
        if (task.folder / FILE).exists():
            stores[task.folder] = task.plan
        known = Known(stores)
        for piece in sets[task.rows].pieces() if len(known.keys) else ():
            for row in known.has(keys_of(piece.contents())).nonzero()[0].tolist():
                if len(piece.places[row]):
                    return piece.rows(row, row + 1), known.answer(piece.contents()[row])
    return None


def _require_same(teacher: Teacher, now: Answered, before: Answered, layout: Layout) -> None:
    kept = decode(encode(now, layout, {}), layout, where="an answer")
    apart = fmean(distance(one, other) for one, other in zip(_lists(kept), _lists(before), strict=True))
    if apart > SAME:
        raise MashbillError(
            f"teacher `{teacher.id}` answers row `{now.row_ids[0]}` otherwise than when its store was begun",
            where=f"teachers.{teacher.id}.endpoint",
            why=f"the lists are {apart:.2f} apart, and {SAME} is what the same model may be off",
            help="serve the model of the store, or choose another `store` for this one",
        )


def _lists(answered: Answered) -> list[dict[int, float]]:
    topk = answered.scored.distribution
    assert isinstance(topk, TopK), "a store keeps nothing else"
    each = zip(topk.ids.tolist(), topk.logprobs.tolist(), strict=True)
    return [{id: value for id, value in zip(ids, values, strict=True) if id >= 0} for ids, values in each]
