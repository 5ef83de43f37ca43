"""One shard on disk: a Parquet file, and beside it a note of its hash that says it is whole."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mashbill.durable import json_text, sha256_of, write_json, written_aside
from mashbill.errors import CorruptionError
from mashbill.teachers.store.columns import REAL, WHOLE, Answered, Mixed, decode, encode
from mashbill.teachers.store.measuring import measured
from mashbill.teachers.store.plan import FILE, SHARDS, Plan, Shard, content_of_rows

ROWS_AT_ONCE = 64
"""Rows of a row group: as many as one damaged page can make unreadable."""
_AGAIN = "delete `{shard.name}.parquet` and `{shard.name}.json`, and `mashbill capture` asks for these rows again"


@dataclass(frozen=True)
class Note:
    """What is known of a shard's file; written after it, so that it says that the file is whole.

    Attributes:
        store: Digest of the plan that it was captured for.
        sha256: Of its bytes.
        n_bytes: Its size.
        n_rows: Rows in it.
        n_positions: Positions in it.
        encoded_bytes: Bytes before compression of ids and log-probabilities together.
        n_refused: Rows in it that the teacher cannot answer.
        n_answered: This and all others as in :class:`mashbill.teachers.store.measuring.Figures`.
    """

    store: str
    sha256: str
    n_bytes: int
    n_rows: int
    n_positions: int
    encoded_bytes: int
    n_refused: int
    n_answered: int
    n_kept: int
    kept_mass: float
    n_short: int
    n_measured: int
    lost: float | None


def path_of(folder: Path, shard: Shard) -> Path:
    """Return where a shard's file lies."""
    return folder / SHARDS / f"{shard.name}.parquet"


def write_shard(folder: Path, plan: Plan, shard: Shard, answered: Answered | Mixed) -> Note:
    """Write a shard and then its note, each whole or not at all.

    Raises:
        ValueError: These are not the shard's rows, or what is given is no distribution.
        OSError: The disk is full, or not to be written to; nothing is left behind.
    """
    path, metadata = path_of(folder, shard), _metadata(plan, shard)
    fresh = answered.fresh if isinstance(answered, Mixed) else answered
    table = encode(fresh, plan.layout, metadata)
    asked = whole = decode(table, plan.layout, where=str(path))
    if isinstance(answered, Mixed):
        table = answered.table(plan.layout, metadata)
        whole = decode(table, plan.layout, where=str(path))
    if content_of_rows(whole.row_ids, whole.content) != shard.content or len(whole.positions) != shard.n_positions:
        raise ValueError(f"these are not the {shard.n_rows:,} rows of shard {shard.name}, in their order")
    with written_aside(path) as aside:
        _write(aside, table)
        sha256, n_bytes, encoded_bytes = sha256_of(aside), aside.stat().st_size, _encoded_bytes(aside)
    figures = measured(fresh, asked.scored, whole, plan.layout)
    if isinstance(answered, Mixed):
        figures = figures.with_loss(answered.n_measured, answered.lost)
    note = Note(
        plan.digest,
        sha256,
        n_bytes,
        len(whole.row_ids),
        len(whole.positions),
        encoded_bytes,
        sum(bool(reason) for reason in whole.refused),
        **asdict(figures),
    )
    write_json(path.with_suffix(".json"), asdict(note))
    return note


def read_note(folder: Path, plan: Plan, shard: Shard) -> Note | None:
    """Return a shard's note; None if there is none, which means that the shard is still to be captured.

    Raises:
        CorruptionError: It is no note, or one of another store, or the shard's file is missing or of another size.
    """
    path = path_of(folder, shard).with_suffix(".json")
    try:
        text = path.read_text(encoding="utf-8")
        note = Note(**json.loads(text))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CorruptionError(
            f"cannot read the note of shard {shard.name}: {error}",
            where=str(path),
            why=f"the shard holds {shard.rows}",
            help=_AGAIN.format(shard=shard),
        ) from error
    if (note.n_rows, note.n_positions) != (shard.n_rows, shard.n_positions) or json_text(asdict(note)) != text:
        raise CorruptionError(
            f"the note of shard {shard.name} is not what was written",
            where=str(path),
            why=f"the shard holds {shard.rows}",
            help=_AGAIN.format(shard=shard),
        )
    file = path_of(folder, shard)
    if note.store != plan.digest:
        raise _broken(file, shard, f"belongs to another store than {FILE} speaks of")
    try:
        n_bytes = file.stat().st_size
    except OSError as error:
        raise _broken(file, shard, f"cannot be read: {error}") from error
    if n_bytes != note.n_bytes:
        raise _broken(file, shard, f"is not what was written: it has {n_bytes:,} bytes, not {note.n_bytes:,}")
    return note


def read_shard(folder: Path, plan: Plan, shard: Shard) -> Answered:
    """Return the answers of a shard, proved by the hash of its file, its pages and its rows.

    Raises:
        CorruptionError: The file is missing, or not what was written; names the file and the rows concerned.
    """
    return read_table(folder, plan, shard)[1]


def read_table(folder: Path, plan: Plan, shard: Shard) -> tuple[pa.Table, Answered]:
    """Return a shard's table as it was written, and the answers in it; see :func:`read_shard`."""
    path, note = path_of(folder, shard), read_note(folder, plan, shard)
    if note is None:
        raise CorruptionError(
            f"shard {shard.name} of the store is missing",
            where=str(path),
            why=f"it holds {shard.rows}; they were never captured, or the note {path.stem}.json was deleted",
            help="capture again; what is there is kept",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _broken(path, shard, f"cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != note.sha256:
        raise _broken(path, shard, "is not what was written", rows=_damaged_rows(content))
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        found = file.schema_arrow.metadata or {}
        if {k: found.get(k.encode(), b"").decode() for k in _metadata(plan, shard)} != _metadata(plan, shard):
            raise _broken(path, shard, f"belongs to another place, or to another store than {FILE} speaks of")
        table = file.read()
        answered = decode(table, plan.layout, where=str(path))
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise _broken(path, shard, f"is no shard: {error}") from error
    if content_of_rows(answered.row_ids, answered.content) != shard.content:
        raise _broken(path, shard, "holds other rows than the plan names")
    return table, answered


def read_index(folder: Path, shard: Shard) -> Sequence[tuple[str, bytes]]:
    """Return the id of each of a shard's rows and the hash of what was asked, proving no more than their pages.

    Raises:
        CorruptionError: They cannot be read.
    """
    return list(zip(*read_columns(folder, shard, ("row_id", "content")), strict=True))


def read_refused(folder: Path, shard: Shard) -> Sequence[tuple[str, str]]:
    """Return the id of each row that the teacher cannot answer, and why.

    Raises:
        CorruptionError: They cannot be read.
    """
    columns = read_columns(folder, shard, ("row_id", "refused"))
    return [(row_id, reason) for row_id, reason in zip(*columns, strict=True) if reason]


def _write(path: Path, table: pa.Table) -> None:
    # Neighbours in a sorted list differ by little, and so do row numbers: differences take fewer bits than numbers.
    encodings = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in WHOLE}
    encodings |= {f"{name}.list.element": "PLAIN" for name in REAL}
    encodings |= dict.fromkeys(("row_id", "content", "digest", "refused"), "PLAIN")
    pq.write_table(
        table,
        path,
        row_group_size=ROWS_AT_ONCE,
        compression="zstd",
        use_dictionary=False,
        column_encoding=encodings,
        write_page_checksum=True,
        write_statistics=False,
    )


def _encoded_bytes(path: Path) -> int:
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] in ("ids", "units"))


def _metadata(plan: Plan, shard: Shard) -> Mapping[str, str]:
    return {"store": plan.digest, "shard": shard.name}


def read_columns(folder: Path, shard: Shard, names: Sequence[str]) -> Sequence[list[Any]]:
    """Return some columns of a shard, proving no more than their pages.

    Raises:
        CorruptionError: They cannot be read.
    """
    path = path_of(folder, shard)
    try:
        table = pq.read_table(path, columns=list(names), page_checksum_verification=True)
        found = [table[name].to_pylist() for name in names]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _broken(path, shard, f"cannot be read: {error}") from error
    if table.num_rows != shard.n_rows:
        raise _broken(path, shard, f"holds {table.num_rows:,} rows")
    return found


def _damaged_rows(content: bytes) -> Sequence[str]:
    """Return the ids of rows that cannot be read; empty if nothing can be told."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        groups = file.num_row_groups
    except (pa.ArrowException, OSError, ValueError):
        return ()
    rows: list[str] = []
    for group in range(groups):
        try:
            file.read_row_group(group)
        except (pa.ArrowException, OSError, ValueError):
            try:
                rows += file.read_row_group(group, columns=["row_id"])["row_id"].to_pylist()
            except (pa.ArrowException, OSError, ValueError):
                rows.append(f"{ROWS_AT_ONCE * group} and the next {ROWS_AT_ONCE - 1}, counted from the shard's first")
    return rows


def _broken(path: Path, shard: Shard, what: str, *, rows: Sequence[str] = ()) -> CorruptionError:
    named = ", ".join(f"`{row}`" for row in rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
    return CorruptionError(
        f"shard {shard.name} of the store {what}" + (f": row {named}" if rows else ""),
        where=str(path),
        why=f"it holds {shard.rows}",
        help=_AGAIN.format(shard=shard),
    )
