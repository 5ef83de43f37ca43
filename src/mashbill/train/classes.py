"""The classes of tokens or labels that a recipe declares, and the entries that they are; without torch.

An entry is named by its text or its id. A token's text is what it adds to a row, its space included; tokens that are a
part of a character have none. Where a tokenizer's tokens have no certain text, it is their name in the vocabulary.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from mashbill.errors import Problem, RecipeError, VocabularyError, did_you_mean
from mashbill.teachers.token_bytes import TokenBytes

if TYPE_CHECKING:
    from mashbill.teachers.entry_classes import EntryClasses
    from mashbill.train.loading import Loaded
    from mashbill.train.protocol import Student

OTHER = "other"
"""What weight rules call the entries of no class."""


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


def _no_other(value: str) -> str:
    if value == OTHER:
        raise ValueError(f"`{OTHER}` is the name of all entries of no class")
    return value


ClassName = Annotated[str, Field(min_length=1, pattern=r"^[\w.\-]+$"), AfterValidator(_no_other)]
Entry = Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=0)]
Entries = Annotated[list[Entry], Field(min_length=1)] | Annotated[str, Field(min_length=1), AfterValidator(_pattern)]
"""Texts and ids, or a regular expression that the whole text of an entry matches."""


def check_classes(loaded: "Loaded", labels: Sequence[str] | None) -> Iterator[Problem]:
    """Find what is wrong with ``classes`` as far as it shows without a tokenizer: of labels, everything."""
    given = loaded.recipe.classes
    if labels is not None:
        yield from _found(loaded, dict(enumerate(labels)))[1]
        return
    owners: dict[str | int, str] = {}
    for name, entries in given.items():
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            if owners.setdefault(entry, name) != name:
                yield _in_two(loaded, f"classes.{name}[{number}]", repr(entry), owners[entry])


def declared_classes(loaded: "Loaded", student: "Student") -> "EntryClasses":
    """Return the recipe's classes as entries of the student.

    Raises:
        RecipeError: An entry does not exist or is in two classes, or a class has none.
    """
    from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses  # imports torch

    if not loaded.recipe.classes:
        return NO_CLASSES
    members, problems = _found(loaded, _texts(student))
    if problems:
        raise RecipeError(problems)
    return EntryClasses(members, student.n_entries)


def _found(loaded: "Loaded", texts: Mapping[int, str | None]) -> tuple[dict[str, tuple[int, ...]], list[Problem]]:
    """Return the entries of each class, and what is wrong with them; ``texts`` are of all entries."""
    ids_of: dict[str, list[int]] = {}
    for id, text in texts.items():
        if text is not None:
            ids_of.setdefault(text, []).append(id)
    members, problems, owners = {}, [], dict[int, str]()
    for name, entries in loaded.recipe.classes.items():
        found = list(_named(loaded, f"classes.{name}", entries, texts, ids_of))
        problems += [one for one in found if isinstance(one, Problem)]
        named = [one for one in found if not isinstance(one, Problem)]
        for key, id in named:
            if owners.setdefault(id, name) != name:
                problems.append(_in_two(loaded, key, repr(texts[id] or id), owners[id]))
        members[name] = tuple(sorted({id for _, id in named}))
    return members, problems


def _named(
    loaded: "Loaded",
    key: str,
    entries: list[str | int] | str,
    texts: Mapping[int, str | None],
    ids_of: Mapping[str, Sequence[int]],
) -> Iterator[tuple[str, int] | Problem]:
    """Yield the key and the id of each entry of a class, or what is wrong there."""
    if isinstance(entries, str):
        found = [id for text, ids in ids_of.items() if re.fullmatch(entries, text) for id in ids]
        if not found:
            help = "the whole text of an entry must match; a token's own space is part of it: ` ?[0-9]+`"
            yield loaded.problem(key, f"no text of an entry matches `{entries}`", help)
        yield from ((key, id) for id in found)
        return
    for number, entry in enumerate(entries):
        place = f"{key}[{number}]"
        if isinstance(entry, int) and entry in texts:
            yield place, entry
        elif isinstance(entry, str) and entry in ids_of:
            yield from ((place, id) for id in ids_of[entry])
        else:
            yield loaded.problem(place, f"{entry!r} is no entry of the student{_guess(entry, ids_of)}", _HELP)


_HELP = "a token is named with its space, as in ` yes`, or by its id; what is several tokens is several entries"


def _guess(entry: str | int, known: Mapping[str, Any]) -> str:
    if isinstance(entry, int):
        return ""
    near = [text for text in (f" {entry}", entry.strip(), entry.lower()) if text in known]
    return did_you_mean(entry, near or (known if len(known) < 1000 else ()))  # a whole vocabulary takes seconds


def _in_two(loaded: "Loaded", key: str, shown: str, owner: str) -> Problem:
    return loaded.problem(key, f"{shown} is in the class `{owner}` too", "an entry is in one class at most")


def _texts(student: "Student") -> Mapping[int, str | None]:
    tokenizer, names = getattr(student, "tokenizer", None), student.vocabulary.tokens
    if student.kind == "classifier" or tokenizer is None:
        return dict(names)
    try:
        tokens = TokenBytes.of(tokenizer, owner="the student")
    except VocabularyError:
        return dict(names)
    return {id: tokens.special[id] if id in tokens.special else _decoded(tokens.pieces[id]) for id in names}


def _decoded(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None
