"""Further attempts, what they may cost, and who is left alone for how long."""

import time
from collections.abc import Sequence

import pytest

from mashbill.teachers.endpoint.asking import Failed
from mashbill.teachers.endpoint.patience import N_IN_A_ROW, Patience
from mashbill.teachers.endpoint.settings import Settings


def patience_of(**changes: float) -> Patience:
    given = {"url": "http://localhost/v1", "model": "m", "backoff": 1e-4, **changes}
    return Patience(Settings(**given))


class Attempts:
    """Fails as it is told, then succeeds."""

    def __init__(self, failures: Sequence[Failed]) -> None:
        self.left, self.n = list(failures), 0

    def __call__(self) -> str:
        self.n += 1
        if self.left:
            raise self.left.pop(0)
        return "answer"


def again(reason: str = "busy", **more: float | bool) -> Failed:
    return Failed(reason, "again", **more)  # pyright: ignore[reportArgumentType]


def test_a_passing_failure_is_tried_again() -> None:
    patience, attempts = patience_of(retries=3), Attempts([again(), again()])
    assert patience.ask(attempts) == "answer"
    assert (attempts.n, patience.n_attempts, patience.n_retries) == (3, 3, 2)


@pytest.mark.parametrize("verdict", ["row", "stop"])
def test_a_final_failure_is_not(verdict: str) -> None:
    attempts = Attempts([Failed("no", verdict)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(Failed, match="no"):
        patience_of().ask(attempts)
    assert attempts.n == 1


def test_a_request_is_given_up_after_its_attempts() -> None:
    patience, attempts = patience_of(retries=2), Attempts([again()] * 9)
    with pytest.raises(Failed, match="busy, 3 attempts") as told:
        patience.ask(attempts)
    assert (told.value.verdict, attempts.n) == ("row", 3)


def test_all_requests_share_a_budget() -> None:
    patience = patience_of(retries=5, retry_budget=3)
    assert patience.ask(Attempts([again(), again()])) == "answer"
    attempts = Attempts([again()] * 9)
    with pytest.raises(
        Failed, match="all 3 further attempts of `retry_budget` are spent, the last after: busy"
    ) as told:
        patience.ask(attempts)
    assert (told.value.verdict, attempts.n, patience.n_retries) == ("stop", 2, 3)


def test_an_endpoint_that_fails_row_after_row_is_broken() -> None:
    patience = patience_of(retries=0)
    for _ in range(N_IN_A_ROW - 1):
        with pytest.raises(Failed) as told:
            patience.ask(Attempts([again()]))
        assert told.value.verdict == "row"
    with pytest.raises(Failed, match="20 requests one after another failed, the last: busy") as told:
        patience.ask(Attempts([again()]))
    assert told.value.verdict == "stop"


def test_one_success_between_starts_the_count_anew() -> None:
    patience = patience_of(retries=0)
    for n in range(3 * N_IN_A_ROW):
        if n % (N_IN_A_ROW - 1) == 0:
            patience.ask(Attempts([]))
        with pytest.raises(Failed) as told:
            patience.ask(Attempts([again()]))
        assert told.value.verdict == "row"


def test_everybody_waits_where_one_is_told_to() -> None:
    patience = patience_of(retries=1)
    with pytest.raises(Failed):
        patience.ask(Attempts([again(wait=0.3), again(wait=0.0)]))
    began = time.monotonic()
    patience._not_before = began + 0.2
    assert patience.ask(Attempts([])) == "answer"
    assert time.monotonic() - began >= 0.2


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    patience, began = patience_of(retries=1), time.monotonic()
    assert patience.ask(Attempts([again(wait=0.25)])) == "answer"
    assert time.monotonic() - began >= 0.25
    assert patience.waited == 0.25


def test_nobody_waits_for_hours() -> None:
    with pytest.raises(Failed, match="busy; it asks to wait for 3600 seconds") as told:
        patience_of().ask(Attempts([again(wait=3600.0)]))
    assert told.value.verdict == "stop"


def test_an_address_that_never_answered_is_not_waited_for() -> None:
    patience, attempts = patience_of(), Attempts([again(is_gone=True)] * 9)
    with pytest.raises(Failed) as told:
        patience.ask(attempts)
    assert (told.value.verdict, attempts.n) == ("stop", 1)
    # One that did may come back.
    patience.ask(Attempts([]))
    assert patience.ask(Attempts([again(is_gone=True)])) == "answer"
    with pytest.raises(Failed, match="6 attempts") as told:
        patience.ask(Attempts([again(is_gone=True)] * 9))
    assert told.value.verdict == "stop"


def test_a_stop_ends_waiting() -> None:
    patience = patience_of()
    patience.stop()
    with pytest.raises(Failed, match="stopped"):
        patience.ask(Attempts([]))
    patience.begin()
    assert patience.ask(Attempts([])) == "answer"
