"""How training went: loss, evaluation loss, and the distance from the student to each teacher."""

from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from mashbill.report import palette, text
from mashbill.report.figures import canvas, curves
from mashbill.report.figures.curves import Curve
from mashbill.report.records import RunFiles
from mashbill.report.schema import Record
from mashbill.report.sections.teaching import TABLE_STEPS, evenly
from mashbill.report.text import Shown, Table

N_POINTS = 160
_DASHES = ("--", ":", "-.")


def section(files: RunFiles) -> dict[str, object]:
    """Return the two pictures in a wide and a narrow form, and their tables."""
    if not files.steps:
        return {"missing": "No training step was logged."}
    extent = (float(files.steps[0].step), float(max(files.steps[-1].step, files.steps[0].step + 1)))
    loss, distance = _losses(files), _distances(files)
    return {
        "loss": _both(loss, extent, files, "loss", "Training and evaluation loss over steps, in nats, log scale."),
        "distance": _both(
            distance, extent, files, "kl", "Divergence from each teacher to the student over steps, in nats."
        )
        if distance
        else None,
        "resumes": files.resumes,
        "n_resumes": text.plural(files.run.resumes, "time") if files.run.resumes else None,
        "loss_table": _loss_table(files.steps),
        "distance_table": _distance_table(files) if distance else None,
        "evaluation_table": _evaluation_table(files.evaluations) if files.evaluations else None,
    }


def _losses(files: RunFiles) -> list[Curve]:
    found = [_curve(files.steps, "training", [record.loss for record in files.steps])]
    names = dict.fromkeys(record.evaluation.set for record in files.evaluations if record.evaluation)
    for number, name in enumerate(names):
        records = [record for record in files.evaluations if record.evaluation and record.evaluation.set == name]
        values = [record.evaluation.loss if record.evaluation else None for record in records]
        style = {
            "colour": canvas.MUTED,
            "dash": _DASHES[number % len(_DASHES)],
            "marker": palette.mark(number + 1).matplotlib,
        }
        found.append(_curve(records, name, values)._replace(**style))
    return [curve for curve in found if curve.values]


def _distances(files: RunFiles) -> list[Curve]:
    found = []
    for index, teacher in enumerate(files.teachers):
        curve = _curve(files.steps, teacher, [record.kl_to_teacher.get(teacher) for record in files.steps])
        found.append(curve._replace(colour=canvas.teacher_colour(index), marker=palette.mark(index).matplotlib))
    return [curve for curve in found if curve.values]


def _curve(records: Sequence[Record], name: str, values: Sequence[float | None]) -> Curve:
    pairs = [(float(record.step), value) for record, value in zip(records, values, strict=True) if value is not None]
    return Curve(name, *curves.thin([step for step, _ in pairs], [value for _, value in pairs], N_POINTS))


def _both(
    drawn: list[Curve], extent: tuple[float, float], files: RunFiles, identity: str, label: str
) -> tuple[Markup, Markup] | None:
    if not drawn:
        return None
    margin = 28 + round(6.4 * max(len(canvas.plain(curve.name, 18)) for curve in drawn))
    paint: Callable[[Axes], None] = curves.lines(drawn, extent=extent, resumes=files.resumes)
    ends = ", ".join(f"{curve.name} {text.number(curve.values[-1])}" for curve in drawn)
    wide, narrow = (
        canvas.Box(500, 310, right=margin, top=20, bottom=48),
        canvas.Box(400, 280, right=margin, top=20, bottom=48),
    )
    return (
        canvas.picture(paint, box=wide, identity=f"{identity}w", label=f"{label} At the end: {ends}.", kind="wide"),
        canvas.picture(paint, box=narrow, identity=f"{identity}n", label=f"{label} At the end: {ends}.", kind="narrow"),
    )


def _loss_table(steps: Sequence[Record]) -> Table:
    head = ("Step", "loss", "divergence", "cross-entropy", "gradient norm", "learning rate")
    rows = [
        (
            Shown(str(record.step)),
            Shown(text.number(record.loss)),
            Shown(text.number(record.divergence)),
            Shown(text.number(record.cross_entropy)),
            Shown(text.number(record.grad_norm)),
            Shown(text.NOTHING if record.learning_rate is None else f"{record.learning_rate:.2e}"),
        )
        for record in evenly(steps, TABLE_STEPS)
    ]
    return Table("Some of the logged steps; losses in nats", head, tuple(rows))


def _distance_table(files: RunFiles) -> Table:
    measured = [record for record in files.steps if record.kl_to_teacher]
    rows = [
        (Shown(str(record.step)), *(Shown(text.number(record.kl_to_teacher.get(t))) for t in files.teachers))
        for record in evenly(measured, TABLE_STEPS)
    ]
    caption = "KL(teacher ‖ student) in nats at some of the logged steps"
    return Table(caption, ("Step", *files.teachers), tuple(rows), teachers_in="head")


def _evaluation_table(records: Sequence[Record]) -> Table:
    rows = [
        (
            Shown(record.evaluation.set),
            Shown(str(record.step)),
            Shown(text.number(record.evaluation.loss)),
            Shown(text.percent(record.evaluation.accuracy)),
        )
        for record in records
        if record.evaluation
    ]
    return Table("Evaluations during training", ("Set", "step", "loss", "accuracy"), tuple(rows))
