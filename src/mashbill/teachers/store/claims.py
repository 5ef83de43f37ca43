"""Who does which shard: workers on one machine that never speak to each other and never do the same shard twice.

A claim is a lock on one byte of one file, which the system takes back from a process that dies, however it dies.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mashbill.errors import MashbillError

FILE = ".claims"
_FOLDER = 2**30
# The byte that stands for the folder itself; shards have the bytes of their numbers.


class Claims:
    """The claims of this process on the shards of a store.

    Locks belong to processes: two threads of one process would both get a shard.

    Args:
        folder: Of the store.

    Raises:
        MashbillError: Nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        try:
            self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise MashbillError(
                f"cannot write a store to `{folder}`: {error.strerror or error}", help="choose another `store`"
            ) from error

    @contextmanager
    def claimed(self, number: int) -> Iterator[bool]:
        """Say whether a shard is this process's; it is until the block ends.

        Raises:
            MashbillError: The disk knows no locks.
        """
        is_mine = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, number)
        try:
            yield is_mine
        finally:
            if is_mine:
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, number)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody else writes into the folder itself, beside its shards; nobody does until the block ends.

        Raises:
            MashbillError: The disk knows no locks.
        """
        self._lock(fcntl.LOCK_EX, _FOLDER)
        try:
            yield
        finally:
            fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, _FOLDER)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._handle)

    def _lock(self, how: int, byte: int) -> bool:
        try:
            fcntl.lockf(self._handle, how, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # somebody else's
                return False
            raise MashbillError(
                f"cannot lock a file: {error.strerror or error}",
                where=str(self._file),
                why="workers share the work by locks, and some network disks are mounted without them",
                help="mount the disk with locks, or choose a `store` on another one",
            ) from error
        return True
