"""One shard on disk: a Parquet file, and beside it a note of its hash that says it is whole."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mashbill.distributions.topk import TopK
from mashbill.durable import sha256_of, write_json, written_aside
from mashbill.errors import CorruptionError
from mashbill.shapes import Tensor
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.columns import REAL, WHOLE, Answered, decode, encode
from mashbill.teachers.store.plan import SHARDS, Plan, Shard

ROWS_AT_ONCE = 64
"""Rows of a row group: as many as one damaged page can make unreadable."""


@dataclass(frozen=True)
class Note:
    """What is known of a shard's file; written after it, so that it says that the file is whole.

    Attributes:
        sha256: Of its bytes.
        n_bytes: Its size.
        n_rows: Rows in it.
        n_positions: Positions in it.
        n_kept: Entries kept in it.
        encoded_bytes: Bytes before compression of ids and log-probabilities together.
        kept_mass: Sum over positions of the mass of what is kept.
        lost: Sum over positions of the KL divergence in nats from the teacher to what is kept with its tail spread
            evenly; None where the teacher's own entropy is not known.
    """

    sha256: str
    n_bytes: int
    n_rows: int
    n_positions: int
    n_kept: int
    encoded_bytes: int
    kept_mass: float
    lost: float | None


def path_of(folder: Path, shard: Shard) -> Path:
    """Return where a shard's file lies."""
    return folder / SHARDS / f"{shard.name}.parquet"


def write_shard(folder: Path, plan: Plan, shard: Shard, answered: Answered) -> Note:
    """Write a shard and then its note, each whole or not at all.

    Raises:
        OSError: The disk is full, or not to be written to; nothing is left behind.
    """
    table = encode(answered, plan.layout, _metadata(plan, shard))
    path = path_of(folder, shard)
    with written_aside(path) as aside:
        _write(aside, table)
        sha256, n_bytes = sha256_of(aside), aside.stat().st_size
        encoded_bytes = _encoded_bytes(aside)
    kept = decode(table, plan.layout, where=str(path)).scored
    topk = kept.distribution
    assert isinstance(topk, TopK), "it was encoded as one"
    lost = lost_nats(answered.scored, kept)
    note = Note(
        sha256,
        n_bytes,
        len(answered.row_ids),
        len(answered.positions),
        int(np.sum(table["n_kept"].combine_chunks().flatten().to_numpy())),
        encoded_bytes,
        float((1 - topk.log_tail.double().exp()).sum()),
        None if lost is None else float(lost.sum()),
    )
    write_json(path.with_suffix(".json"), asdict(note))
    return note


def read_note(folder: Path, shard: Shard) -> Note | None:
    """Return a shard's note; None if there is none, which means that the shard is still to be captured.

    Raises:
        CorruptionError: It is no note.
    """
    path = path_of(folder, shard).with_suffix(".json")
    try:
        note = Note(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CorruptionError(
            f"cannot read the note of shard {shard.name}: {error}",
            where=str(path),
            help="delete the note, and `mashbill capture` asks for these rows again",
        ) from error
    if (note.n_rows, note.n_positions) != (shard.n_rows, shard.n_positions):
        raise CorruptionError(f"the note of shard {shard.name} speaks of other rows", where=str(path))
    return note


def read_shard(folder: Path, plan: Plan, shard: Shard) -> Answered:
    """Return the answers of a shard, proved by the hash of its file, its pages and its rows.

    Raises:
        CorruptionError: The file is missing, or not what was written; names the file and the rows concerned.
    """
    path, note = path_of(folder, shard), read_note(folder, shard)
    if note is None:
        raise CorruptionError(
            f"shard {shard.name} of the store is missing",
            where=str(path),
            why=f"its {shard.n_rows:,} rows were never captured, or its note was deleted",
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
            raise _broken(path, shard, "belongs to another place or another store")
        answered = decode(file.read(), plan.layout, where=str(path))
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise _broken(path, shard, f"is no shard: {error}") from error
    if hashlib.sha256(b"".join(answered.content)).hexdigest() != shard.content:
        raise _broken(path, shard, "holds other rows than the plan names")
    return answered


def read_index(folder: Path, shard: Shard) -> Sequence[tuple[str, bytes]]:
    """Return the id of each of a shard's rows and the hash of what was asked, proving no more than their pages.

    Raises:
        CorruptionError: They cannot be read.
    """
    path = path_of(folder, shard)
    try:
        table = pq.read_table(path, columns=["row_id", "content"], page_checksum_verification=True)
        found = list(zip(table["row_id"].to_pylist(), table["content"].to_pylist(), strict=True))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _broken(path, shard, f"cannot be read: {error}") from error
    if len(found) != shard.n_rows:
        raise _broken(path, shard, f"holds {len(found):,} rows")
    return found


def lost_nats(given: Scored, kept: Scored) -> Tensor | None:
    """Return ``KL(teacher || kept, tail spread evenly)`` at each position in nats, ``[P]``.

    That is a cross-entropy less the teacher's entropy: what the teacher said where nothing was kept need not be known.
    None if its entropy is not exact. Rounding of the entropy can make it less than 0 by some 1e-6.
    """
    statistics, topk, full = given.statistics, kept.distribution, given.distribution
    assert isinstance(topk, TopK), "a store keeps nothing else"
    if not torch.equal(statistics.entropy, statistics.entropy_low):
        return None
    p, logprobs = torch.where(topk.ids < 0, 0, topk.logprobs.double().exp()), topk.logprobs.double()
    if isinstance(full, TopK):
        said = full.logprobs.double().exp().masked_fill(full.ids < 0, 0)
        at = (topk.ids.unsqueeze(-1) == full.ids.unsqueeze(-2)) & (topk.ids >= 0).unsqueeze(-1)
        p = (at * said.unsqueeze(-2)).sum(dim=-1)
    rest = 1 - p.sum(dim=-1)
    share = topk.log_tail_share().double()
    crossed = -(p * logprobs).sum(dim=-1) - torch.where(rest > 0, rest * share, 0)
    return crossed - statistics.entropy.double()


def _write(path: Path, table: pa.Table) -> None:
    # Neighbours in a sorted list differ by little, and so do row numbers: differences take fewer bits than numbers.
    encodings = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in WHOLE}
    encodings |= {f"{name}.list.element": "PLAIN" for name in REAL} | dict.fromkeys(("row_id", "content", "digest"), "PLAIN")
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
        why=f"it holds rows {shard.first:,} to {shard.first + shard.n_rows - 1:,}",
        help=f"delete `{path.name}` and `{path.stem}.json`, and `mashbill capture` asks for these rows again",
    )
