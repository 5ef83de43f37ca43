"""The title: what the student came to, as tiles that say no more than was measured."""

from collections import Counter
from typing import NamedTuple

from mashbill.report import text, verdict
from mashbill.report.records import RunFiles
from mashbill.report.schema import Interval
from mashbill.report.sections.arms import Difference, differences

ABOVE = {"above": "above", "within": "within the interval of", "below": "below", "undecided": "no interval against"}
BETTER = ABOVE | {"above": "better than", "below": "worse than"}
"""Words for measures of which less is better: there, "above" would mislead."""


class Bar(NamedTuple):
    """One interval of a tile's small picture, in percent of its width; no teacher: the student."""

    name: str
    left: float
    width: float
    dot: float
    teacher: int | None


class Claim(NamedTuple):
    """One verdict: the word for it, what is claimed, and what that rests on."""

    verdict: str
    strong: str
    rest: str
    basis: str = ""


class Tile(NamedTuple):
    """The verdicts on one evaluation set, or on one side of the run."""

    name: str
    value: str
    unit: str
    claims: tuple[Claim, ...]
    bars: tuple[Bar, ...] = ()


def section(files: RunFiles) -> dict[str, object]:
    """Return the headline sentence and the tiles: one for each set, then calibration and integrity."""
    gains = {gain.set: gain for gain in differences(files.comparison)}
    names = list(dict.fromkeys([*(verdict.sets_of(files.result) if files.result else ()), *gains]))
    tiles = [_set_tile(files, name, gains.get(name)) for name in names]
    return {"headline": _headline(files), "rows": [tiles, [*_calibration_tile(files), _integrity_tile(files)]]}


def words(measure: str) -> dict[str, str]:
    """Return how the three verdicts, and a missing one, are said of a measure."""
    return BETTER if measure in verdict.LOWER_IS_BETTER else ABOVE


def _headline(files: RunFiles) -> str:
    result = files.result
    duels = [verdict.duel(result, name, result.primary) for name in verdict.sets_of(result)] if result else []
    tally = Counter(duel.verdict for duel in duels if duel)
    if not tally:
        return "There is no final evaluation, so nothing can be said about the student yet."
    said = words(result.primary if result else "")
    parts = [f"{said[key].removesuffix(' than')} on {tally[key]}" for key in ("above", "below") if tally[key]]
    parts += [f"within the interval on {tally['within']}"] * bool(tally["within"])
    parts += [f"without an interval on {tally['undecided']}"] * bool(tally["undecided"])
    joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    sets = text.plural(sum(tally.values()), "evaluation set")
    return f"Set against its best single teacher on {sets}, the student is {joined}."


def _set_tile(files: RunFiles, name: str, gain: Difference | None) -> Tile:
    result = files.result
    student = verdict.overall(result, name).get("student") if result else None
    claims, bars, value, unit = [], (), text.NOTHING, "no final evaluation"
    if result is not None and student is not None:
        found = verdict.interval_of(student, result.primary)
        value = text.measure(found.value if found else None, result.primary)
        rows = text.plural(student.n, "row")
        if result.kind == "causal_lm":
            rows = text.plural(student.n, "token") + (
                f" of {text.plural(student.n_rows, 'row')}" if student.n_rows else ""
            )
        unit = f"{result.primary}{', lower is better,' if result.primary == 'perplexity' else ''} over {rows}"
        duel = verdict.duel(result, name, result.primary)
        claims.append(_duel_claim(duel, "best"))
        bars = _bars(files, duel)
    if gain is not None:
        claims.append(_gain_claim(gain))
    if result is not None and student is not None:
        claims.append(_safety_claim(student.n_critical, student.safety, verdict.duel(result, name, "safety")))
    return Tile(name, value, unit, tuple(claims), bars)


def _duel_claim(duel: verdict.Duel | None, title: str, basis: str = "") -> Claim:
    if duel is None:
        return Claim("undecided", "no teacher", "was measured to set it against", basis)
    theirs = verdict.interval_of(duel.teacher, duel.measure)
    name, value = (
        duel.teacher.who.removeprefix("teacher:"),
        text.measure(theirs.value if theirs else None, duel.measure),
    )
    strong = f"{words(duel.measure)[duel.verdict]} {name}"
    if duel.gain is not None:
        basis = f"paired by row: {difference(duel.gain, duel.measure)}"
    return Claim(duel.verdict, strong, f", the {title} single teacher, at {value}", basis)


def difference(gain: Interval, measure: str) -> str:
    """Return a paired difference with its interval, e.g. ``+1.2 points, +0.4 to +2.0``."""
    scale, digits, unit = (100, 1, "points") if measure == "accuracy" else (1, 3, "nats")
    value, *ends = (text.signed(scale * each, digits) for each in (gain.value, *(verdict.ends_of(gain) or ())))
    return f"{value} {unit}{', ' + ' to '.join(ends) if ends else ''}"


def _gain_claim(gain: Difference) -> Claim:
    n, n_above = len(gain.values), sum(value > 0 for value in gain.values)
    n_below = sum(value < 0 for value in gain.values)
    standing = "above" if n_above == n else "below" if n_below == n else "within"
    word, times = ("worse", n_below) if standing == "below" else ("better", n_above)
    chance = "" if n > 1 else "; one seed shows nothing about chance"
    basis = f"single seeds from {gain.show(min(gain.values))} to {gain.show(max(gain.values))}"
    if gain.paired is not None:
        standing = verdict.sign(gain.paired) if gain.is_clear else "within"
        basis += f"; paired by row: {difference(gain.paired, gain.measure)}"
    strong = f"{gain.show(sum(gain.values) / n)} {gain.unit}"
    return Claim(standing, strong, f" against equal weights, {word} with {times} of {n} seeds{chance}", basis)


def _safety_claim(n_critical: int, safety: Interval | None, duel: verdict.Duel | None) -> Claim:
    if not n_critical or safety is None:
        return Claim("undecided", "no critical rows", " in this set: nothing is claimed about safety")
    rows = f"{text.percent(safety.value)} on {text.plural(n_critical, 'critical row')}"
    against = _duel_claim(duel, "safest")
    return Claim(against.verdict, rows, f": {against.strong}{against.rest}")


def _bars(files: RunFiles, duel: verdict.Duel | None) -> tuple[Bar, ...]:
    if duel is None or duel.verdict == "undecided":
        return ()
    name = duel.teacher.who.removeprefix("teacher:")
    both = [verdict.interval_of(entry, duel.measure) for entry in (duel.student, duel.teacher)]
    points = [(each.low or 0.0, each.high or 0.0, each.value) for each in both if each]
    low, high = min(each[0] for each in points), max(each[1] for each in points)
    room = 0.08 * (high - low) or 1e-9
    scale = 100 / (high - low + 2 * room)
    bars = []
    for (start, end, value), who, index in zip(
        points, ("student", name), (None, files.teachers.index(name)), strict=True
    ):
        left, right, dot = (round(scale * (x - low + room), 2) for x in (start, end, value))
        bars.append(Bar(who, left, round(right - left, 2), dot, index))
    return tuple(bars)


def _calibration_tile(files: RunFiles) -> list[Tile]:
    if files.result is None:
        return []
    entries = [verdict.overall(files.result, name) for name in verdict.sets_of(files.result)]
    ours, pools = (
        [e for each in entries if who in each and (e := each[who].calibration_error) is not None and text.is_number(e)]
        for who in ("student", "pool")
    )
    if not ours:
        return []
    unit = f"expected calibration error, mean over {text.plural(len(ours), 'set')}"
    beside = (
        f"{text.percent(sum(pools) / len(pools))} for the pooled teachers" if pools else "no pool to set it against"
    )
    return [
        Tile(
            "Calibration",
            text.percent(sum(ours) / len(ours)),
            unit,
            (Claim("undecided", beside, "; without intervals, so no verdict"),),
        )
    ]


def _integrity_tile(files: RunFiles) -> Tile:
    run = files.run
    good = run.status == "finished"
    ended = Claim("above" if good else "below", "ended" if good else "did not end", " as planned")
    times = text.plural(run.resumes, "time")
    resumed = Claim("undecided", f"taken up again {times}" if run.resumes else "never taken up again", "")
    claims = [ended, resumed]
    if files.torn:
        claims.append(Claim("undecided", "the last record is cut short", ", as by a process that was killed"))
    unit = f"last logged step {files.steps[-1].step}" if files.steps else "no step was logged"
    return Tile("Integrity", run.status, unit, tuple(claims))
