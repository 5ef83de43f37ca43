"""Write the report: one HTML file about one run, whole in itself.

The page loads nothing, runs nothing and asks nobody: its policy forbids it to the browser. Everything that came from
data, models or names is escaped by the template engine. The same files give the same page, byte for byte.

Not covered: comparison across runs, and anything interactive beyond opening a table.
"""

from pathlib import Path
from typing import Any

from mashbill.durable import write_text
from mashbill.report import palette, records
from mashbill.report.records import RunFiles
from mashbill.report.rendering import environment, style
from mashbill.report.sections import (
    arms,
    calibration,
    curves,
    examples,
    lineage,
    results,
    skill,
    teaching,
    verdicts,
)
from mashbill.report.text import count, plural

MAX_ROWS = 120
"""Rows of a table that are shown; with a hundred contexts the page would outgrow its megabyte."""

SECTIONS = (
    ("teaching", "Who taught what", teaching.section),
    ("examples", "Examples", examples.section),
    ("curves", "Training", curves.section),
    ("results", "Results", results.section),
    ("arms", "Comparison", arms.section),
    ("calibration", "Calibration", calibration.section),
    ("skill", "Scorecard", skill.section),
    ("lineage", "Lineage", lineage.section),
)
"""Name of the template, heading, and what fills it, in the order of the page."""


def write_report(run_dir: str | Path, *, output: str | Path | None = None) -> Path:
    """Write the report of a run and return where it stands.

    A part that the run has not produced is named as missing; a file that is damaged is an error.

    Args:
        run_dir: The run's directory, the recipe's ``output``.
        output: Where to write; ``report.html`` in the run's directory if None.

    Raises:
        mashbill.errors.DataError: ``run_dir`` has no ``run.json``.
        mashbill.errors.CorruptionError: A file of the run cannot be read; names the file and the way out.
    """
    directory = Path(run_dir)
    page = render(records.read_run(directory))
    place = directory / "report.html" if output is None else Path(output)
    write_text(place, page)
    return place


def render(files: RunFiles) -> str:
    """Return the page of a run."""
    engine = environment()
    engine.globals |= {"n_colours": palette.N_COLOURS, "max_rows": MAX_ROWS}
    return engine.get_template("page.html.j2").render(**_values(files))


def _values(files: RunFiles) -> dict[str, Any]:
    return {
        "files": files,
        "run": files.run,
        "style": style("style.css"),
        "teachers": list(enumerate(files.teachers)),
        "marks": [palette.mark(index) for index in range(len(files.teachers))],
        "summary": _summary(files),
        "verdicts": verdicts.section(files),
        "sections": [(name, heading, section(files)) for name, heading, section in SECTIONS],
    }


def _summary(files: RunFiles) -> str:
    """Return one sentence on what this run is."""
    run, kind = files.run, {"causal_lm": "language model", "classifier": "classifier"}
    student = f"A {kind.get(run.student.kind, 'student')}"
    if run.student.n_parameters is not None:
        student += f" with {count(run.student.n_parameters)} parameters"
    if not run.teachers:
        return f"{student}. The run ended before it wrote down who its teachers are."
    data = run.data.get("train")
    rows = f" on {plural(data.rows, 'row')}" if data else ""
    return f"{student}, distilled from {plural(len(run.teachers), 'teacher')}{rows}."
