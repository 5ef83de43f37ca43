"""Progress for people: a bar in a terminal, a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Callable

from mashbill.progress import Progress

SECONDS_BETWEEN_LINES = 5.0


def for_stderr() -> Progress:
    """Return what suits standard error, where progress goes so that standard output stays clean."""
    return Bar() if sys.stderr.isatty() else Lines(lambda line: print(line, file=sys.stderr, flush=True))


class Lines:
    """Writes one line at the start, one every few seconds, and one at the end of each piece of work."""

    def __init__(self, say: Callable[[str], object], *, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._say, self._seconds = say, seconds
        self._label, self._total, self._n_done = "", None, 0
        self._started = self._shown = 0.0
        self._fields: dict[str, float] = {}

    def start(self, total: int | None, label: str) -> None:
        """Begin a piece of work."""
        self._label, self._total, self._n_done, self._fields = label, total, 0, {}
        self._started = self._shown = time.monotonic()

    def advance(self, n: int = 1, **fields: float) -> None:
        """Count, and write a line if the last one is old enough."""
        self._n_done += n
        self._fields = fields or self._fields
        if time.monotonic() - self._shown >= self._seconds:
            self._write()

    def done(self) -> None:
        """Write the last line."""
        self._write()

    def _write(self) -> None:
        self._shown = time.monotonic()
        count = f"{self._n_done}" if self._total is None else f"{self._n_done}/{self._total}"
        took = self._shown - self._started
        left = _left(took, self._n_done, self._total)
        self._say("  ".join([f"{self._label}: {count}", *_fields(self._fields), f"{took:.0f} s", *left]))


class Bar:
    """Draws a bar for each piece of work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._new = lambda: Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._shown = self._new()

    def start(self, total: int | None, label: str) -> None:
        """Draw a new bar."""
        self._shown = self._new()
        self._task = self._shown.add_task(label, total=total, numbers="")
        self._shown.start()

    def advance(self, n: int = 1, **fields: float) -> None:
        """Move the bar."""
        self._shown.advance(self._task, n)
        if fields:
            self._shown.update(self._task, numbers="  ".join(_fields(fields)))

    def done(self) -> None:
        """Leave the bar as it is."""
        self._shown.stop()


def _left(took: float, n_done: int, total: int | None) -> list[str]:
    """Say how long the rest takes at the pace so far; nothing where that is unknown, or nothing is left."""
    if total is None or not 0 < n_done < total:
        return []
    seconds = took * (total - n_done) / n_done
    return [f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"]


def _fields(fields: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in fields.items()]
