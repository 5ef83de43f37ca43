"""The final evaluation: student, teachers and pool on each set, and by task and context."""

from mashbill.report import palette, text, verdict
from mashbill.report.figures import canvas, intervals
from mashbill.report.records import RunFiles
from mashbill.report.schema import Entry, Interval, Result
from mashbill.report.text import Shown, Table


def section(files: RunFiles) -> dict[str, object]:
    """Return one panel a set on a shared axis, the table over all rows, and tables by task and context."""
    result = files.result
    if result is None:
        return {"missing": "There is no result.json: the final evaluation has not run."}
    sets = verdict.sets_of(result)
    return {
        "measure": result.primary,
        "confidence": text.percent(result.confidence, 0),
        "panels": [_panel(files, result, name, number) for number, name in enumerate(sets)],
        "table": _overall_table(files, result, sets),
        "parts": [
            (by, [table for name in sets if (table := _part_table(files, result, name, by))])
            for by in ("task", "context")
        ],
    }


def display_name(who: str) -> str:
    """Return how ``student``, ``pool`` or ``teacher:<id>`` is called in the report.

    >>> display_name("teacher:law"), display_name("pool")
    ('law', 'pooled teachers')
    """
    name = who.removeprefix("teacher:")
    if who == name:
        return {"pool": "pooled teachers"}.get(who, who)
    return f"teacher {name}" if name in ("student", "pool", "pooled teachers") else name


def order(files: RunFiles, entries: dict[str, Entry]) -> list[str]:
    """Return who is there: the student, the pool, then teachers in the order of the recipe."""
    wanted = ["student", "pool", *(f"teacher:{teacher}" for teacher in files.teachers)]
    return [who for who in wanted if who in entries]


def look(files: RunFiles, who: str) -> tuple[str, str]:
    """Return stand-in colour and marker of whom a dot or a curve is about."""
    if who.startswith("teacher:"):
        index = files.teachers.index(who.removeprefix("teacher:"))
        return canvas.teacher_colour(index), palette.mark(index).matplotlib
    return (canvas.INK, "o") if who == "student" else (canvas.MUTED, "d")


def _panel(files: RunFiles, result: Result, name: str, number: int) -> dict[str, object]:
    entries = verdict.overall(result, name)
    rows = []
    for who in order(files, entries):
        found = verdict.interval_of(entries[who], result.primary)
        if found is None or not text.is_number(found.value):
            continue
        colour, marker = look(files, who)
        low, high = _ends(found)
        rows.append(intervals.Dot(display_name(who), found.value, low, high, colour, marker, strong=who == "student"))
    if not rows:
        return {"name": name, "svg": None}
    is_share = result.primary == "accuracy"
    paint = intervals.dots(rows, extent=intervals.extent(_all_ends(result)), is_share=is_share)
    box = canvas.Box(330, 48 + 24 * len(rows), left=intervals.name_width([row.name for row in rows]), right=18)
    told = "; ".join(f"{row.name} {text.measure(row.value, result.primary)}" for row in rows)
    label = f"{result.primary} on {name}, dots with intervals: {told}"
    return {"name": name, "svg": canvas.picture(paint, box=box, identity=f"dots{number}", label=label)}


def _ends(interval: Interval) -> tuple[float, float]:
    low = interval.low if interval.low is not None and text.is_number(interval.low) else interval.value
    high = interval.high if interval.high is not None and text.is_number(interval.high) else interval.value
    return low, high


def _all_ends(result: Result) -> list[float]:
    found = [verdict.interval_of(entry, result.primary) for entry in result.entries if entry.by == "all"]
    return [end for each in found if each and text.is_number(each.value) for end in _ends(each)]


def _overall_table(files: RunFiles, result: Result, sets: list[str]) -> Table:
    measures = (
        ["accuracy", "perplexity", "loss"] if result.primary == "accuracy" else ["perplexity", "accuracy", "loss"]
    )
    overall = [entry for entry in result.entries if entry.by == "all"]
    measures = [name for name in measures if any(verdict.interval_of(entry, name) for entry in overall)]
    has_safety = any(entry.n_critical for entry in overall)
    head = ("Set", "Who", "n", *measures, *(("safety",) if has_safety else ()))
    rows = []
    for name in sets:
        entries = verdict.overall(result, name)
        for who in order(files, entries):
            entry = entries[who]
            cells = [text.shown(verdict.interval_of(entry, measure), measure) for measure in measures]
            cells += [text.shown(entry.safety, "safety")] if has_safety else []
            rows.append((Shown(name), Shown(display_name(who)), Shown(text.count(entry.n)), *cells))
    return Table("Over all rows of each set", head, tuple(rows), n_text=2, teachers_in="text")


def _part_table(files: RunFiles, result: Result, name: str, by: str) -> Table | None:
    entries = [entry for entry in result.entries if entry.set == name and entry.by == by]
    parts = list(dict.fromkeys(entry.name for entry in entries))
    if len(parts) < 2:
        return None
    found = {(entry.name, entry.who): entry for entry in entries}
    who = order(files, {entry.who: entry for entry in entries})
    rows = []
    for part in parts:
        n = max(entry.n for entry in entries if entry.name == part)
        cells = []
        for each in who:
            entry = found.get((part, each))
            cells.append(text.shown(verdict.interval_of(entry, result.primary) if entry else None, result.primary))
        rows.append((Shown(part), Shown(text.count(n)), *cells))
    head = (by.capitalize(), "n", *(display_name(each) for each in who))
    return Table(f"{name}: {result.primary} by {by}", head, tuple(rows), teachers_in="head")
