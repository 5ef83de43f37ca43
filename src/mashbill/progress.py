"""How long work tells that it is moving; shown by the command, silent in the library."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives the pace of one piece of work at a time."""

    def start(self, total: int | None, label: str) -> None:
        """Begin ``label``, which has ``total`` parts, or an unknown number of them."""
        ...

    def advance(self, n: int = 1, **fields: float) -> None:
        """Say that ``n`` more parts are done; ``fields`` are numbers worth seeing, such as ``loss``."""
        ...

    def done(self) -> None:
        """End the present work."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, total: int | None, label: str) -> None:
        """Ignore."""

    def advance(self, n: int = 1, **fields: float) -> None:
        """Ignore."""

    def done(self) -> None:
        """Ignore."""


class Titled:
    """Shows the progress of one of several like runs: every label begins with its title.

    Args:
        title: Which run it is.
        shown: Where it is shown.
    """

    def __init__(self, title: str, shown: Progress) -> None:
        self._title, self._shown = title, shown

    def start(self, total: int | None, label: str) -> None:
        """Begin a piece of work."""
        self._shown.start(total, f"{self._title}: {label}")

    def advance(self, n: int = 1, **fields: float) -> None:
        """Count ``n`` more."""
        self._shown.advance(n, **fields)

    def done(self) -> None:
        """End the piece of work."""
        self._shown.done()
