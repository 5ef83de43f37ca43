"""Times of several functions side by side, and what they say."""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

PATIENCE = 12.0
"""Seconds of turns after which a function takes no further one: some take a hundred times as long as others."""
LEAST = 3
"""Turns that everybody takes all the same."""


def interleaved(
    work: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    before: Callable[[], None] | None = None,
    device: str = "cpu",
    is_warm: bool = False,
    always: Collection[str] = (),
) -> dict[str, list[tuple[float, float]]]:
    """Time functions in turn, each once a round, in an order that shifts from round to round.

    Each is called once before the first round. Who has had ``PATIENCE`` seconds takes no further turn, but everybody
    takes ``LEAST``.

    Args:
        work: The functions by name.
        repeats: Rounds, at most.
        is_warm: The functions have been called before.
        before: Called before each function, outside its time.
        device: Where the work happens; a GPU is waited for.
        always: Who takes every turn, however slow: whom the others are compared with.

    Returns:
        Wall and processor seconds of each turn.
    """
    names = list(work)
    for name in [] if is_warm else names:
        _ = before and before()
        work[name]()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    gc.collect()
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            spent = sum(wall for wall, _ in samples[name])
            if turn >= LEAST and spent > PATIENCE and name not in always:
                continue
            _ = before and before()
            samples[name].append(once(work[name], device))
    return samples


def once(function: Callable[[], object], device: str = "cpu") -> tuple[float, float]:
    """Return wall and processor seconds of one call."""
    wait(device)
    wall, processor = time.perf_counter(), time.process_time()
    function()
    wait(device)
    return time.perf_counter() - wall, time.process_time() - processor


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


@contextmanager
def competitor(active: bool) -> Iterator[subprocess.Popen | None]:
    """Keep one other process busy on one core meanwhile."""
    if not active:
        yield None
        return
    busy = "import time\nend = time.time() + 3600\nwhile time.time() < end: sum(range(10000))"
    other = subprocess.Popen([sys.executable, "-c", busy])
    try:
        yield other
    finally:
        other.kill()
        other.wait()
