"""Answers that lie in stores already, found by what was asked: nobody is paid twice for the same question."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from mashbill.teachers.store.columns import Answered, Mixed, decode
from mashbill.teachers.store.files import read_columns, read_note, read_table
from mashbill.teachers.store.plan import Plan

_MOST_SHARDS = 2
# In memory: rows that are asked about again mostly stand in the order in which they stood before.


class Known:
    """The answered rows of some stores of one teacher; sixteen bytes a row in memory.

    Args:
        stores: Where they lie, and their plans. Shards that are not there yet hold nothing.

    Attributes:
        keys: The first eight bytes of what was asked about each row, sorted.

    Raises:
        CorruptionError: A note or a shard cannot be read.
    """

    def __init__(self, stores: Mapping[Path, Plan]) -> None:
        each = [(folder, plan, shard) for folder, plan in stores.items() for shard in plan.shards]
        self._shards = [one for one in each if read_note(*one) is not None]
        keys, numbers, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for number, (folder, _, shard) in enumerate(self._shards):
            contents, refused = read_columns(folder, shard, ("content", "refused"))
            here = [row for row in range(len(contents)) if not refused[row]]
            keys.append(keys_of([contents[row] for row in here]))
            numbers.append(np.full(len(here), number, np.int32))
            rows.append(np.array(here, np.int32))
        order = np.concatenate(keys).argsort(kind="stable")
        self.keys = np.concatenate(keys)[order]
        self._numbers, self._rows = np.concatenate(numbers)[order], np.concatenate(rows)[order]
        self._read = lru_cache(maxsize=_MOST_SHARDS)(lambda number: read_table(*self._shards[number]))

    def has(self, keys: np.ndarray) -> np.ndarray:
        """Say which keys are those of rows that were answered."""
        return np.isin(keys, self.keys)

    def answer(self, content: bytes) -> Answered:
        """Return the answer to a row that was answered.

        Raises:
            CorruptionError: Its shard is not what was written.
        """
        [(number, _, rows)] = self._places([content])
        table, _ = self._read(number)
        folder, plan, _ = self._shards[number]
        return decode(table.take(rows), plan.layout, where=str(folder))

    def answers(self, row_ids: Sequence[str], contents: Sequence[bytes], ask: "AskRows") -> Answered | Mixed:
        """Return the answers to some rows: as they were written where they are known, and else by asking.

        Args:
            row_ids: Of each row.
            contents: The hash of what is asked about each.
            ask: Asks about the rows at some of these places.

        Raises:
            CorruptionError: A shard is not what was written.
        """
        taken: list[int] = []
        parts: list[pa.Table] = []
        n_measured, lost = 0.0, 0.0
        for number, places, rows in self._places(contents):
            table, answered = self._read(number)
            right = [n for n, row in enumerate(rows) if answered.content[row] == contents[places[n]]]
            chosen = [rows[n] for n in right]
            taken += [places[n] for n in right]
            parts.append(table.take(chosen).replace_schema_metadata(None))
            note = read_note(*self._shards[number])
            assert note is not None, "only such shards are here"
            share = _share(answered, chosen)
            n_measured += share * note.n_measured
            lost = None if lost is None or note.lost is None else lost + share * note.lost
        if not taken:
            return ask(range(len(contents)))
        left = sorted(set(range(len(contents))) - set(taken))
        order = np.argsort([*left, *taken])
        return Mixed(tuple(row_ids), ask(left), pa.concat_tables(parts), order, math.ceil(n_measured), lost)

    def _places(self, contents: Sequence[bytes]) -> Sequence[tuple[int, list[int], list[int]]]:
        """Return the shards that hold some of the rows, which of the rows those are, and where they lie there."""
        keys = keys_of(contents)
        here = np.flatnonzero(self.has(keys))
        at = np.searchsorted(self.keys, keys[here])
        numbers = self._numbers[at]
        return [
            (int(number), here[numbers == number].tolist(), self._rows[at[numbers == number]].tolist())
            for number in np.unique(numbers)
        ]


AskRows = Callable[[Sequence[int]], Answered]
"""Asks about some of the rows that are at hand, by their places."""


def keys_of(contents: Sequence[bytes]) -> np.ndarray:
    """Return the first eight bytes of some hashes as numbers."""
    return np.array([int.from_bytes(content[:8], "little") for content in contents], dtype=np.uint64)


def _share(answered: Answered, rows: Sequence[int]) -> float:
    """Return how much of a shard's answered positions some of its rows have."""
    lengths = np.diff(answered.starts)
    whole = lengths[np.array([not reason for reason in answered.refused], dtype=bool)].sum()
    return float(lengths[list(rows)].sum() / max(1, whole))
