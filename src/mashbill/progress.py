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
