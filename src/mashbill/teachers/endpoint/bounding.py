"""How large a reply may be, and how long it may go on: a server without an end would fill the memory.

This module does not import torch.
"""

import time
from collections.abc import Iterator
from typing import Any

from mashbill.teachers.endpoint.settings import Settings

ROOM = 2**24
"""Bytes that any reply may have, such as the list of a provider's models."""
_ENTRY = 256
# Bytes in which an entry of a list is told, with its token as text and as bytes.


class BoundError(Exception):
    """A reply that goes on for too long."""


def bound(settings: Settings, response: Any) -> None:
    """End the reading of a reply that is larger than an answer can be, or takes longer than ``timeout``.

    Args:
        settings: ``timeout`` and ``top_logprobs`` are read.
        response: Of the HTTP client; nothing of its body has been read yet.
    """
    # No token takes less than a byte of a request.
    most = ROOM + _ENTRY * (settings.top_logprobs + 2) * len(response.request.content)
    read = response.iter_bytes

    def bounded(*given: Any, **named: Any) -> Iterator[bytes]:
        n, until = 0, time.monotonic() + settings.timeout
        for chunk in read(*given, **named):
            n += len(chunk)
            if n > most:
                raise BoundError(f"its reply has more than {most:,} bytes")
            if time.monotonic() > until:
                raise BoundError(f"its reply went on for more than {settings.timeout:g} seconds")
            yield chunk

    response.iter_bytes = bounded
