"""Calibration: does a stated 80% come true 80 times in a hundred?"""

from mashbill.report import text, verdict
from mashbill.report.figures import canvas, reliability
from mashbill.report.records import RunFiles
from mashbill.report.schema import Entry, Result
from mashbill.report.sections.results import display_name, look, order
from mashbill.report.text import Shown, Table

MIN_ROWS = 10
"""Rows that a bin must have to be drawn: the accuracy of three rows is noise."""


def section(files: RunFiles) -> dict[str, object]:
    """Return one reliability diagram a set (student, pool, best teacher) and the table of calibration errors."""
    result = files.result
    if result is None:
        return {"missing": "There is no result.json: calibration was not measured."}
    sets = verdict.sets_of(result)
    panels = [panel for number, name in enumerate(sets) if (panel := _panel(files, result, name, number))]
    table = _table(files, result, sets)
    if not panels and table is None:
        return {"missing": "The final evaluation recorded no calibration."}
    return {"panels": panels, "table": table, "least": MIN_ROWS}


def _panel(files: RunFiles, result: Result, name: str, number: int) -> dict[str, object] | None:
    entries = verdict.overall(result, name)
    best = verdict.best_teacher(entries, result.primary)
    wanted = [who for who in ("pool", best.who if best else "", "student") if who in entries]
    models = [model for who in wanted if (model := _model(files, entries[who]))]
    if not models:
        return None
    label = f"Reliability on {name}: accuracy over stated confidence for {', '.join(model.name for model in models)}"
    box = canvas.Box(245, 232, left=26, bottom=26, right=6, top=6)
    svg = canvas.picture(reliability.diagram(models), box=box, identity=f"calibration{number}", label=label)
    teacher = best.who.removeprefix("teacher:") if best else None
    return {"name": name, "svg": svg, "teacher": teacher}


def _model(files: RunFiles, entry: Entry) -> reliability.Reliability | None:
    total = sum(each.n for each in entry.reliability)
    bins = [
        (each.confidence, each.accuracy, each.n / total)
        for each in entry.reliability
        if each.n >= MIN_ROWS and each.confidence is not None and each.accuracy is not None
    ]
    if not bins:
        return None
    colour, marker = look(files, entry.who)
    dash = {"student": "-", "pool": "--"}.get(entry.who, ":")
    confidence, accuracy, share = ([one[i] for one in bins] for i in range(3))
    return reliability.Reliability(display_name(entry.who), confidence, accuracy, share, colour, marker, dash)


def _table(files: RunFiles, result: Result, sets: list[str]) -> Table | None:
    by_set = {name: verdict.overall(result, name) for name in sets}
    everyone = order(files, {who: entry for entries in by_set.values() for who, entry in entries.items()})
    rows = []
    for who in everyone:
        errors = [by_set[name][who].calibration_error if who in by_set[name] else None for name in sets]
        if any(error is not None for error in errors):
            rows.append((Shown(display_name(who)), *(Shown(text.percent(error)) for error in errors)))
    if not rows:
        return None
    return Table("Expected calibration error", ("Who", *sets), tuple(rows), teachers_in="text")
