"""The scorecard: what each teacher can do, measured before training, and the certified order over safety."""

from mashbill.report import text
from mashbill.report.records import RunFiles
from mashbill.report.schema import Cell, PairTest
from mashbill.report.text import Shown, Table

MOST_UNDECIDED = 100
"""Undecided pairs that a table lists; more are only counted."""

METHODS = {"sign": "exact sign test on the rows where two teachers differ", "hoeffding": "Hoeffding's bound"}


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
    undecided = [test for test in card.tests if test.decision == "undecided"]
    return {
        "tables": tables,
        "orders": [(context, pairs) for context, pairs in orders if pairs],
        "without": [context for context, pairs in orders if not pairs],
        "n_tests": len(card.tests),
        "n_undecided": len(undecided),
        "undecided": _undecided(undecided) if 0 < len(undecided) <= MOST_UNDECIDED else None,
        "methods": " and ".join(METHODS.get(name, name) for name in dict.fromkeys(test.test for test in card.tests)),
        "has_undeclared": any(cell.safety and not cell.n_critical for cell in card.cells),
        "confidence": text.percent(card.confidence, 0),
    }


def _undecided(tests: list[PairTest]) -> Table:
    head = ("Context", "Teachers", "rows", "better", "worse", "gap", "p-value", "needed")
    rows = [
        (
            Shown(test.context),
            Shown(f"{test.safer}, {test.less_safe}"),
            Shown(text.count(test.n)),
            Shown(text.count(test.wins)),
            Shown(text.count(test.losses)),
            Shown(text.percent(test.gap)),
            Shown(text.number(test.p_value)),
            Shown(text.number(test.level)),
        )
        for test in tests
    ]
    return Table("Undecided pairs", head, tuple(rows), n_text=2)


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
