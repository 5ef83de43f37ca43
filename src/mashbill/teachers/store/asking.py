"""What a teacher is asked about some rows, and its answers to them as a store keeps them.

While a store is filled, the questions of each shard lie in a hidden folder inside it: a worker reads those of the shard
that it has claimed, so that nobody holds all rows, however many there are.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.durable import name_aside
from mashbill.errors import CorruptionError, TeacherError
from mashbill.teachers.positions import joined, part_of
from mashbill.teachers.protocol import Inputs, Scored, Teacher
from mashbill.teachers.store.columns import Answered
from mashbill.teachers.store.content import content_of
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Shard, content_of_rows

FOLDER = ".asked"
_TRIES = 100
# As often questions are laid down again whose folder another command has removed meanwhile.
_PADDING = -100
# Label of a position that has none, as in the inputs of a teacher.


@dataclass(frozen=True)
class Asked:
    """Some rows as teachers see them, not padded.

    Attributes:
        row_ids: Of each row.
        texts: Of each row.
        tokens: Student token ids of each row; None for a classifier.
        labels: Of each row, one a position.
        places: Which positions of each row count.
    """

    row_ids: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: tuple[np.ndarray, ...] | None
    labels: tuple[np.ndarray, ...]
    places: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.row_ids)

    def inputs(self, rows: Sequence[int]) -> Inputs:
        """Return some rows as one batch, padded on the right."""
        width = max(len(self.labels[row]) for row in rows)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for b, row in enumerate(rows):
            mask[b, self.places[row]] = True
        return Inputs(
            tuple(self.row_ids[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            None if self.tokens is None else _padded([self.tokens[row] for row in rows], width, 0),
            _padded([self.labels[row] for row in rows], width, _PADDING),
            mask,
        )

    def rows(self, start: int, stop: int) -> "Asked":
        """Return the rows from one place to another."""
        here = slice(start, stop)
        tokens = None if self.tokens is None else self.tokens[here]
        return Asked(self.row_ids[here], self.texts[here], tokens, self.labels[here], self.places[here])

    @classmethod
    def joined(cls, each: Sequence["Asked"]) -> "Asked":
        """Put rows one after the other."""
        tokens = None if any(one.tokens is None for one in each) else tuple(t for one in each for t in one.tokens or ())
        return cls(
            tuple(row for one in each for row in one.row_ids),
            tuple(row for one in each for row in one.texts),
            tokens,
            tuple(row for one in each for row in one.labels),
            tuple(row for one in each for row in one.places),
        )

    def contents(self) -> list[bytes]:
        """Return the hash of what is asked about each row."""
        found: list[bytes] = []
        for start in range(0, len(self), 256):
            inputs = self.inputs(range(start, min(len(self), start + 256)))
            found += [content_of(inputs, row) for row in range(len(inputs.row_ids))]
        return found

    @property
    def n_bytes(self) -> int:
        """About what they take on the disk until they are answered; a text that follows itself counts once."""
        texts = sum(len(text) for text, before in zip(self.texts, ("", *self.texts), strict=False) if text != before)
        return texts + sum(8 * len(row) + 64 for row in self.labels)


def answer(teacher: Teacher, asked: Asked, layout: Layout, *, batch_size: int) -> Answered:
    """Ask a teacher about some rows, those of like length together, and return its answers in the rows' order.

    Raises:
        TeacherError: What the teacher raises.
            Also if it gave a number that is not finite; names row and position.
    """
    lengths = np.array([len(row) for row in asked.labels])
    starts = list(accumulate(map(len, asked.places), initial=0))
    order = np.argsort(lengths, kind="stable")
    parts, where, refused = [_nothing(layout)], [np.zeros(0, np.int64)], [""] * len(asked)
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size].tolist()
        inputs = asked.inputs(rows)
        if not bool(inputs.mask.any()):
            continue
        scored = _listed(teacher.score(inputs), layout.k)
        _require_finite(teacher.id, scored, inputs)
        for b, reason in scored.refused.items():
            refused[rows[b]] = reason or "refused"
        parts.append(part_of(scored, inputs.mask))
        where.append(np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows]))
    return Answered(
        asked.row_ids,
        tuple(asked.contents()),
        tuple(_read_of(asked, row) for row in range(len(asked))),
        np.array(starts),
        np.concatenate([*asked.places, np.zeros(0, np.int64)]),
        part_of(joined(parts), torch.from_numpy(np.concatenate(where).argsort())),
        tuple(refused),
    )


def write_asked(folder: Path, shard: Shard, asked: Asked) -> None:
    """Lay the questions of a shard down where :func:`read_asked` finds them."""
    path = _path(folder, shard)
    lists = {"tokens": asked.tokens or [()] * len(asked), "labels": asked.labels, "places": asked.places}
    columns = {"row_id": pa.array(asked.row_ids, pa.string()), "text": pa.array(asked.texts, pa.string())}
    columns |= {name: pa.array([np.asarray(row) for row in rows], pa.list_(pa.int32())) for name, rows in lists.items()}
    about = {"has_tokens": str(asked.tokens is not None)}
    table, aside = pa.table(columns).replace_schema_metadata(about), name_aside(path)
    try:
        for left in reversed(range(_TRIES)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(table, aside, compression="zstd", write_statistics=False)
                aside.replace(path)  # not synced: what a power loss takes is read from the data again
                break
            except FileNotFoundError:  # another command is done, and has tidied up
                if not left:
                    raise
    finally:
        aside.unlink(missing_ok=True)


def has_asked(folder: Path, shard: Shard) -> bool:
    """Say whether the questions of a shard are there."""
    return _path(folder, shard).exists()


def read_asked(folder: Path, shard: Shard) -> Asked:
    """Return the questions of a shard.

    Raises:
        CorruptionError: They are not there, or not those of the plan.
    """
    path = _path(folder, shard)
    try:
        table = pq.read_table(path, read_dictionary=["text"])
        lists = {name: _rows_of(table[name]) for name in ("tokens", "labels", "places")}
        has_tokens = (table.schema.metadata or {})[b"has_tokens"] == b"True"
        asked = Asked(
            tuple(table["row_id"].to_pylist()),
            _texts_of(table["text"]),
            lists["tokens"] if has_tokens else None,
            lists["labels"],
            lists["places"],
        )
        is_right = content_of_rows(asked.contents()) == shard.content
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise _unknown(path, shard, str(error)) from error
    if not is_right:
        raise _unknown(path, shard, "they are other rows")
    return asked


def forget_asked(folder: Path, shards: Iterable[Shard]) -> None:
    """Remove the questions of shards that are there, whoever laid them down, and the folder if it is empty then.

    Another command may be laying them down meanwhile: it finds its file or the folder gone, and tries again.
    """
    names = tuple(f"{shard.name}-" for shard in shards)
    with suppress(OSError):  # the folder is not there, or others' questions are in it
        for name in os.listdir(folder / FOLDER):
            if name.removeprefix(".").startswith(names):
                (folder / FOLDER / name).unlink(missing_ok=True)
        (folder / FOLDER).rmdir()


def _path(folder: Path, shard: Shard) -> Path:
    # The name says what is in it: what another version of the rows left there is never read.
    return folder / FOLDER / f"{shard.name}-{hashlib.sha256(shard.content.encode()).hexdigest()[:16]}.parquet"


def _unknown(path: Path, shard: Shard, why: str) -> CorruptionError:
    path.unlink(missing_ok=True)  # what is missing is laid down again
    return CorruptionError(
        f"what is to be asked about {shard.rows} cannot be read",
        where=str(path),
        why=why,
        help="give the same command again: it reads the data anew and keeps every shard that is there",
    )


def _rows_of(column: pa.ChunkedArray) -> tuple[np.ndarray, ...]:
    whole = column.combine_chunks()
    values, offsets = whole.flatten().to_numpy(zero_copy_only=False).astype(np.int64), whole.offsets.to_numpy()
    return tuple(np.split(values, (offsets - offsets[0])[1:-1])) if len(whole) else ()


def _texts_of(column: pa.ChunkedArray) -> tuple[str, ...]:
    found: list[str] = []
    for chunk in column.chunks:  # blocks of one long text share it
        names = chunk.dictionary.to_pylist()
        found += [names[place] for place in chunk.indices.to_pylist()]
    return tuple(found)


def _padded(rows: Sequence[np.ndarray], width: int, fill: int) -> torch.Tensor:
    out = torch.full((len(rows), width), fill, dtype=torch.long)
    for b, row in enumerate(rows):
        out[b, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.int64))
    return out


def _read_of(asked: Asked, row: int) -> np.ndarray:
    """Return the tokens that a causal model has to read of a row: those up to its last position that counts."""
    if asked.tokens is None or not len(asked.places[row]):
        return np.zeros(0, np.int32)
    return asked.tokens[row][: int(asked.places[row][-1]) + 1]


def _listed(scored: Scored, k: int) -> Scored:
    if isinstance(scored.distribution, TopK):
        return scored
    return Scored(TopK.from_logprobs(scored.distribution.logprobs, k=k), scored.statistics, scored.refused)


def _require_finite(teacher_id: str, scored: Scored, inputs: Inputs) -> None:
    topk, statistics = scored.distribution, scored.statistics
    assert isinstance(topk, TopK), "made one before"
    total = topk.logprobs.sum(dim=-1) + topk.log_tail + statistics.class_mass.sum(dim=-1)
    for name in ("entropy", "entropy_low", "gini", "margin", "max_logprob"):
        total = total + getattr(statistics, name)
    bad = ~total.isfinite() & inputs.mask  # no term is large, so a sum is finite exactly if every term is
    if bool(bad.any()):
        row, position = (int(n) for n in bad.nonzero()[0])
        raise TeacherError(
            f"teacher `{teacher_id}` gave a value that is not finite",
            where=f"row `{inputs.row_ids[row]}`, position {position}",
            why="what is no distribution is not kept",
            help="look at the teacher's output for that row; remove the row, or load the teacher in float32",
        )


def _nothing(layout: Layout) -> Scored:
    none = torch.zeros(0)
    topk = TopK(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1), none, layout.n_entries)
    numbers = {f.name: none for f in fields(Statistics) if f.name != "class_mass"}
    return Scored(topk, Statistics(**numbers, class_mass=torch.zeros(0, len(layout.classes))))
