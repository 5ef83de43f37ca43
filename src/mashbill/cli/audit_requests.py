"""What is asked of an audit on the command line, read and refused before anything is audited."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mashbill.audit.axioms import require_axiom
from mashbill.cli.audit_targets import Opened
from mashbill.errors import MashbillError

if TYPE_CHECKING:
    from mashbill.audit.moods import Stage

MOST_TEACHERS = 256
"""More than this many are not asked for by number."""
_OF_WEIGHTS = ("weights", "sequence")


def chosen_axioms(axioms: str | None) -> list[str] | None:
    """Return the ids of ``--axioms``, or None if all are asked."""
    if axioms is None:
        return None
    names = [name.strip() for name in axioms.split(",") if name.strip()]
    if not names:
        raise MashbillError("--axioms names none", help="`mashbill audit --list` lists all")
    for name in names:
        _require_axiom(name, "--axioms")
    return names


def expected_failures(known: Sequence[str]) -> dict[str, str]:
    """Return the reason of each failure that is expected."""
    expected = {}
    for each in known:
        name, _, reason = (part.strip() for part in each.partition("="))
        _require_axiom(name, "--known")
        if not reason:
            what = f"why `{name}` is expected to fail is not said"
            raise MashbillError(what, where="--known", help=f'--known "{name}=because ..."')
        expected[name] = reason
    return expected


def _require_axiom(name: str, option: str) -> None:
    try:
        require_axiom(name)
    except ValueError as error:
        raise MashbillError(str(error), where=option) from error


def stage_of(teachers: str | None, tasks: str | None, contexts: str | None) -> "Stage | None":
    """Return the names that weight rules were made for, or None if none are given."""
    if teachers is None and tasks is None and contexts is None:
        return None
    from mashbill.audit.moods import Stage

    plain = Stage()
    return Stage(
        teachers=None if teachers is None else _teachers(teachers),
        tasks=plain.tasks if tasks is None else _names(tasks, "--tasks"),
        contexts=plain.contexts if contexts is None else _names(contexts, "--contexts"),
    )


def _teachers(given: str) -> tuple[str, ...]:
    if not given.strip().lstrip("-").isdecimal():
        return _names(given, "--teachers")
    if not 1 <= int(given) <= MOST_TEACHERS:
        raise MashbillError(f"`{given}` must be from 1 to {MOST_TEACHERS} teachers, or their names", where="--teachers")
    return tuple(f"t{k}" for k in range(int(given)))


def _names(given: str, option: str) -> tuple[str, ...]:
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise MashbillError(f"`{given}` has a name that is empty", where=option, help=f"{option} a,b,c")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise MashbillError(f"`{twice}` stands there twice", where=option)
    return tuple(names)


def require_page(html: Path | None) -> None:
    """Refuse a place where no page can be written, before any work is done; nothing is made yet.

    Folders on the way are made with the page, but none beside the folders of the system.
    """
    if html is None:
        return
    if html.is_dir():
        raise MashbillError(f"`{html}` is a folder", where="--html", help="name the file to write")
    there = next(folder for folder in html.absolute().parents if folder.exists())
    if not there.is_dir():
        raise MashbillError(f"`{there}` is a file, not a folder", where="--html", help="name another place")
    if there == Path(there.anchor) and html.absolute().parent != there:
        raise MashbillError(
            f"there is no folder `{html.parent}`", where="--html", help="make it first, or name another place"
        )


def require_askable(
    opened: Sequence[Opened], *, kind: str | None, axioms: Sequence[str] | None, known: Sequence[str]
) -> None:
    """Refuse operators whose kind is open, which need more than they get, or of which nothing is asked.

    Raises:
        MashbillError: Names the operator and the way out.
    """
    from mashbill.audit.asked import require_asked
    from mashbill.audit.calling import kind_of
    from mashbill.audit.loading import require_options

    asked: set[str] = set()
    for one in opened:
        target = one.target
        try:
            found = kind or kind_of(target.operator)
            require_options(target, found)
            asked |= set(require_asked(found, axioms))
        except ValueError as error:
            raise MashbillError(str(error).replace("give kind=", "give --kind"), where=target.name) from error
        if target.stage is not None and one.kind == "operator" and found not in _OF_WEIGHTS:
            what = f"a {found} knows no teachers, tasks or contexts by name"
            raise MashbillError(what, where=target.name, help="leave --teachers, --tasks and --contexts away")
    for axiom in known:
        if axiom not in asked:
            what = f"`{axiom}` is expected to fail, and is not asked of these operators"
            raise MashbillError(what, where="--known", help="take it away, or add it to --axioms")
