"""Chunks of rows on several processor cores: one thread a chunk, and one core to each operation inside.

Small operations that each use all cores wait for one another at every end; beside other programs they wait for a time
slice of the scheduler, some hundred times longer than they work. Chunks do not wait. Their number does not depend on
the number of threads, so neither does any bit of the result.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import torch

_Chunk = TypeVar("_Chunk")


def spread(chunks: Sequence[_Chunk], start: Callable[[], Callable[[_Chunk], object]], *, device: torch.device) -> None:
    """Work on all chunks, as many at a time as PyTorch has threads on the CPU, one after the other elsewhere.

    Args:
        chunks: What to work on; no two may write to the same place.
        start: Returns a worker with buffers of its own; called once for each thread.
        device: Where the chunks are.
    """
    wanted = torch.get_num_threads() if device.type == "cpu" else 1
    n_threads = min(wanted, len(chunks))
    if wanted == 1 or n_threads == 0:
        work = start()
        for chunk in chunks:
            work(chunk)
        return
    left = iter(chunks)
    if (end := _openmp(os.getpid())) is not None:
        end(_SOFT)

    @torch.no_grad()  # a thread of its own begins with gradients
    def run() -> None:
        torch.get_num_threads()  # The first call in a thread takes over the setting of others.
        torch.set_num_threads(1)
        try:
            work = start()
            while (chunk := next(left, None)) is not None:
                work(chunk)
        finally:
            _drain(left)  # Where one fails the others stop.

    # A single chunk, too: several cores inside an operation would add up in another order than one.
    running: list[Future[None]] = [_threads().submit(run) for _ in range(n_threads)]
    try:
        for one in running:
            one.result()
    finally:
        _drain(left)
        wait(running)  # What is interrupted must not be written to any more.
        torch.set_num_threads(wanted)  # The threads' own setting would be that of threads yet to come.


_FORKED = 0x40  # PF_FORKNOEXEC of Linux
_SOFT = 1  # omp_pause_soft: threads end, what they hold of a program stays


@functools.cache
def _openmp(_process: int) -> Callable[[int], int] | None:
    """Return what ends the threads that PyTorch's operations leave waiting; None where they are not GNU's.

    After each operation they spin for about 10 ms on the cores that chunks are to have. Making them again takes 50
    microseconds, and only after they were used. A process that was forked has none of its parent's, and waiting for
    their end would have no end.
    """
    if not sys.platform.startswith("linux") or _is_forked():
        return None
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    for name in ("libgomp.so.1", *map(str, bundled)):
        try:  # that which is loaded, and no other
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW).omp_pause_resource_all
        except (OSError, AttributeError):  # not loaded, or from before GCC 9
            continue
    return None


def _is_forked() -> bool:
    try:
        *_, after_name = Path("/proc/self/stat").read_text().rpartition(")")
    except OSError:  # not to be known
        return True
    return bool(int(after_name.split()[6]) & _FORKED)


def _drain(chunks: Iterator[_Chunk]) -> None:
    for _ in chunks:
        pass


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="mashbill-rows")


# Threads do not survive a fork, and a pool without them would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)
