"""A capture of somebody else's as the stores of a recipe's teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mashbill.errors import MashbillError
from mashbill.progress import Progress
from mashbill.teachers.entry_classes import EntryClasses
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.store.distillkit_files import Capture
from mashbill.teachers.store.plan import Plan
from mashbill.teachers.store.sets import list_sets
from mashbill.train import recipe
from mashbill.train.assemble import TRAIN
from mashbill.train.build import build_teacher
from mashbill.train.capture import folder_of
from mashbill.train.captured_rows import Written, write_rows
from mashbill.train.causal import CausalStudent
from mashbill.train.classes import declared_classes
from mashbill.train.corpus import Corpus, encode_sets
from mashbill.train.data import read_rows
from mashbill.train.importing import Index, Source, import_set, plan_of, require_room_for
from mashbill.train.loading import Loaded
from mashbill.train.reconstruction import Reconstruction
from mashbill.train.rescoring import Difference
from mashbill.train.stores import imported_identity
from mashbill.train.students import build_student


@dataclass(frozen=True)
class Imported:
    """One set of rows that came over.

    Attributes:
        teacher: Its id.
        rows: Name of the set.
        folder: Where its store lies.
        plan: What it holds.
        form: What reading the form makes of its numbers.
        against: The same against the teacher itself, if it was at hand.
    """

    teacher: str
    rows: str
    folder: Path
    plan: Plan
    form: Reconstruction
    against: Difference | None


def import_recipe(
    loaded: Loaded,
    folder: Path,
    *,
    teacher: str | None = None,
    config: Path | None = None,
    progress: Progress | None = None,
) -> list[Imported]:
    """Make a capture the stores of a teacher: for each set of the recipe's rows one.

    Nothing is written before every row of every set is found in the capture, and some of each were looked at.

    Args:
        loaded: The recipe.
        folder: Of the capture.
        teacher: Whose it is; None for the only one with a ``store``.
        config: Says how the capture was written; None for the file beside it.
        progress: Shown the pace of the work.

    Raises:
        MashbillError: The recipe or the capture does not fit.
    """
    number, spec, store = teacher_of(loaded, teacher)
    source = Capture.open(folder, config)
    student = _student(loaded)
    classes = declared_classes(loaded, student)
    live = _live(loaded, number, spec, student, classes)
    index = Index(source)
    sets = {
        name: Source(source, index.places(corpus, where=_where(loaded, name)), corpus, student.n_entries, classes)
        for name, corpus in _corpora(loaded, student).items()
    }
    looked = {name: (one.form(), None if live is None else one.against(live)) for name, one in sets.items()}
    identity = imported_identity({**source.identity(), **classes.pins}, live)
    pins = {"teacher": identity, "vocabulary": student.vocabulary.digest}
    plans = {name: plan_of(one, **pins, at_most=loaded.recipe.capture.shard_positions) for name, one in sets.items()}
    require_room_for(list(plans.values()), store)
    done = []
    for name, one in sets.items():
        place = folder_of(store, name)
        import_set(one, place, plans[name], progress=progress)
        list_sets(store, [place.name])
        done.append(Imported(spec.id, "train" if name == TRAIN else name, place, plans[name], *looked[name]))
    return done


def write_captured_rows(loaded: Loaded, folder: Path, *, config: Path | None = None) -> Written:
    """Make the recipe's training rows from the tokens of a capture.

    Raises:
        MashbillError: There are training rows, or the capture does not fit the student's tokenizer.
    """
    data = loaded.recipe.data
    if data.format != "text":
        raise MashbillError(
            f"rows of a capture are plain text, and data.format is `{data.format}`",
            where=loaded.where("data.format"),
            help="set it to `text`",
        )
    source = Capture.open(folder, config)
    return write_rows(
        source, _student(loaded), loaded.resolve(data.train), text_column=data.text_column, max_length=data.max_length
    )


def teacher_of(loaded: Loaded, wanted: str | None) -> tuple[int, recipe.Teacher, Path]:
    """Return the number of a teacher that has a store, what the recipe says of it, and where the store lies.

    Raises:
        MashbillError: There is none, or it is not clear which.
    """
    known = {one.id: number for number, one in enumerate(loaded.recipe.teachers) if one.store is not None}
    if wanted is None and len(known) == 1:
        wanted = next(iter(known))
    if wanted not in known:
        what = "say which teacher it is" if wanted is None else f"no teacher `{wanted}` with a `store`"
        raise MashbillError(
            what,
            where=loaded.where("teachers"),
            why=f"teachers with a store: {', '.join(known) or 'none'}",
            help="--teacher ID, of one that has a `store`",
        )
    spec = loaded.recipe.teachers[known[wanted]]
    assert spec.store is not None, "it is among those that have one"
    return known[wanted], spec, loaded.resolve(spec.store)


def _student(loaded: Loaded) -> CausalStudent:
    student = build_student(loaded.recipe.student, loaded.path.parent, loaded.recipe.train.seed)
    if not isinstance(student, CausalStudent):
        raise MashbillError(
            "a capture holds distributions over tokens, and the student is a classifier",
            where=loaded.where("student.kind"),
            help="import it for a student of the kind causal_lm",
        )
    return student


def _live(
    loaded: Loaded, number: int, spec: recipe.Teacher, student: CausalStudent, classes: EntryClasses
) -> Teacher | None:
    if not spec.can_be_asked:
        return None
    asked = spec.model_copy(update={"store": None, "top_k": None})
    return build_teacher(number, asked, student, loaded.path.parent, data=loaded.recipe.data, classes=classes)


def _corpora(loaded: Loaded, student: CausalStudent) -> Mapping[str, Corpus]:
    data = loaded.recipe.data
    paths = {TRAIN: data.train, **data.eval}
    if data.scorecard is not None:
        paths["scorecard rows"] = data.scorecard
    sets = {name: read_rows(loaded.resolve(path), data) for name, path in paths.items()}
    ids = [one.id for one in loaded.recipe.teachers]
    return encode_sets(student, sets, max_length=data.max_length, teachers=ids)


def _where(loaded: Loaded, name: str) -> str:
    keys = {TRAIN: "data.train", "scorecard rows": "data.scorecard"}
    return loaded.where(keys.get(name, f"data.eval.{name}"))
