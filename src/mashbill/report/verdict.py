"""Who is ahead: three-way comparisons that claim no more than the intervals carry.

Two results on the same set are told apart only if their intervals do not overlap. For equal half-widths ``h`` that
needs a gap of ``2 h``, where a test of the difference needs ``1.41 h`` on independent rows and less on paired ones: a
verdict "within" can hide a real difference, the other two are on the safe side.
"""

from typing import Literal, NamedTuple

from mashbill.report.schema import Entry, Interval, Result
from mashbill.report.text import is_number

Verdict = Literal["above", "within", "below", "undecided"]

LOWER_IS_BETTER = frozenset({"perplexity", "loss", "calibration_error"})


class Duel(NamedTuple):
    """The student against its best single teacher on one set, in one measure."""

    set: str
    measure: str
    student: Entry
    teacher: Entry
    verdict: Verdict


def interval_of(entry: Entry, measure: str) -> Interval | None:
    """Return the entry's interval of ``accuracy``, ``perplexity``, ``loss`` or ``safety``."""
    return {"accuracy": entry.accuracy, "perplexity": entry.perplexity, "loss": entry.loss, "safety": entry.safety}[
        measure
    ]


def compare(first: Interval, second: Interval, *, measure: str) -> Verdict:
    """Return where ``first`` stands to ``second``: above means better, whichever way the measure runs."""
    ends = (first.low, first.high, second.low, second.high)
    if not all(is_number(end) for end in ends):
        return "undecided"
    first_low, first_high, second_low, second_high = (float(end) for end in ends if end is not None)
    if measure in LOWER_IS_BETTER:
        first_low, first_high, second_low, second_high = -first_high, -first_low, -second_high, -second_low
    if first_low > second_high:
        return "above"
    return "below" if first_high < second_low else "within"


def sets_of(result: Result) -> list[str]:
    """Return the names of the evaluation sets, in the order of the file."""
    return list(dict.fromkeys(entry.set for entry in result.entries))


def overall(result: Result, name: str) -> dict[str, Entry]:
    """Return who -> entry over all rows of one set."""
    return {entry.who: entry for entry in result.entries if entry.set == name and entry.by == "all"}


def best_teacher(entries: dict[str, Entry], measure: str) -> Entry | None:
    """Return the teacher's entry with the best point estimate; on a tie the first."""
    sign = 1 if measure in LOWER_IS_BETTER else -1
    scored = [
        (sign * found.value, position, entry)
        for position, entry in enumerate(entries.values())
        if entry.who.startswith("teacher:") and (found := interval_of(entry, measure)) and is_number(found.value)
    ]
    return min(scored)[2] if scored else None


def duel(result: Result, name: str, measure: str) -> Duel | None:
    """Return the student against its best single teacher, chosen on the same rows, or None without either."""
    entries = overall(result, name)
    teacher, student = best_teacher(entries, measure), entries.get("student")
    if teacher is None or student is None:
        return None
    ours, theirs = interval_of(student, measure), interval_of(teacher, measure)
    if ours is None or theirs is None:
        return None
    return Duel(name, measure, student, teacher, compare(ours, theirs, measure=measure))
