"""Who does which shard: workers on one machine that never speak to each other and never do the same shard twice.

A claim is a lock on one byte of one file, which the system takes back from a process that dies, however it dies.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = ".claims"


class Claims:
    """The claims of this process on the shards of a store.

    Locks belong to processes: two threads of one process would both get a shard.

    Args:
        folder: Of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)

    @contextmanager
    def claimed(self, number: int) -> Iterator[bool]:
        """Say whether a shard is this process's; it is until the block ends."""
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:  # somebody else's
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._handle)
