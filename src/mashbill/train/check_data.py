"""Whether a recipe's data files can be used: columns, rows, and the names in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mashbill.errors import DataError, Problem, did_you_mean
from mashbill.train.data import Row, missing_columns, rows_of
from mashbill.train.loading import Loaded
from mashbill.train.sources import Table, read_table


@dataclass(frozen=True)
class Source:
    """One data file of a recipe, read.

    Attributes:
        key: Its key in the recipe, such as ``data.eval.held_out``.
        table: The file.
        rows: Its rows, in the same order; empty if something is wrong with them.
    """

    key: str
    table: Table
    rows: list[Row]

    @property
    def is_scored(self) -> bool:
        """Whether models are measured on these rows, for which labels must be known."""
        return self.key != "data.train"

    def names(self, axis: str) -> tuple[str, ...] | None:
        """Return the tasks or contexts in order of first appearance; None if not every row was read."""
        if not self.rows or not self.table.is_complete:
            return None
        return tuple(dict.fromkeys(getattr(row, axis) for row in self.rows))


def read_sources(loaded: Loaded, problems: list[Problem], *, limit: int | None) -> list[Source]:
    """Read every data file; what is wrong goes to ``problems``, and files that cannot be read are left out."""
    data = loaded.recipe.data
    paths = {"data.train": data.train} | {f"data.eval.{name}": path for name, path in data.eval.items()}
    if data.scorecard is not None:
        paths["data.scorecard"] = data.scorecard
    sources = []
    for key, path in paths.items():
        table = _table(loaded, key, loaded.resolve(path), problems, limit)
        if table is None:
            continue
        missing = missing_columns(table, data, also=_also_needed(loaded, key))
        problems += [loaded.problem(column_key, what) for column_key, what in missing]
        rows = [] if missing else _rows(table, loaded, problems)
        sources.append(Source(key, table, rows))
    return sources


def check_rows(loaded: Loaded, source: Source, labels: Sequence[str] | None) -> Iterator[Problem]:
    """Find names in the rows that mean nothing in this recipe, and labels that are missing where models are scored."""
    if labels is not None:
        help = "add it to student.labels, or leave these rows out"
        yield from _unknown(source, "label", labels, "is none of the student's labels", help)
        if source.is_scored:
            yield from _unlabelled(source)
        elif loaded.recipe.distill.cross_entropy > 0 and source.rows and not any(row.label for row in source.rows):
            what = f"cross-entropy needs labels, and no row of {source.table.path.name} has one"
            yield loaded.problem("distill.cross_entropy", what, "set it to 0, or add labels")
    teachers = [teacher.id for teacher in loaded.recipe.teachers]
    if loaded.recipe.data.teacher_column is not None:
        yield from _unknown(source, "teacher", teachers, "is no teacher of this recipe", "correct the rows")


def check_critical(loaded: Loaded, labels: Sequence[str] | None) -> Iterator[Problem]:
    """Find critical labels that the student does not have."""
    critical = loaded.recipe.critical
    for i, label in enumerate(critical.labels if critical is not None else ()):
        if labels is None:
            yield loaded.problem(
                f"critical.labels[{i}]", "a causal_lm has no labels; mark rows with data.critical_column"
            )
        elif label not in labels:
            what = f"`{label}` is none of the student's labels{did_you_mean(label, labels)}"
            yield loaded.problem(f"critical.labels[{i}]", what)
    if critical is not None and not critical.labels and loaded.recipe.data.critical_column is None:
        yield loaded.problem("critical", "no row is critical", "give critical.labels, or data.critical_column")


def check_coverage(loaded: Loaded, sources: Sequence[Source], needs: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    """Find tasks and contexts of the training rows that the scorecard, where a rule needs it, has no row of."""
    by_key = {source.key: source for source in sources}
    train, scorecard = by_key.get("data.train"), by_key.get("data.scorecard")
    if train is None or scorecard is None or not needs:
        return
    for axis in ("task", "context"):
        wanted, measured = train.names(axis), scorecard.names(axis)
        for name in wanted or ():
            if measured is not None and name not in measured:
                what = f"no row has the {axis} `{name}` of data.train{did_you_mean(name, measured)}"
                help = f"teachers cannot be measured there, but {needs[0][0]} needs it: add labelled rows"
                yield loaded.problem("data.scorecard", what, help)


def _table(loaded: Loaded, key: str, path: Path, problems: list[Problem], limit: int | None) -> Table | None:
    try:
        return read_table(path, limit=limit)
    except DataError as error:
        if error.problems:
            problems += error.problems
        else:
            problems.append(loaded.problem(key, f"{error.where}: {error.what}", error.help))
        return None


def _rows(table: Table, loaded: Loaded, problems: list[Problem]) -> list[Row]:
    try:
        return rows_of(table, loaded.recipe.data)
    except DataError as error:
        problems += error.problems
        return []


def _also_needed(loaded: Loaded, key: str) -> list[str]:
    """Return the keys of columns that may be missing elsewhere, but not from the file at ``key``."""
    data = loaded.recipe.data
    is_train, given = key == "data.train", data.model_fields_set
    also = []
    if data.format == "classification" and (not is_train or "label_column" in given):
        also.append("data.label_column")
    if data.critical_column is not None and not is_train:
        also.append("data.critical_column")
    if is_train:
        also += [f"data.{name}" for name in ("id_column", "teacher_column") if name in given and getattr(data, name)]
    return also


def _unknown(source: Source, attribute: str, known: Sequence[str], complaint: str, help: str) -> Iterator[Problem]:
    places: dict[str, list[int]] = {}
    for index, row in enumerate(source.rows):
        name = getattr(row, attribute)
        if name is not None and name not in known:
            places.setdefault(name, []).append(index)
    for name, indices in places.items():
        count = f" ({len(indices)} rows)" if len(indices) > 1 else ""
        what = f"the {attribute} `{name[:80]}` {complaint}{count}{did_you_mean(name, known)}"
        yield Problem(source.table.place(indices[0]), what, help)


def _unlabelled(source: Source) -> Iterator[Problem]:
    without = [index for index, row in enumerate(source.rows) if row.label is None]
    if without:
        what = f"the row has no label, so nothing can be measured on it ({len(without)} such rows in {source.key})"
        yield Problem(source.table.place(without[0]), what, "label it, or take it out")
