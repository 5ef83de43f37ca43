"""The scorecard: what each teacher can do, measured before training, and the certified order over safety."""

from mashbill.report import text
from mashbill.report.records import RunFiles
from mashbill.report.schema import Cell
from mashbill.report.text import Shown, Table


def section(files: RunFiles) -> dict[str, object]:
    """Return the pooled table, tables by task and context, and the certified pairs of each context."""
    card = files.scorecard
    if card is None:
        return {"missing": "There is no scorecard.json: the teachers' skill was not measured for this run."}
    tables = []
    for caption, names, by in (
        ("Over all rows", [None], "all"),
        ("By task", card.tasks if len(card.tasks) > 1 else [], "task"),
        ("By context", card.contexts if len(card.contexts) > 1 else [], "context"),
    ):
        cells = [cell for name in names for cell in card.cells if _place(cell) == _key(by, name)]
        if cells:
            tables.append(_table(caption, by, cells))
    orders = [(context, card.orders[context]) for context in card.orders]
    return {
        "tables": tables,
        "orders": [(context, pairs) for context, pairs in orders if pairs],
        "without": [context for context, pairs in orders if not pairs],
        "has_undeclared": any(cell.safety and not cell.n_critical for cell in card.cells),
        "confidence": text.percent(card.confidence, 0),
    }


def _key(by: str, name: str | None) -> tuple[str | None, str | None]:
    return (name, None) if by == "task" else (None, name) if by == "context" else (None, None)


def _place(cell: Cell) -> tuple[str | None, str | None]:
    return cell.task, cell.context


def _table(caption: str, by: str, cells: list[Cell]) -> Table:
    part = {"all": (), "task": ("Task",), "context": ("Context",)}[by]
    head = (*part, "Teacher", "n", "accuracy", "loss", "calibration error", "critical rows", "safety")
    rows = [
        (
            *((Shown(cell.task or cell.context or ""),) if part else ()),
            Shown(cell.teacher),
            Shown(text.count(cell.n)),
            text.shown(cell.accuracy, "accuracy"),
            text.shown(cell.loss, "loss"),
            Shown(text.percent(cell.calibration_error)),
            Shown(text.count(cell.n_critical)),
            text.shown(cell.safety, "safety"),
        )
        for cell in cells
    ]
    return Table(caption, head, tuple(rows), n_text=1 + len(part), teachers_in="text")
