"""Whether a store still says what its teacher says: some rows are asked about again."""

import math
from pathlib import Path

from mashbill.errors import CorruptionError, MashbillError
from mashbill.teachers.endpoint.telling import SAME
from mashbill.teachers.store.stored import StoredTeacher
from mashbill.train import recipe
from mashbill.train.assemble import TRAIN
from mashbill.train.build import build_teacher
from mashbill.train.capture import folder_of
from mashbill.train.classes import declared_classes
from mashbill.train.corpus import Corpus, build_corpus
from mashbill.train.data import read_rows
from mashbill.train.loading import Loaded
from mashbill.train.protocol import Student
from mashbill.train.rescoring import LEAST_AGREEMENT, MOST_LOST, Difference, rescore, sample_of
from mashbill.train.stores import require_same_teacher
from mashbill.train.students import build_student

NOISE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 2.5e-1}
"""Nats by which a model's log-probabilities may differ when other rows share its products."""


def rescore_store(loaded: Loaded, place: Path, *, n_rows: int) -> tuple[Difference, CorruptionError | None]:
    """Ask the recipe's teacher about some rows of a store again.

    Args:
        loaded: The recipe, with that store and with the teacher itself.
        place: The store of one set of rows.
        n_rows: How many rows.

    Returns:
        How far the answers are from those of today, and what is wrong if that is more than the store may be off.

    Raises:
        MashbillError: The recipe has no teacher with that store, or its teacher cannot be asked or is another one.
    """
    number, spec, name = _whose(loaded, place)
    student = build_student(loaded.recipe.student, loaded.path.parent, loaded.recipe.train.seed)
    asked = spec.model_copy(update={"store": None, "top_k": None})
    classes = declared_classes(loaded, student)
    live = build_teacher(number, asked, student, loaded.path.parent, data=loaded.recipe.data, classes=classes)
    stored = StoredTeacher(spec.id, place, student.vocabulary, classes=classes)
    require_same_teacher(stored, live.identity())
    corpus = _corpus(loaded, student, name)
    found = rescore(live, stored, corpus, sample_of(corpus, n_rows))
    if found.apart > SAME:
        return found, _other(place, found)
    if spec.endpoint is not None:  # Nobody knows the precision behind it: lists are compared as in its self-test.
        return found, None
    bound = stored.plans[place].layout.error_bound + NOISE[spec.dtype]
    if dict(stored.identity()).get("kind") == "distillkit":
        off = found.typical if found.agreement >= LEAST_AGREEMENT else math.inf  # as when it was imported
        return found, _off(place, found, off, MOST_LOST)
    return found, _off(place, found, found.largest, bound)


def _off(place: Path, found: Difference, off: float, bound: float) -> CorruptionError | None:
    if off <= bound:
        return None
    return CorruptionError(
        f"the store is off by {off:.1e} nats from its teacher, and {bound:.1e} are allowed: {found.where}",
        where=str(place),
        why=f"{found.n_positions:,} positions of {found.n_rows} rows were asked about again",
        help="capture it again: the teacher, its libraries or the rows are not those of the capture",
    )


def _other(place: Path, found: Difference) -> CorruptionError:
    return CorruptionError(
        f"lists of the store are {found.apart:.2f} apart from those of its teacher today, and {SAME:g} is allowed: "
        f"{found.where_apart}",
        where=str(place),
        why=f"{found.n_positions:,} positions of {found.n_rows} rows were asked about again",
        help="ask who serves the teacher whether it is another model now; if so, capture it again",
    )


def _whose(loaded: Loaded, place: Path) -> tuple[int, recipe.Teacher, str]:
    data = loaded.recipe.data
    sets = [TRAIN, *data.eval, *(["scorecard rows"] if data.scorecard is not None else [])]
    for number, spec in enumerate(loaded.recipe.teachers):
        for name in sets if spec.store is not None else ():
            assert spec.store is not None, "only then is it looked at"
            if folder_of(loaded.resolve(spec.store), name).resolve() == place.resolve():
                if spec.can_be_asked:
                    return number, spec, name
                raise MashbillError(
                    f"teacher `{spec.id}` cannot be asked again: the recipe names its store alone",
                    where=loaded.where(f"teachers[{number}]"),
                    help="name its `model` beside the store",
                )
    raise MashbillError(
        f"the recipe has no teacher with the store `{place}`",
        where=str(loaded.path),
        help="give the recipe that it was captured with",
    )


def _corpus(loaded: Loaded, student: Student, name: str) -> Corpus:
    data = loaded.recipe.data
    path = data.train if name == TRAIN else data.scorecard if name == "scorecard rows" else data.eval[name]
    assert path is not None, "the set is one of the recipe's"
    critical = loaded.recipe.critical.labels if loaded.recipe.critical else ()
    rows = read_rows(loaded.resolve(path), data, critical_labels=critical)
    ids = [teacher.id for teacher in loaded.recipe.teachers]
    return build_corpus(student, rows, max_length=data.max_length, teachers=ids)
