"""The stores of one teacher about several sets of rows, and the list of them, so that a set that is lost is missed."""

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from mashbill.durable import json_text, make_folder, sweep
from mashbill.errors import CorruptionError
from mashbill.teachers.store.claims import Claims
from mashbill.teachers.store.finishing import MANIFEST, write_if_new
from mashbill.teachers.store.plan import FILE, SHARDS

LIST = "sets.json"
_AGAIN = f"delete {LIST}, and `mashbill capture` writes it again"


def list_sets(top: Path, names: Iterable[str]) -> None:
    """Add sets whose stores were begun to the list of those in a folder; others that lie there are listed too.

    Raises:
        CorruptionError: There is a list that is not what was written.
    """
    make_folder(top)
    with closing(Claims(top)) as claims, claims.alone():
        sweep(top, LIST)
        inside = {one.parent.name for one in top.glob(f"*/{FILE}")}
        write_if_new(top / LIST, json_text({"sets": sorted({*names, *inside, *(_listed(top) or ())})}))


def sets_in(top: Path) -> tuple[Sequence[Path], Sequence[CorruptionError]]:
    """Return the stores in a folder, whole or not, and what is wrong with the folder itself."""
    inside = [one for one in sorted(top.glob("*")) if is_store(one)]
    try:
        listed = _listed(top)
    except CorruptionError as problem:
        return inside, [problem]
    lost = [
        CorruptionError(
            f"the set `{name}` is missing: all of its rows are",
            where=str(top / name),
            why=f"{LIST} names it",
            help=f"restore the folder or capture it again; to do without it, {_AGAIN}",
        )
        for name in sorted({*(listed or ())} - {one.name for one in inside})
    ]
    # Sets are listed before anything is asked, but after they were begun: one that is whole was listed.
    unlisted = [one.name for one in inside if one.name not in (listed or ()) and (one / MANIFEST).exists()]
    if unlisted:
        what = f"{LIST} is missing" if listed is None else f"{LIST} does not name {', '.join(unlisted)}"
        why = "a set that is lost would not be missed"
        lost.append(CorruptionError(what, where=str(top / LIST), why=why, help=_AGAIN))
    return inside, lost


def is_store(folder: Path) -> bool:
    """Say whether a folder is a store, or what is left of one."""
    return any((folder / name).exists() for name in (FILE, SHARDS, MANIFEST))


def _listed(top: Path) -> Sequence[str] | None:
    file = top / LIST
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text)
        is_right = json_text(values) == text and isinstance(values["sets"], list) and len(values) == 1
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptionError(f"cannot read {LIST}: {error}", where=str(file), help=_AGAIN) from error
    if not is_right:
        raise CorruptionError(f"{LIST} is not what was written", where=str(file), help=_AGAIN)
    return [str(name) for name in values["sets"]]
