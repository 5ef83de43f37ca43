"""What a command says when it is done: text for people, one JSON object for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mashbill.audit.legible import legible, strict
from mashbill.errors import MashbillError


@dataclass(frozen=True)
class Reply:
    """The result of one command.

    Attributes:
        lines: For people.
        value: The same facts for ``--json``.
        exit_code: 0 unless the command found something that is not as it should be.
    """

    lines: Sequence[str] = ()
    value: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def show(reply: Reply, *, as_json: bool) -> None:
    """Print a reply on standard output."""
    print(_json(reply.value) if as_json else legible("\n".join(reply.lines)), flush=True)


def show_error(error: MashbillError, *, as_json: bool) -> None:
    """Print an error: as text on standard error, or as ``{"error": ...}`` on standard output."""
    if as_json:
        facts = {"kind": type(error).__name__, "exit_code": error.exit_code, "message": error.render()}
        print(_json({"error": {**facts, **error.facts()}}))
    else:
        print(legible(error.render()), file=sys.stderr)


def _json(value: Mapping[str, Any]) -> str:
    """Return one line that any JSON reader takes; there is no NaN and no infinity in JSON."""
    return json.dumps(strict(value), default=str, allow_nan=False)
