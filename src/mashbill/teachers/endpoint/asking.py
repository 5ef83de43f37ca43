"""What is asked of an endpoint, what its replies say, and how they fail.

This module does not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from mashbill.teachers.endpoint.rounding import Rounding

Verdict = Literal["again", "row", "stop"]
"""Of a failure: another attempt may succeed, this row will never be answered, or no row will."""


@dataclass(frozen=True)
class Question:
    """One row: position ``t`` is about ``tokens[t + 1]``, given all before.

    Attributes:
        tokens: The student's ids, the last label included.
        asked: Positions that count, ascending.
    """

    tokens: tuple[int, ...]
    asked: tuple[int, ...]


@dataclass(frozen=True)
class Listed:
    """What a reply says about one position.

    Attributes:
        top: Log-probability in nats of each listed token that the student has, by the student's id.
        label: That of the row's own token, None where the reply does not say it.
        is_top: The student has every token of the list, so that no other one can be more probable than its last.
        n_listed: Entries of the list, those included that the student does not have.
        rounding: Of its numbers.
    """

    top: Mapping[int, float]
    label: float | None
    is_top: bool
    n_listed: int
    rounding: Rounding = field(default_factory=Rounding)


@dataclass(frozen=True)
class Call:
    """One request, and how to read its reply into answers by position.

    Attributes:
        path: Relative to the endpoint's address, or an address.
        body: Of the request.
        read: Validates a reply; raises :class:`Failed`.
    """

    path: str
    body: Mapping[str, Any]
    read: Callable[[Any], Mapping[int, Listed]]


Read = Callable[[Any], Any]


@runtime_checkable
class Ask(Protocol):
    """Sends one request, with further attempts, and returns what ``read`` makes of its reply."""

    def __call__(self, path: str, body: Mapping[str, Any] | None, read: Read) -> Any:
        """Send a body to a path, or get the path; raises :class:`Failed`."""
        ...


@runtime_checkable
class Form(Protocol):
    """One way in which servers are asked for log-probabilities."""

    @property
    def name(self) -> str:
        """What the recipe calls it."""
        ...

    def calls(self, question: Question) -> Sequence[Call]:
        """Return the requests that together answer about a row; raises :class:`Failed` if none can."""
        ...


class Failed(Exception):  # noqa: N818  # says what has happened; whether it is an error is for the caller
    """A request without an answer that can be believed.

    Args:
        reason: What happened, for the user; holds no secret.
        verdict: What it means for further attempts.
        wait: Seconds that the server asks to be left alone.
        is_gone: Nobody answered at all.
        is_foreign: What answered is no such endpoint; it may be one that is badly disturbed, if it ever was.
    """

    def __init__(
        self, reason: str, verdict: Verdict, *, wait: float = 0.0, is_gone: bool = False, is_foreign: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.verdict, self.wait = reason, verdict, wait
        self.is_gone, self.is_foreign = is_gone, is_foreign


def bad(reason: str) -> Failed:
    """Return the failure of a reply that cannot be believed; the next one may."""
    return Failed(reason, "again")


def unanswerable(reason: str) -> Failed:
    """Return the failure of a row that this endpoint can never answer."""
    return Failed(reason, "row")
