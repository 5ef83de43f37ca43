"""Foreign code that leaves the program while it is loaded. Imports nothing heavy."""

from collections.abc import Iterator
from contextlib import contextmanager

from mashbill.errors import MashbillError


@contextmanager
def no_exit(what: str, named: str) -> Iterator[None]:
    """Turn a module's or a constructor's ``sys.exit`` into an error: it must not end the audit in silence.

    Args:
        what: What cannot be done because of it.
        named: The target concerned.

    Raises:
        MashbillError: Says who left, and with what.
    """
    try:
        yield
    except SystemExit as error:
        raise MashbillError(
            f"{what}: SystemExit: {error}", where=named, help="code that is imported must not call sys.exit"
        ) from error
