"""What can go wrong, said once: what, where, why, and what to do.

Every error that a user can cause is a :class:`MashbillError`; the command prints it and exits with its
``exit_code``. A bad argument to a library function stays a plain ``ValueError`` or ``TypeError``.

Exit codes: 2 user error, 3 teacher or transport, 4 data corruption, 5 numeric stop, 6 constraint not met,
130 interrupted.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Any

MAX_SHOWN = 20
"""Problems printed of one file; the rest are counted."""


class MashbillError(Exception):
    """An error for the user: one clear text and an exit code.

    Args:
        what: What is wrong, with the offending value; one sentence without a full stop.
        where: File, line and key, or the thing concerned, e.g. ``recipe.yaml:5  teachers[1].model``.
        why: Why this cannot be accepted.
        help: What to do.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", help: str = "") -> None:
        self.what, self.where, self.why, self.help = what, where, why, help
        super().__init__(self.render())

    def render(self) -> str:
        """Return the message as printed, one fact a line."""
        lines = [f"error: {self.what}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.why:
            lines.append(f"   = {self.why}")
        if self.help:
            lines.append(f"   = help: {self.help}")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """Return the error as plain values, for programs that read the command's ``--json`` output."""
        return {"what": self.what, "where": self.where, "why": self.why, "help": self.help}


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe or a data file: where it stands, what it is, what to do."""

    where: str
    what: str
    help: str = ""

    def render(self) -> str:
        """Return ``error: where: what``, with the help on a line of its own."""
        return f"error: {self.where}: {self.what}" + (f"\n   = help: {self.help}" if self.help else "")


class RecipeError(MashbillError):
    """A recipe that cannot be run; lists every problem found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{len(self.problems)} problem(s) in the recipe")

    def render(self) -> str:
        """Return one ``where: what`` line for each problem, with its help below."""
        return _rendered(self.problems)

    def facts(self) -> dict[str, Any]:
        """Return every problem as plain values."""
        return {"problems": [asdict(problem) for problem in self.problems]}


class DataError(MashbillError):
    """Rows that cannot be read or do not fit the recipe.

    Args:
        what: As for every error; left out where ``problems`` say it.
        where: As for every error.
        why: As for every error.
        help: As for every error.
        problems: Everything wrong in one file, if there may be more than one thing.
    """

    def __init__(
        self, what: str = "", *, where: str = "", why: str = "", help: str = "", problems: Iterable[Problem] = ()
    ) -> None:
        self.problems = tuple(problems)
        super().__init__(what or f"{len(self.problems)} problem(s) in the data", where=where, why=why, help=help)

    def render(self) -> str:
        """Return the message, or one ``where: what`` line for each problem."""
        return _rendered(self.problems) if self.problems else super().render()

    def facts(self) -> dict[str, Any]:
        """Return the message, or every problem, as plain values."""
        return {"problems": [asdict(problem) for problem in self.problems]} if self.problems else super().facts()


class VocabularyError(MashbillError):
    """A teacher whose ids or labels do not mean what the student's mean."""


class TeacherError(MashbillError):
    """A teacher that failed, or whose answer is no distribution.

    In a run's first question it becomes a plain user error: nothing has been written yet.
    """

    exit_code = 3


class CorruptionError(MashbillError):
    """A file whose bytes are not those that were written."""

    exit_code = 4


class NumericError(MashbillError):
    """A value that is not finite; raised before the optimiser moves."""

    exit_code = 5


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` — did you mean `x`?`` for the closest known name, or an empty text.

    >>> did_you_mean("learning_rat", ["learning_rate", "seed"])
    ' — did you mean `learning_rate`?'
    """
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" — did you mean `{close[0]}`?" if close else ""


def _rendered(problems: tuple[Problem, ...]) -> str:
    # Neighbours that need the same help get it once, below the last of them.
    after = [problem.help for problem in problems[1:MAX_SHOWN]] + [""]
    lines = [
        replace(problem, help="" if problem.help == next_help else problem.help).render()
        for problem, next_help in zip(problems[:MAX_SHOWN], after, strict=True)
    ]
    if len(problems) > MAX_SHOWN:
        lines.append(f"... and {len(problems) - MAX_SHOWN} more")
    return "\n".join(lines)
