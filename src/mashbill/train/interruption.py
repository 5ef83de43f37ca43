"""Ctrl-C and SIGTERM as a question that training asks after each step, instead of an exception in the middle of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether somebody has asked the run to stop.

    Outside :meth:`deferred` a signal raises ``KeyboardInterrupt`` at once, and so does a second one inside.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._is_deferred = False

    @contextmanager
    def installed(self) -> Iterator["Interruption"]:
        """Listen to SIGINT and SIGTERM; does nothing outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Remember a signal instead of raising."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self._is_deferred or self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
