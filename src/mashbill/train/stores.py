"""Stores in a run: only those of the recipe's own teachers, and what becomes of rows that a teacher refused."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from mashbill.errors import MashbillError
from mashbill.shapes import Int, Tensor
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.protocol import Teacher
from mashbill.teachers.store.stored import StoredTeacher
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train import recipe
from mashbill.train.corpus import Corpus

_ELSEWHERE = {"top_k", "device"}
# What is kept stands in the plan; where a model runs changes answers by their last bits.
_COMPARED = "compared with "


def open_store(
    spec: recipe.Teacher,
    folder: Path,
    vocabulary: Vocabulary,
    live: Callable[[], Teacher] | None,
    *,
    classes: EntryClasses = NO_CLASSES,
) -> StoredTeacher:
    """Open the store of a teacher.

    Args:
        spec: What the recipe says of the teacher.
        folder: Of the store.
        vocabulary: The student's.
        live: Opens the teacher that the recipe names beside the store; None if it names none.
        classes: Whose mass is wanted.

    Raises:
        MashbillError: There is no whole store, or it is another teacher's.
    """
    stored = StoredTeacher(spec.id, folder, vocabulary, classes=classes)
    if live is not None:
        require_same_teacher(stored, live().identity())
    return stored


def require_same_teacher(stored: StoredTeacher, wanted: Mapping[str, str]) -> None:
    """Refuse the store of another teacher than the one that the recipe names.

    Raises:
        MashbillError: It is another one's, or nobody can tell whose.
    """
    found = dict(stored.identity())
    if found.get("kind") == "distillkit":
        found = {name.removeprefix(_COMPARED): found[name] for name in found if name.startswith(_COMPARED)}
        if not found:
            raise MashbillError(
                f"nothing says that the store of teacher `{stored.id}` is that of its model",
                where=str(stored.folder),
                why="it was imported without the model, and such a capture does not name its teacher",
                help="import it again with the model in the recipe, which compares them; or leave the model out",
            )
    differing = [name for name in _pins(wanted) if found.get(name) != wanted[name]]
    if differing:
        raise MashbillError(
            f"the store of teacher `{stored.id}` is that of another teacher: {_named(differing, found, wanted)}",
            where=str(stored.folder),
            why="its answers are not those that the recipe's teacher gives",
            help="capture again into another `store`; or leave the teacher's origin out to read the store as it is",
        )


def imported_identity(capture: Mapping[str, str], live: Teacher | None) -> Mapping[str, str]:
    """Return the identity of an imported store: the capture's, and whom it was compared with."""
    compared = {} if live is None else live.identity()
    return {**capture, **{f"{_COMPARED}{name}": compared[name] for name in _pins(compared)}}


def without_refused(
    specs: Sequence[recipe.Teacher], teachers: Sequence[Teacher], corpora: Mapping[str, Corpus]
) -> tuple[dict[str, Corpus], dict[str, dict[str, int]]]:
    """Return the rows that every stored teacher has answered, and how many each one refused in each set.

    Raises:
        MashbillError: A teacher refused rows, and the recipe does not say to drop them.
    """
    counts: dict[str, dict[str, int]] = {}
    kept = {}
    for name, corpus in corpora.items():
        left = torch.ones(len(corpus), dtype=torch.bool)
        for spec, teacher in zip(specs, teachers, strict=True):
            found = refused_rows(teacher, corpus)
            if not len(found):
                continue
            if spec.refused == "error":
                raise _refuses(teacher, corpus, found, name)
            left[found] = False
            counts.setdefault(teacher.id, {})[name] = len(found)
        if not bool(left.any()):
            raise MashbillError(f"no row of {name} is left: teachers refused all of them", where="teachers")
        kept[name] = corpus if bool(left.all()) else corpus.rows_at(left.nonzero().squeeze(1))
    return kept, counts


def refused_rows(teacher: Teacher, corpus: Corpus) -> Int[Tensor, " N"]:
    """Return the rows of a corpus that a stored teacher refused; any other teacher is asked first."""
    if not isinstance(teacher, StoredTeacher) or not teacher.refused:
        return torch.zeros(0, dtype=torch.long)
    named = [number for number, row in enumerate(corpus.rows) if row.id in teacher.refused]
    return torch.tensor([n for n in named if teacher.reason(corpus.inputs(torch.tensor([n])), 0)], dtype=torch.long)


def _refuses(teacher: Teacher, corpus: Corpus, found: Int[Tensor, " N"], name: str) -> MashbillError:
    first = corpus.inputs(found[:1])
    assert isinstance(teacher, StoredTeacher), "no other has refused yet"
    return MashbillError(
        f"teacher `{teacher.id}` refused {len(found):,} of {len(corpus):,} {name}, the first is `{first.row_ids[0]}`",
        where=str(teacher.folder),
        why=teacher.reason(first, 0),
        help=f"take them out, or leave them out here: `refused: drop` for teacher `{teacher.id}`",
    )


def _pins(identity: Mapping[str, str]) -> list[str]:
    # A folder may have another name elsewhere; the weights are the same.
    skipped = _ELSEWHERE | ({"source"} if "sha256" in identity else set())
    return sorted(name for name in identity if name not in skipped)


def _named(differing: Sequence[str], found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    first = differing[0]
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"{first} was {_short(found.get(first))} and is {_short(wanted[first])}{more}"


def _short(value: str | None) -> str:
    return "not told" if value is None else f"`{value[:24]}`"
