"""Where in some stores a row lies: sixteen bytes a row in memory, however large the stores are."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mashbill.teachers.store.files import read_index
from mashbill.teachers.store.plan import Plan, Shard


@dataclass(frozen=True)
class Finder:
    """The rows of some shards by id and by what was asked.

    Attributes:
        shards: All shards of all stores.
        keys: Sorted, uint64; two rows may share one, though hardly ever.
        number: The shard of each key, in ``shards``.
        row: Place in the shard.
    """

    shards: Sequence[tuple[Path, Shard]]
    keys: np.ndarray
    number: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, plans: dict[Path, Plan]) -> "Finder":
        """Read ids and hashes of all rows, shard by shard.

        Raises:
            CorruptionError: A shard cannot be read.
        """
        shards = [(folder, shard) for folder, plan in plans.items() for shard in plan.shards]
        total = sum(shard.n_rows for _, shard in shards)
        keys, number, row = np.empty(total, np.uint64), np.empty(total, np.int32), np.empty(total, np.int32)
        start = 0
        for place, (folder, shard) in enumerate(shards):
            here = slice(start, start + shard.n_rows)
            keys[here] = [_key(row_id, content) for row_id, content in read_index(folder, shard)]
            number[here], row[here] = place, np.arange(shard.n_rows)
            start += shard.n_rows
        order = keys.argsort(kind="stable")
        return cls(shards, keys[order], number[order], row[order])

    def places(self, row_id: str, content: bytes) -> Iterator[tuple[Path, Shard, int]]:
        """Yield where a row may lie; whoever asks compares it with what is there."""
        key = _key(row_id, content)
        for at in range(*(int(np.searchsorted(self.keys, key, side)) for side in ("left", "right"))):
            folder, shard = self.shards[int(self.number[at])]
            yield folder, shard, int(self.row[at])

    def names(self, row_id: str) -> bool:
        """Say whether any row has this id, whatever was asked about it; reads every shard's ids."""
        return any(row_id == known for folder, shard in self.shards for known, _ in read_index(folder, shard))


def _key(row_id: str, content: bytes) -> np.uint64:
    digest = hashlib.blake2b(row_id.encode("utf-8", "surrogatepass") + b"\0" + content, digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
