"""Rows of a recipe's data: what the columns mean, checked as they are read."""

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mashbill.errors import DataError, Problem, did_you_mean
from mashbill.train.recipe import Data
from mashbill.train.sources import Record, Table, read_table, shown

ALL = "all"
"""Name of the one task, or the one context, of data that does not tell them apart."""

ROWS_SHOWN = 5
"""Unusable rows of a file that are named; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example; what the data does not say is None, ``()`` or False.

    Attributes:
        id: Stable and unique within its file: the id column, or ``<file stem>:<row number>``.
        text: The text of the formats ``text`` and ``classification``.
        messages: ``{"role": ..., "content": ...}`` of the format ``messages``; the chat template renders them later.
        prompt: Of the format ``prompt_completion``; not trained on.
        completion: What follows the prompt.
        label: Name of the class.
        task: Name of the task.
        context: Deployment context, the context columns joined with ``/``.
        features: Numeric context features, all finite.
        variances: ``{teacher: variance}`` of each teacher's answer, measured beforehand.
        teacher: Id of the one teacher that the row names.
        critical: Whether a failure on this row counts for safety.
    """

    id: str
    text: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    prompt: str | None = None
    completion: str | None = None
    label: str | None = None
    task: str = ALL
    context: str = ALL
    features: tuple[float, ...] = ()
    variances: Mapping[str, float] = field(default_factory=dict)
    teacher: str | None = None
    critical: bool = False


def read_rows(path: Path, data: Data, *, critical_labels: Collection[str] = (), limit: int | None = None) -> list[Row]:
    """Read the rows of one data file.

    Args:
        path: A file or folder that :func:`mashbill.train.sources.read_table` reads.
        data: Format and column names.
        critical_labels: Rows with one of these labels are critical, beside those that the critical column marks.
        limit: Read this many rows at most.

    Raises:
        DataError: Names file, line or row, and column of everything that cannot be used.
        CorruptionError: The file's bytes do not match their checksums.
    """
    table = read_table(path, limit=limit)
    problems = [Problem(shown(path), f"{what} ({key})") for key, what in missing_columns(table, data)]
    if problems:
        raise DataError(problems=problems)
    return rows_of(table, data, critical_labels=critical_labels)


def missing_columns(table: Table, data: Data, *, also: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return ``(recipe key, message)`` for each column that the recipe names and the file does not have.

    Args:
        table: The file.
        data: The recipe's ``data`` section.
        also: Keys whose column is optional in general but needed here, e.g. ``"data.label_column"``.
    """
    wanted = [*required_columns(data), *((key, getattr(data, key.removeprefix("data."))) for key in also)]
    missing = [(key, name) for key, name in wanted if name not in table.columns]
    has = f"; it has: {', '.join(table.columns[:12])}"
    return [
        (key, f"{shown(table.path)} has no column `{name}`{did_you_mean(name, table.columns) or has}")
        for key, name in missing
    ]


def required_columns(data: Data) -> list[tuple[str, str]]:
    """Return ``(recipe key, column)`` of the columns that every data file must have."""
    by_format = {
        "text": [("data.text_column", data.text_column)],
        "classification": [("data.text_column", data.text_column)],
        "messages": [("data.format", "messages")],
        "prompt_completion": [("data.format", "prompt"), ("data.format", "completion")],
    }
    columns = by_format[data.format]
    if data.task_column is not None:
        columns.append(("data.task_column", data.task_column))
    columns += [(f"data.context_columns[{i}]", name) for i, name in enumerate(data.context_columns)]
    columns += [(f"data.feature_columns[{i}]", name) for i, name in enumerate(data.feature_columns)]
    columns += [(f"data.variance_columns.{teacher}", name) for teacher, name in data.variance_columns.items()]
    return columns


def rows_of(table: Table, data: Data, *, critical_labels: Collection[str] = ()) -> list[Row]:
    """Give a table's columns their meaning.

    Raises:
        DataError: Lists every row that cannot be used.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for index, record in enumerate(table.records):
        try:
            row = _row(
                _Reader(record, table.is_text), data, f"{table.path.stem}:{table.first + index + 1}", critical_labels
            )
        except _BadValueError as error:
            problems.append(Problem(table.place(index), str(error)))
            continue
        if row.id in seen:
            first = table.place(seen[row.id])
            problems.append(Problem(table.place(index), f"the id `{row.id}` is already that of {first}"))
        seen.setdefault(row.id, index)
        rows.append(row)
    if len(problems) > ROWS_SHOWN + 1:
        problems[ROWS_SHOWN:] = [Problem(shown(table.path), f"{len(problems) - ROWS_SHOWN} more rows cannot be used")]
    if problems:
        raise DataError(problems=problems)
    return rows


def _row(reader: "_Reader", data: Data, default_id: str, critical_labels: Collection[str]) -> Row:
    label = reader.name(data.label_column)
    return Row(
        id=reader.name(data.id_column) or default_id,
        **_CONTENT[data.format](reader, data),
        label=label,
        task=ALL if data.task_column is None else reader.required_name(data.task_column),
        context=_context(reader, data.context_columns),
        features=tuple(reader.number(column) for column in data.feature_columns),
        variances={teacher: reader.share(column) for teacher, column in data.variance_columns.items()},
        teacher=None if data.teacher_column is None else reader.name(data.teacher_column),
        critical=label in critical_labels or (data.critical_column is not None and reader.flag(data.critical_column)),
    )


def _context(reader: "_Reader", columns: list[str]) -> str:
    names = [reader.required_name(column) for column in columns]
    for column, name in zip(columns, names, strict=True):
        if len(names) > 1 and "/" in name:
            raise _BadValueError(f"column `{column}`: `{name[:60]}` holds `/`, which separates context columns")
    return "/".join(names) or ALL


def _messages(reader: "_Reader", _data: Data) -> dict[str, Any]:
    value = reader.record.get("messages")
    if not isinstance(value, list) or not value:
        raise _BadValueError(f"column `messages` must be a list of messages, not {_kind(value)}")
    for position, message in enumerate(value):
        if not isinstance(message, dict):
            raise _BadValueError(f"column `messages`: message {position} must be an object, not {_kind(message)}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise _BadValueError(
                    f"column `messages`: `{key}` of message {position} must be text, not {_kind(message.get(key))}"
                )
            _check_encodable("messages", message[key])
    if not any(message["role"] == "assistant" and message["content"].strip() for message in value):
        raise _BadValueError("column `messages` has no message of the role `assistant` to learn from")
    return {"messages": tuple({"role": message["role"], "content": message["content"]} for message in value)}


_CONTENT: dict[str, Callable[["_Reader", Data], dict[str, Any]]] = {
    "text": lambda reader, data: {"text": reader.text(data.text_column)},
    "classification": lambda reader, data: {"text": reader.text(data.text_column)},
    "messages": _messages,
    "prompt_completion": lambda reader, _: {"prompt": reader.text("prompt"), "completion": reader.text("completion")},
}


class _BadValueError(Exception):
    """A value that its column may not have; the message is for the user."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one record's columns as what they must be."""

    record: Record
    is_text: bool

    def text(self, column: str) -> str:
        value = self.record.get(column)
        if not isinstance(value, str):
            raise _BadValueError(f"column `{column}` must be text, not {_kind(value)}")
        if not value.strip():
            raise _BadValueError(f"column `{column}` is empty")
        _check_encodable(column, value)
        return value

    def name(self, column: str) -> str | None:
        """Return a name, None if there is none; whole numbers are names too."""
        value = self.record.get(column)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise _BadValueError(f"column `{column}` must be text, not {_kind(value)}")
        name = str(value)
        if not name.strip():
            raise _BadValueError(f"column `{column}` is blank")
        _check_encodable(column, name)
        return name

    def required_name(self, column: str) -> str:
        name = self.name(column)
        if name is None:
            raise _BadValueError(f"column `{column}` is empty")
        return name

    def number(self, column: str) -> float:
        value = self.record.get(column)
        if self.is_text and isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise _BadValueError(f"column `{column}` must be a number, not the text `{value[:60]}`") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _BadValueError(f"column `{column}` must be a number, not {_kind(value)}")
        if not abs(value) <= sys.float_info.max:  # infinite, NaN, or a whole number that no float holds
            raise _BadValueError(f"column `{column}` must be a finite number, not {_kind(value)}")
        return float(value)

    def share(self, column: str) -> float:
        value = self.number(column)
        if not 0 <= value <= 1:
            raise _BadValueError(f"column `{column}` must be between 0 and 1, not {value:g}")
        return value

    def flag(self, column: str) -> bool:
        value = self.record.get(column)
        if value is None or value == "":
            return False
        if self.is_text and isinstance(value, str):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
        if not (isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))):
            raise _BadValueError(f"column `{column}` must be true or false, not {_kind(value)}")
        return bool(value)


def _check_encodable(column: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _BadValueError(f"column `{column}`: character {error.start} is half of a surrogate pair") from error


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "nothing" if value is None else f"{kinds.get(type(value), type(value).__name__)} (`{str(value)[:40]}`)"
