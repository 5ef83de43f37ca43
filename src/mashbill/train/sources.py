"""Rows from files, as plain values with the place of each: JSON Lines, JSON, CSV, Parquet, and saved ``datasets``.

Nothing is interpreted here beyond the file's own format; :mod:`mashbill.train.data` knows what columns mean.
A folder written by ``datasets.Dataset.save_to_disk`` is read with pyarrow alone, which is what it is made of.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mashbill.errors import MAX_SHOWN, CorruptionError, DataError, Problem

if TYPE_CHECKING:
    import pyarrow

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """What a data file holds.

    Attributes:
        path: The file or folder.
        columns: Every column that some row has, in order of first appearance.
        records: One mapping of column to plain value a row.
        numbers: Line or row number of each record, from 1.
        has_lines: Whether ``numbers`` are lines of a text file.
        is_text: Whether every value is text because the format knows nothing else (CSV).
        is_complete: Whether all rows were read, not only the first ones.
        first: Rows of the file that come before these.
    """

    path: Path
    columns: tuple[str, ...]
    records: list[Record]
    numbers: list[int]
    has_lines: bool
    is_text: bool = False
    is_complete: bool = True
    first: int = 0

    def place(self, index: int) -> str:
        """Return where a record stands: ``file:line``, or ``file row n`` where there are no lines."""
        mark = ":" if self.has_lines else " row "
        return f"{shown(self.path)}{mark}{self.numbers[index]}"


def read_table(path: Path, *, limit: int | None = None) -> Table:
    """Read a data file.

    Args:
        path: ``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv``, ``.parquet`` or a folder saved by ``datasets``.
        limit: Read this many rows at most.

    Raises:
        DataError: Missing, empty, of an unknown kind, or not what its name says; names line, column or byte.
        CorruptionError: A Parquet page does not match its checksum.
    """
    if path.is_dir():
        return _folder(path, limit)
    if not path.exists():
        raise DataError("no such file", where=shown(path), help=_nearby(path))
    readers = {
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"cannot tell what kind of data `{path.suffix or path.name}` is",
            where=shown(path),
            help=f"give it one of these endings: {', '.join(readers)}, or name a folder saved by `datasets`",
        )
    try:
        table = reader(path, limit)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=shown(path)) from error
    if not table.records:
        raise DataError("the file holds no rows", where=shown(path))
    return table


def shown(path: Path) -> str:
    """Return a path as short as it is clear: relative to the working folder if it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {shown(path.parent)} does not exist either; paths are relative to the recipe's folder"
    others = sorted(other.name for other in path.parent.iterdir() if not other.name.startswith("."))[:8]
    return f"in that folder: {', '.join(others) or 'nothing'}"


def _json_lines(path: Path, limit: int | None) -> Table:
    each = list(islice(json_lines(path), None if limit is None else limit + 1))
    wanted = each[:limit]
    problems = [record for _, record in wanted if isinstance(record, Problem)]
    if problems:
        raise DataError(problems=problems[:MAX_SHOWN])
    records = [record for _, record in wanted if not isinstance(record, Problem)]
    numbers = [number for number, _ in wanted]
    return Table(path, _columns(records), records, numbers, has_lines=True, is_complete=len(wanted) == len(each))


def json_lines(path: Path) -> Iterator[tuple[int, Record | Problem]]:
    """Yield the number of each line that is not blank, and its object or what is wrong with it."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            start, offset = offset, offset + len(raw)
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield number, _parsed(line, start + len(raw) - len(line), f"{shown(path)}:{number}")


def _parsed(line: bytes, offset: int, place: str) -> Record | Problem:
    try:
        value = _loads(_decoded(line, offset))
    except _BadTextError as error:
        return Problem(place, str(error))
    if not isinstance(value, dict):
        return Problem(place, 'a line must be one JSON object, such as {"text": "..."}')
    return value


def _json(path: Path, limit: int | None) -> Table:
    try:
        value = _loads(_decoded(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), 0))
    except _BadTextError as error:
        raise DataError(str(error), where=shown(path), help="one JSON object a line? call the file .jsonl") from error
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError("must hold one JSON list of objects", where=shown(path))
    return _numbered(path, _columns(value), value[:limit], is_complete=limit is None or len(value) <= limit)


def _csv(path: Path, limit: int | None) -> Table:
    try:
        text = _decoded(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), 0)
        return _csv_rows(path, text, limit)
    except (_BadTextError, csv.Error) as error:
        raise DataError(str(error), where=shown(path)) from error


def _csv_rows(path: Path, text: str, limit: int | None) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    header = next(reader, [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"two columns are called `{twice[0]}`", where=f"{shown(path)}:1")
    records: list[Record] = []
    numbers: list[int] = []
    for fields in reader:
        if limit is not None and len(records) >= limit:
            return Table(path, tuple(header), records, numbers, has_lines=True, is_text=True, is_complete=False)
        if not fields:
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{len(fields)} fields, but the header names {len(header)}",
                where=f"{shown(path)}:{reader.line_num}",
                help="text with commas or line breaks belongs in double quotes",
            )
        records.append(dict(zip(header, fields, strict=True)))
        numbers.append(reader.line_num)
    return Table(path, tuple(header), records, numbers, has_lines=True, is_text=True)


def _parquet(path: Path, limit: int | None) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"is not a Parquet file: {_first_line(error)}", where=shown(path)) from error
    try:
        return table_of(path, file.schema_arrow, file.iter_batches(batch_size=1024), limit)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptionError(f"a page is damaged: {_first_line(error)}", where=shown(path)) from error


def _folder(path: Path, limit: int | None) -> Table:
    import pyarrow

    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        files = [path / entry["filename"] for entry in state["_data_files"]]
        if any(file.parent != path for file in files):
            raise DataError("state.json names a file outside the folder", where=shown(path))
        streams = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))) for file in files]
        batches = (batch for stream in streams for batch in stream)
        table = table_of(path, streams[0].schema, batches, limit) if streams else _numbered(path, (), [])
    except FileNotFoundError as error:
        splits = sorted(str(inner.parent.name) for inner in path.glob("*/state.json"))
        advice = (
            f"it holds the splits {', '.join(splits)}: name one" if splits else "give a file, or save_to_disk there"
        )
        raise DataError("is a folder, but not one saved dataset", where=shown(path), help=advice) from error
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is not a dataset that can be read: {_first_line(error)}", where=shown(path)) from error
    if not table.records:
        raise DataError("the dataset holds no rows", where=shown(path))
    return table


def table_of(
    path: Path, schema: "pyarrow.Schema", batches: "Iterable[pyarrow.RecordBatch]", limit: int | None = None
) -> Table:
    """Return the rows of some record batches as a table."""
    classes = _class_names(schema)
    rows = (record for batch in batches for record in batch.to_pylist())
    wanted = list(islice(rows, None if limit is None else limit + 1))
    records = [_named(record, classes) for record in wanted[:limit]]
    return _numbered(path, tuple(schema.names), records, is_complete=limit is None or len(wanted) <= limit)


def _class_names(schema: "pyarrow.Schema") -> dict[str, list[str]]:
    """Return the names behind integer columns that ``datasets`` marks as ``ClassLabel``."""
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(stored)["info"]["features"]
        return {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # somebody else's note, in a form of its own


def _named(record: Record, classes: Mapping[str, list[str]]) -> Record:
    names = {column: _class_name(record.get(column), known) for column, known in classes.items()}
    return {**record, **names}


def _class_name(value: Any, names: list[str]) -> Any:
    if not isinstance(value, int) or value >= len(names):
        return value
    return names[value] if value >= 0 else None


def _numbered(path: Path, columns: tuple[str, ...], records: list[Record], *, is_complete: bool = True) -> Table:
    numbers = list(range(1, len(records) + 1))
    return Table(path, columns, records, numbers, has_lines=False, is_complete=is_complete)


def _columns(records: list[Record]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for record in records for key in record))


class _BadTextError(Exception):
    """Bytes that are no UTF-8, or text that is no JSON; the message is for the user."""


def _decoded(raw: bytes, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise _BadTextError(f"byte {offset + error.start} (0x{byte:02x}) is not UTF-8; save as UTF-8") from error


def _loads(text: str) -> Any:
    try:
        return _DECODER(text)
    except json.JSONDecodeError as error:
        raise _BadTextError(f"column {error.colno}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deep, an endless number, or NaN
        raise _BadTextError(f"not valid JSON: {_first_line(error)}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_DECODER: Callable[[str], Any] = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
