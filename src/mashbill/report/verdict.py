"""Who is ahead: three-way comparisons that claim no more than the intervals carry.

With a paired difference on the same rows, "above" and "below" mean that its interval leaves out zero. Without one
they mean that two separate intervals do not overlap: for equal half-widths ``h`` that needs a gap of ``2 h``, where a
test of the difference needs ``1.41 h`` on independent rows and less on paired ones, so that a verdict "within" can hide
a real difference while the other two are on the safe side.

Not covered: correction for choosing the best of several teachers on the rows that it is judged on.
"""

from typing import Literal, NamedTuple

from mashbill.report.schema import Entry, Interval, Result
from mashbill.report.text import is_number

Verdict = Literal["above", "within", "below", "undecided"]

LOWER_IS_BETTER = frozenset({"perplexity", "loss", "calibration_error"})


class Duel(NamedTuple):
    """The student against its best single teacher on one set, in one measure.

    Attributes:
        set: Evaluation set.
        measure: ``accuracy``, ``perplexity`` or ``safety``.
        student: The student's entry.
        teacher: The best single teacher's entry.
        gain: Paired difference, positive where the student is better: accuracy, or nats of loss for perplexity.
        verdict: Where the student stands.
    """

    set: str
    measure: str
    student: Entry
    teacher: Entry
    gain: Interval | None
    verdict: Verdict


def interval_of(entry: Entry, measure: str) -> Interval | None:
    """Return the entry's interval of ``accuracy``, ``perplexity``, ``loss`` or ``safety``."""
    return {"accuracy": entry.accuracy, "perplexity": entry.perplexity, "loss": entry.loss, "safety": entry.safety}[
        measure
    ]


def ends_of(interval: Interval) -> tuple[float, float] | None:
    """Return both ends, or None if one is missing."""
    if interval.low is None or interval.high is None or not (is_number(interval.low) and is_number(interval.high)):
        return None
    return interval.low, interval.high


def negated(interval: Interval) -> Interval:
    """Return the interval of ``-x``."""
    ends = ends_of(interval)
    return Interval(value=-interval.value, low=-ends[1] if ends else None, high=-ends[0] if ends else None)


def sign(difference: Interval) -> Verdict:
    """Return what a difference says, where positive is better."""
    ends = ends_of(difference)
    if ends is None:
        return "undecided"
    return "above" if ends[0] > 0 else "below" if ends[1] < 0 else "within"


def compare(first: Interval, second: Interval, *, measure: str) -> Verdict:
    """Return where ``first`` stands to ``second``: above means better, whichever way the measure runs."""
    if measure in LOWER_IS_BETTER:
        first, second = negated(first), negated(second)
    ours, theirs = ends_of(first), ends_of(second)
    if ours is None or theirs is None:
        return "undecided"
    return "above" if ours[0] > theirs[1] else "below" if ours[1] < theirs[0] else "within"


def sets_of(result: Result) -> list[str]:
    """Return the names of the evaluation sets, in the order of the file."""
    return list(dict.fromkeys(entry.set for entry in result.entries))


def overall(result: Result, name: str) -> dict[str, Entry]:
    """Return who -> entry over all rows of one set."""
    return {entry.who: entry for entry in result.entries if entry.set == name and entry.by == "all"}


def best_teacher(entries: dict[str, Entry], measure: str) -> Entry | None:
    """Return the teacher's entry with the best point estimate; on a tie the first."""
    direction = 1 if measure in LOWER_IS_BETTER else -1
    scored = [
        (direction * found.value, position, entry)
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
    gain = _gain(result, name, measure, teacher.who)
    standing = sign(gain) if gain else compare(ours, theirs, measure=measure)
    return Duel(name, measure, student, teacher, gain, standing)


def _gain(result: Result, name: str, measure: str, who: str) -> Interval | None:
    for line in result.paired:
        if (line.set, line.first, line.second) == (name, "student", who):
            return {"accuracy": line.accuracy, "perplexity": negated(line.loss)}.get(measure)
    return None
