"""Several jobs at once, in threads that nobody has to wait for.

The executors of the standard library are joined when the interpreter ends, so that one silent server would hold up an
interrupted command for as long as its timeout. What these threads do can be abandoned at any moment.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def at_once(jobs: Sequence[Callable[[], Result]], *, n: int) -> Iterator[tuple[int, Result | Exception]]:
    """Yield the place of each job and what it returns or raises, as they end; at most ``n`` are under way.

    A caller that stops iterating abandons the rest: what is under way is let go, and nothing is begun.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Result | Exception]] = queue.SimpleQueue()
    for place in range(len(jobs)):
        waiting.put(place)
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((place, jobs[place]()))
            except Exception as error:  # whatever a job raises is for the caller to judge
                done.put((place, error))

    try:
        for _ in range(min(n, len(jobs))):
            threading.Thread(target=work, daemon=True).start()
        for _ in jobs:
            yield done.get()
    finally:
        is_over.set()
