"""Chunks of rows on several processor cores: one thread a chunk, and one core to each operation inside.

Small operations that each use all cores wait for one another at every end; beside other programs they wait for a time
slice of the scheduler, some hundred times longer than they work. Chunks do not wait. Their number does not depend on
the number of threads, so neither does any bit of the result.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
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


def _drain(chunks: Iterator[_Chunk]) -> None:
    for _ in chunks:
        pass


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="mashbill-rows")


# Threads do not survive a fork, and a pool without them would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)
