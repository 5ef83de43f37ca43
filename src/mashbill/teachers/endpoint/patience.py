"""Further attempts: how many, how long to wait for them, and when to stop asking altogether.

All requests of a process share one budget of further attempts, and one clock that a rate limit can stop. Waits grow
by a factor of two and are drawn at random below that, so that many requests do not come back at once.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mashbill.teachers.endpoint.asking import Failed
from mashbill.teachers.endpoint.settings import Settings

LONGEST_WAIT = 600.0
"""Seconds; a server that wants to be left alone for longer is asked no more."""
N_IN_A_ROW = 20
"""Requests given up one after another until the endpoint counts as broken."""
_LONGEST_BACKOFF = 30.0

Answer = TypeVar("Answer")


class Patience:
    """Attempts at requests, counted together.

    Attributes:
        n_attempts: Made so far.
        n_retries: Further attempts among them.
        waited: Seconds that servers asked for.

    Args:
        settings: ``retries``, ``retry_budget`` and ``backoff`` are read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._not_before, self._in_a_row, self._was_answered = 0.0, 0, False
        self._random = random.Random(0)  # decides waits, not answers
        self.n_attempts = self.n_retries = 0
        self.waited = 0.0

    def stop(self) -> None:
        """Wake everybody who waits, and let nobody start another attempt."""
        self._stopped.set()

    def begin(self) -> None:
        """Allow attempts again after a stop."""
        self._stopped.clear()

    def ask(self, attempt: Callable[[], Answer]) -> Answer:
        """Return what an attempt returns, the first one that does.

        Raises:
            Failed: With the verdict ``row`` if this request is given up, ``stop`` if all are.
        """
        for n_before in range(self._settings.retries + 1):
            self._wait_for_turn()
            try:
                answer = attempt()
            except Failed as failure:
                if failure.verdict != "again":
                    raise
                if (failure.is_gone or failure.is_foreign) and not self._was_answered:
                    raise self._never(failure) from None
                self._left_alone(failure)
                if n_before == self._settings.retries:
                    raise self._given_up(failure) from None
                self._spend(failure)
                self._sleep(self._backoff(n_before))
            else:
                with self._lock:
                    self._in_a_row, self._was_answered = 0, True
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _wait_for_turn(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            self._sleep(wait)
        if self._stopped.is_set():
            raise Failed("stopped", "stop")
        with self._lock:
            self.n_attempts += 1

    def _left_alone(self, failure: Failed) -> None:
        if failure.wait > LONGEST_WAIT:
            raise Failed(f"{failure.reason}; it asks to wait for {failure.wait:.0f} seconds", "stop") from None
        if failure.wait > 0:
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + failure.wait)
                self.waited += failure.wait

    def _never(self, failure: Failed) -> Failed:
        """Return the failure of an address that has never answered: it is a wrong one, and waiting does not help."""
        return Failed(failure.reason, "stop", is_gone=failure.is_gone, is_foreign=failure.is_foreign)

    def _given_up(self, failure: Failed) -> Failed:
        n = self._settings.retries + 1
        if failure.is_gone:
            return Failed(f"{failure.reason}, {n} attempts", "stop", is_gone=True)
        with self._lock:
            self._in_a_row += 1
            is_broken = self._in_a_row >= N_IN_A_ROW
        if is_broken:
            return Failed(f"{N_IN_A_ROW} requests one after another failed, the last: {failure.reason}", "stop")
        return Failed(f"{failure.reason}, {n} attempts", "row")

    def _spend(self, failure: Failed) -> None:
        with self._lock:
            if self.n_retries >= self._settings.retry_budget:
                spent = f"all {self._settings.retry_budget} further attempts of `retry_budget` are spent"
                raise Failed(f"{spent}, the last after: {failure.reason}", "stop") from None
            self.n_retries += 1

    def _backoff(self, n_before: int) -> float:
        with self._lock:
            share = self._random.uniform(0.5, 1.0)
        return share * min(_LONGEST_BACKOFF, self._settings.backoff * 2**n_before)

    def _sleep(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        if self._stopped.is_set():
            raise Failed("stopped", "stop")
