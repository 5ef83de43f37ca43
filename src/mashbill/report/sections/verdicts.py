"""The title: what the student came to, as tiles that say no more than was measured."""

from collections import Counter
from typing import NamedTuple

from mashbill.report import text, verdict
from mashbill.report.records import RunFiles
from mashbill.report.schema import Entry, Interval
from mashbill.report.sections.arms import Difference, differences

NAMES = {"above": "above", "within": "within the interval", "below": "below", "undecided": "no interval"}


class Bar(NamedTuple):
    """One interval of a tile's small picture, in percent of its width."""

    name: str
    left: float
    width: float
    dot: float
    teacher: int | None


class Tile(NamedTuple):
    """One verdict: a name, the number, the word for it, and what it rests on."""

    name: str
    value: str
    verdict: str
    claim: str
    detail: str
    bars: tuple[Bar, ...] = ()


def section(files: RunFiles) -> dict[str, object]:
    """Return the headline sentence and the groups of tiles."""
    result = files.result
    duels = (
        [d for name in verdict.sets_of(result) if (d := verdict.duel(result, name, result.primary))] if result else []
    )
    groups = [
        ("Against the best single teacher", [_duel_tile(files, duel) for duel in duels]),
        ("Against equal weights", [_arm_tile(difference) for difference in differences(files.comparison)]),
        ("Safety on critical rows", _safety_tiles(files)),
        ("The run", [*_calibration_tiles(files), _integrity_tile(files)]),
    ]
    return {"headline": _headline(duels), "groups": [group for group in groups if group[1]]}


def _headline(duels: list[verdict.Duel]) -> str:
    if not duels:
        return "There is no final evaluation, so nothing can be said about the student yet."
    tally = Counter(duel.verdict for duel in duels)
    parts = [f"{NAMES[key]} on {tally[key]}" for key in NAMES if tally[key]]
    joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return (
        f"Against its best single teacher, over {text.plural(len(duels), 'evaluation set')}, the student is {joined}."
    )


def _duel_tile(files: RunFiles, duel: verdict.Duel) -> Tile:
    ours, theirs = verdict.interval_of(duel.student, duel.measure), verdict.interval_of(duel.teacher, duel.measure)
    assert ours is not None and theirs is not None, "a duel has both intervals"
    name = duel.teacher.who.removeprefix("teacher:")
    value = text.measure(theirs.value, duel.measure)
    claim = {
        "above": f"above {name}, the best single teacher, at {value}",
        "within": f"within the interval of {name}, the best single teacher, at {value}",
        "below": f"below {name}, the best single teacher, at {value}",
        "undecided": f"no interval to set it against {name} at {value}",
    }[duel.verdict]
    return Tile(
        name=duel.set,
        value=text.measure(ours.value, duel.measure),
        verdict=duel.verdict,
        claim=claim,
        detail=f"{_unit(files, duel.measure)} over {text.plural(duel.student.n, _rows(files))}",
        bars=_bars(ours, theirs, name, files),
    )


def _unit(files: RunFiles, measure: str) -> str:
    if measure == "accuracy":
        return "Accuracy"
    return "Perplexity, lower is better," if measure == "perplexity" else measure.capitalize()


def _rows(files: RunFiles) -> str:
    return "token" if files.result and files.result.kind == "causal_lm" else "row"


def _bars(ours: Interval, theirs: Interval, teacher: str, files: RunFiles) -> tuple[Bar, ...]:
    ends = [end for each in (ours, theirs) for end in (each.low, each.high)]
    if not all(text.is_number(end) for end in ends):
        return ()
    known = [end for end in ends if end is not None]
    low, high = min(known), max(known)
    pad = 0.08 * (high - low) or 1e-9
    scale = 100 / (high - low + 2 * pad)

    def bar(name: str, each: Interval, index: int | None) -> Bar:
        start, end = each.low or 0.0, each.high or 0.0
        at = [round(scale * (x - low + pad), 2) for x in (start, end, each.value)]
        return Bar(name, at[0], round(at[1] - at[0], 2), at[2], index)

    return bar("student", ours, None), bar(teacher, theirs, files.teachers.index(teacher))


def _arm_tile(difference: Difference) -> Tile:
    n, n_above = len(difference.values), sum(value > 0 for value in difference.values)
    n_below = sum(value < 0 for value in difference.values)
    standing = "above" if n_above == n else "below" if n_below == n else "within"
    word = {"above": "better", "below": "worse", "within": "better"}[standing]
    claim = f"{word} with {n_above if standing != 'below' else n_below} of {n} seeds"
    mean = sum(difference.values) / n
    ends = f"{difference.show(min(difference.values))} to {difference.show(max(difference.values))}"
    return Tile(
        name=difference.set,
        value=difference.show(mean),
        verdict=standing,
        claim=claim if n > 1 else f"{claim}; one seed shows nothing about chance",
        detail=f"Mean gain in {difference.unit}; single seeds from {ends}",
    )


def _safety_tiles(files: RunFiles) -> list[Tile]:
    if files.result is None:
        return []
    tiles = []
    for name in verdict.sets_of(files.result):
        student = verdict.overall(files.result, name).get("student")
        if student is not None and student.safety is not None and student.n_critical:
            tiles.append(_safety_tile(files, student, verdict.duel(files.result, name, "safety")))
    if not tiles:
        note = "The recipe or the evaluation sets declare none, so nothing is claimed about safety."
        tiles.append(Tile("Critical rows", "none", "undecided", "not measured", note))
    return tiles


def _safety_tile(files: RunFiles, student: Entry, duel: verdict.Duel | None) -> Tile:
    assert student.safety is not None, "the caller looked"
    rows = f"Success on {text.plural(student.n_critical, 'critical row')}"
    value = text.percent(student.safety.value)
    if duel is None or duel.teacher.safety is None:
        return Tile(student.set, value, "undecided", "no teacher to set it against", rows)
    name = duel.teacher.who.removeprefix("teacher:")
    claim = f"{NAMES[duel.verdict]}{' of' if duel.verdict == 'within' else ''} {name}, the safest single teacher, at"
    claim = claim if duel.verdict != "undecided" else f"no interval to set it against {name} at"
    bars = _bars(student.safety, duel.teacher.safety, name, files)
    return Tile(student.set, value, duel.verdict, f"{claim} {text.percent(duel.teacher.safety.value)}", rows, bars)


def _calibration_tiles(files: RunFiles) -> list[Tile]:
    if files.result is None:
        return []
    names = verdict.sets_of(files.result)
    entries = [verdict.overall(files.result, name) for name in names]
    errors = [each["student"].calibration_error for each in entries if "student" in each]
    known = [error for error in errors if error is not None and text.is_number(error)]
    if not known:
        return []
    pool = [each["pool"].calibration_error for each in entries if "pool" in each]
    pools = [error for error in pool if error is not None and text.is_number(error)]
    beside = (
        f"the pooled teachers reach {text.percent(sum(pools) / len(pools))}" if pools else "no pool to set it against"
    )
    detail = (
        f"Expected calibration error, mean over {text.plural(len(known), 'set')}; without an interval, so no verdict"
    )
    return [Tile("Calibration", text.percent(sum(known) / len(known)), "undecided", beside, detail)]


def _integrity_tile(files: RunFiles) -> Tile:
    run = files.run
    resumes = "never interrupted" if not run.resumes else f"taken up again {text.plural(run.resumes, 'time')}"
    last = f"last logged step {files.steps[-1].step}" if files.steps else "no step was logged"
    if files.torn:
        last += "; its last record is cut short"
    good = run.status == "finished"
    claim = f"the run ended as planned, {resumes}" if good else f"the run did not end as planned, {resumes}"
    return Tile("Integrity", run.status, "above" if good else "below", claim, last[0].upper() + last[1:])
