"""What a run was made of, key by key, so that a resume with something changed is noticed and named.

Files count by their contents, not by their names: moving data or a model changes nothing. The keys in :data:`FREE` do
not change what is learnt and may differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mashbill.errors import MashbillError
from mashbill.train.recipe import Recipe

FREE = (
    "output",
    "report_to",
    "compare",
    "version",
    "train.save_steps",
    "train.save_total_limit",
    "train.logging_steps",
)
"""Keys that may change between a checkpoint and its resume, with everything below them."""

Ledger = dict[str, Any]


def ledger_of(
    recipe: Recipe,
    *,
    data: Mapping[str, str],
    teachers: Mapping[str, Mapping[str, str]],
    student: Mapping[str, str],
) -> Ledger:
    """Return a value for each key of the recipe that matters.

    Args:
        recipe: The run's recipe.
        data: The sha256 of each data file, by key: ``data.train``, ``data.eval.django``.
        teachers: Identity of each teacher.
        student: Origin of the student's first parameters.
    """
    values = dict(_flat(recipe.model_dump(mode="json"), ""))
    by_content = ("data.train", "data.eval", "data.scorecard", "student.model", "student.tokenizer")
    kept = {key: value for key, value in values.items() if not _is_under(key, by_content) and not _is_under(key, FREE)}
    for number, spec in enumerate(recipe.teachers):
        kept.pop(f"teachers[{number}].model", None)
        kept[f"teachers[{number}].identity"] = dict(teachers[spec.id])
    return {**kept, **data, "student.origin": {key: student[key] for key in sorted(student) if key != "source"}}


def require_same(before: Ledger, now: Ledger, *, accepted: Sequence[str], where: str = "") -> list[str]:
    """Return the accepted changes, each as ``key: old -> new``.

    Args:
        before: The checkpoint's ledger.
        now: The ledger of the run that wants to go on.
        accepted: Keys, or beginnings of keys, that may have changed. An arm of a comparison may lack some of them.
        where: The run's directory, for the message.

    Raises:
        MashbillError: Another key has changed.
    """
    changed = {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }
    refused = {key: pair for key, pair in changed.items() if not _is_under(key, accepted)}
    if refused:
        flags = " ".join(f"--accept-change {key}" for key in refused)
        keys = before.keys() | now.keys()
        unknown = [key for key in accepted if not any(_is_under(each, (key,)) for each in keys)]
        said = f"there is no such key: {', '.join(unknown)}; " if unknown else ""
        raise MashbillError(
            f"the run has begun with another recipe: {'; '.join(_said(key, *pair) for key, pair in refused.items())}",
            where=where,
            why="going on would mix two experiments in one result",
            help=f"{said}undo the change, choose another `output`, or add: {flags}",
        )
    return [_said(key, *pair) for key, pair in changed.items()]


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{key}[{number}]")
    else:
        yield key, value


def _is_under(key: str, roots: Sequence[str]) -> bool:
    return any(key == root or key.startswith((f"{root}.", f"{root}[")) for root in roots)


def _said(key: str, old: Any, new: Any) -> str:
    return f"{key} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
