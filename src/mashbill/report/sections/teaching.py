"""Who taught what: weights over steps, and final weights beside measured skill."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from mashbill.report import palette, text
from mashbill.report.figures import canvas, streams
from mashbill.report.figures.streams import Stream
from mashbill.report.records import RunFiles
from mashbill.report.schema import Record, Weights
from mashbill.report.sections import heard
from mashbill.report.text import Shown, Table

FINAL_STEPS = 10
"""Logged steps at the end of training whose mean is called the final weight."""
MAX_PANELS = 16
TABLE_STEPS = 12


class Panel(NamedTuple):
    """One small multiple."""

    name: str
    svg: Markup


def section(files: RunFiles) -> dict[str, object]:
    """Return the large picture, the small multiples, the heat tables, and how often weight goes to the most skilled."""
    logged = [record for record in files.steps if record.weights.all]
    if not logged:
        return {"missing": "No step with weights was logged, so there is nothing to show about who taught what."}
    extent = (float(min(0, logged[0].step)), float(logged[-1].step))
    extent = (float(logged[0].step), extent[1]) if len(logged) > 1 else extent
    return {
        "wide": _large(files, logged, extent, is_wide=True),
        "narrow": _large(files, logged, extent, is_wide=False),
        "table": _steps_table(files, logged),
        "multiples": [each for by in ("task", "context") if (each := _multiples(files, logged, extent, by))],
        "heard": heard.table(files),
        "heard_notes": heard.notes(files),
        "heat": [each for by in ("task", "context") if (each := heat(files, by))],
    }


def series(records: Sequence[Record], teachers: Sequence[str], by: str, name: str) -> Stream:
    """Return the weights of all teachers over the steps that logged them for this task or context."""
    pairs = [(float(record.step), weights) for record in records if (weights := _weights(record, by, name))]
    return Stream([step for step, _ in pairs], [[weights.get(t, 0.0) for _, weights in pairs] for t in teachers])


def final_weights(records: Sequence[Record], teachers: Sequence[str], by: str, name: str) -> list[float] | None:
    """Return each teacher's mean weight over the last logged steps, or None if none was logged."""
    shares = series(records, teachers, by, name).shares
    return [sum(row[-FINAL_STEPS:]) / len(row[-FINAL_STEPS:]) for row in shares] if shares[0] else None


def names_of(files: RunFiles, by: str) -> list[str]:
    """Return tasks or contexts in the order of the run, then any that only the records know; none if there is one."""
    listed = files.run.tasks if by == "task" else files.run.contexts
    logged = (
        name for record in files.steps for name in (record.weights.task if by == "task" else record.weights.context)
    )
    names = list(dict.fromkeys([*listed, *logged]))
    return names if len(names) > 1 else []


def heat(files: RunFiles, by: str) -> dict[str, object] | None:
    """Return final weight and measured accuracy, names by teachers, as two tables with tinted cells."""
    names = names_of(files, by)
    weights = {name: found for name in names if (found := final_weights(files.steps, files.teachers, by, name))}
    if not weights:
        return None
    skills = _skills(files, by)
    known = [name for name in weights if all(value is not None for value in skills.get(name, [None]))]
    agree = sum(_is_most_skilled(_top(weights[name]), skills[name]) for name in known)
    return {
        "by": by,
        "weight": _heat_table(
            f"Final weight by {by}", weights, (0.0, max(map(max, weights.values()))), files, digits=0
        ),
        "skill": _heat_table(f"Measured accuracy by {by}", skills, _range(skills), files) if skills else None,
        "agree": (agree, len(known)) if known else None,
    }


def _weights(record: Record, by: str, name: str) -> Weights:
    if by == "all":
        return record.weights.all
    return (record.weights.task if by == "task" else record.weights.context).get(name, {})


def _names(files: RunFiles) -> int:
    return 34 + round(6.4 * max(len(canvas.plain(teacher, 18)) for teacher in files.teachers))


def _large(files: RunFiles, logged: Sequence[Record], extent: tuple[float, float], *, is_wide: bool) -> Markup:
    size = (1040, 320) if is_wide else (400, 280)
    box = canvas.Box(*size, right=_names(files), left=26, bottom=44)
    kind = "wide" if is_wide else "narrow"
    stream = streams.condense(series(logged, files.teachers, "all", ""), 120)
    ends = final_weights(logged, files.teachers, "all", "") or []
    told = ", ".join(f"{teacher} {text.percent(end, 0)}" for teacher, end in zip(files.teachers, ends, strict=True))
    paint = streams.area(stream, extent=extent, teachers=files.teachers)
    label = f"Mean weight of each teacher over training steps, stacked. At the end: {told}."
    return canvas.picture(paint, box=box, identity=f"stream-{kind}", label=label, kind=kind)


def _multiples(
    files: RunFiles, logged: Sequence[Record], extent: tuple[float, float], by: str
) -> dict[str, object] | None:
    names = names_of(files, by)
    panels, rows = [], []
    for number, name in enumerate(names):
        stream = series(logged, files.teachers, by, name)
        ends = final_weights(logged, files.teachers, by, name)
        if not stream.steps or ends is None:
            continue
        cells = [Shown(text.percent(end, 1)) for end in ends]
        rows.append((Shown(name), *cells))
        if len(panels) == MAX_PANELS:
            continue
        told = ", ".join(f"{t} {text.percent(end, 0)}" for t, end in zip(files.teachers, ends, strict=True))
        svg = canvas.picture(
            streams.area(streams.condense(stream, 48), extent=extent),
            box=canvas.Box(250, 150, left=26, right=12, top=6, bottom=26),
            identity=f"{by}{number}",
            label=f"Weights over steps for {by} {name}. At the end: {told}.",
        )
        panels.append(Panel(name, svg))
    if not panels:
        return None
    table = Table(f"Final weight by {by}", (by.capitalize(), *files.teachers), tuple(rows), teachers_in="head")
    return {"by": by, "panels": panels, "n_left_out": len(rows) - len(panels), "table": table}


def _steps_table(files: RunFiles, logged: Sequence[Record]) -> Table:
    rows = [
        (Shown(str(record.step)), *(Shown(text.percent(record.weights.all.get(t, 0.0))) for t in files.teachers))
        for record in evenly(logged, TABLE_STEPS)
    ]
    return Table("Mean weight at some of the logged steps", ("Step", *files.teachers), tuple(rows), teachers_in="head")


def evenly(records: Sequence[Record], n: int) -> list[Record]:
    """Return ``n`` of the records, evenly spaced, the first and the last among them."""
    if len(records) <= n:
        return list(records)
    return [records[round(index * (len(records) - 1) / (n - 1))] for index in range(n)]


def _skills(files: RunFiles, by: str) -> dict[str, list[float | None]]:
    if files.scorecard is None:
        return {}
    found = {
        ((cell.task if by == "task" else cell.context), cell.teacher): cell.accuracy.value
        for cell in files.scorecard.cells
        if cell.accuracy is not None and (cell.context if by == "task" else cell.task) is None
    }
    table = {name: [found.get((name, teacher)) for teacher in files.teachers] for name in names_of(files, by)}
    return {name: row for name, row in table.items() if any(value is not None for value in row)}


def _range(skills: dict[str, list[float | None]]) -> tuple[float, float]:
    values = [value for row in skills.values() for value in row if value is not None]
    return min(values), max(values)


def _top(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda index: values[index])


def _is_most_skilled(teacher: int, skills: Sequence[float | None]) -> bool:
    return skills[teacher] == max(skill for skill in skills if skill is not None)


def _heat_table(
    caption: str,
    rows: Mapping[str, Sequence[float | None]],
    span: tuple[float, float],
    files: RunFiles,
    digits: int = 1,
) -> Table:
    low, high = span

    def cell(value: float | None) -> Shown:
        if value is None:
            return Shown(text.NOTHING)
        share = (value - low) / (high - low) if high > low else 0.0
        return Shown(text.percent(value, digits), tint=round(palette.TINT_LIMIT * share))

    body = tuple((Shown(name), *map(cell, row)) for name, row in rows.items())
    return Table(caption, ("", *files.teachers), body, teachers_in="head")
