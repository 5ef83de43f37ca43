"""A data file some rows at a time, for work that must not hold all of it.

JSON Lines, Parquet and saved ``datasets`` are read piece by piece; JSON and CSV have to be read whole.
"""

import json
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mashbill.errors import CorruptionError, DataError, Problem
from mashbill.train.data import Row, rows_of
from mashbill.train.recipe import Data
from mashbill.train.sources import Table, json_lines, read_table, shown, table_of

if TYPE_CHECKING:
    import pyarrow

ROWS = 512
"""Rows of a piece."""


def read_row_pieces(path: Path, data: Data, *, critical_labels: Collection[str] = ()) -> Iterator[list[Row]]:
    """Read the rows of one data file, some at a time.

    What is remembered of a row that has been read is eight bytes: enough to see that an id stands there twice.

    Args:
        path: A file or folder that :func:`mashbill.train.sources.read_table` reads.
        data: Format and column names.
        critical_labels: As for :func:`mashbill.train.data.read_rows`.

    Raises:
        DataError: Names file, line or row, and column of what cannot be used.
        CorruptionError: The file's bytes do not match their checksums.
    """
    seen = array("q")
    for table in read_pieces(path):
        rows = rows_of(table, data, critical_labels=critical_labels)
        seen.extend(hash(row.id) for row in rows)
        yield rows
    hashes, counts = np.unique(np.frombuffer(seen, dtype=np.int64), return_counts=True)
    if (counts > 1).any():
        _refuse_twins(path, data, frozenset(hashes[counts > 1].tolist()))


def read_pieces(path: Path, *, n_rows: int = ROWS) -> Iterator[Table]:
    """Read a data file as tables of some rows each; ``table.first`` says how many rows come before.

    Raises:
        DataError: As :func:`mashbill.train.sources.read_table`.
        CorruptionError: Likewise.
    """
    read_table(path, limit=1)  # says what is wrong with a file that cannot be read at all
    if path.is_dir() or path.suffix.lower() == ".parquet":
        yield from _arrow_pieces(path, n_rows)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _line_pieces(path, n_rows)
    else:
        yield from _cut(read_table(path), n_rows)


def _line_pieces(path: Path, n_rows: int) -> Iterator[Table]:
    lines, first = json_lines(path), 0
    while some := list(islice(lines, n_rows)):
        problems = [record for _, record in some if isinstance(record, Problem)]
        if problems:
            raise DataError(problems=problems)
        records = [record for _, record in some if not isinstance(record, Problem)]
        yield Table(path, (), records, [number for number, _ in some], has_lines=True, first=first)
        first += len(some)


def _arrow_pieces(path: Path, n_rows: int) -> Iterator[Table]:
    import pyarrow

    first = 0
    try:
        schema, batches = _batches(path, n_rows)
        for batch in batches:
            for start in range(0, batch.num_rows, n_rows):
                table = table_of(path, schema, [batch.slice(start, n_rows)])
                yield replace(table, first=first, numbers=[first + number for number in table.numbers])
                first += len(table.records)
    except (pyarrow.ArrowException, OSError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CorruptionError(f"a page is damaged: {what}", where=shown(path)) from error


def _batches(path: Path, n_rows: int) -> "tuple[pyarrow.Schema, Iterable[pyarrow.RecordBatch]]":
    import pyarrow
    from pyarrow import parquet

    if not path.is_dir():
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        return file.schema_arrow, file.iter_batches(batch_size=n_rows)
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    streams = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(path / one["filename"]))) for one in state["_data_files"]]
    return streams[0].schema, (batch for stream in streams for batch in stream)


def _cut(table: Table, n_rows: int) -> Iterator[Table]:
    for start in range(0, len(table.records), n_rows):
        here = slice(start, start + n_rows)
        yield replace(table, records=table.records[here], numbers=table.numbers[here], first=start)


def _refuse_twins(path: Path, data: Data, hashes: frozenset[int]) -> None:
    """Read the file once more for the rows whose ids have one of these hashes, and refuse it if ids are equal."""
    places: dict[str, str] = {}
    for table in read_pieces(path):
        for index, row in enumerate(rows_of(table, data)):
            if hash(row.id) not in hashes:
                continue
            if row.id in places:
                what = f"the id `{row.id}` is already that of {places[row.id]}"
                raise DataError(problems=[Problem(table.place(index), what)])
            places[row.id] = table.place(index)
