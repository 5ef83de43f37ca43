"""A server that fails in many ways, by a seed: which attempt at which request fails how does not depend on timing."""

import json
import random
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from servers.pretend import Handler, Server, Wrong, next_logprobs

Spoil = Callable[[Any], Any]


def _numbers(change: Callable[[float], Any]) -> Spoil:
    """Return what changes every log-probability in a reply."""

    def spoil(reply: Any) -> Any:
        for entry in reply["choices"][0]["prompt_logprobs"][1:]:
            for told in entry.values():
                told["logprob"] = change(told["logprob"])
        return reply

    return spoil


def _lists(change: Callable[[list[Any]], Any]) -> Spoil:
    def spoil(reply: Any) -> Any:
        choice = reply["choices"][0]
        choice["prompt_logprobs"] = change(choice["prompt_logprobs"])
        return reply

    return spoil


def _with(key: str, value: Any) -> Spoil:
    return lambda reply: {**reply, key: value}


def _other_row(entries: list[Any]) -> list[Any]:
    """Give the row's own tokens other ids, as the answer to another row has."""
    return [entries[0], *({str(int(key) + 1): told for key, told in entry.items()} for entry in entries[1:])]


def _no_lists(entries: list[Any]) -> list[Any]:
    return [entries[0], *(dict(list(entry.items())[:1]) for entry in entries[1:])]


SPOILED: Mapping[str, Spoil] = {
    "no number": _numbers(lambda _: float("nan")),
    "minus infinity": _numbers(lambda _: float("-inf")),
    "above zero": _numbers(lambda number: -number),
    "sentinels": _numbers(lambda _: -9999.0),
    "too much mass": _numbers(lambda number: number / 4),
    "text for numbers": _numbers(str),
    "null for numbers": _numbers(lambda _: None),
    "one entry less": _lists(lambda entries: entries[:-1]),
    "one entry more": _lists(lambda entries: [*entries, entries[-1]]),
    "a list of nothing": _lists(lambda entries: [None, *([{}] * (len(entries) - 1))]),
    "another row": _lists(_other_row),
    "short lists": _lists(_no_lists),
    "no log-probabilities": _lists(lambda _: None),
    "no choices": _with("choices", []),
    "an error in a reply of success": lambda _: {"error": {"message": "engine died"}},
    "a list for an object": lambda reply: [reply],
}
"""Replies of status 200 that are wrong, by name."""

STATUS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "500": (500, {}),
    "502": (502, {}),
    "503 with Retry-After": (503, {"Retry-After": "0"}),
    "429": (429, {}),
    "429 with Retry-After": (429, {"retry-after-ms": "20"}),
    "408": (408, {}),
    "409": (409, {}),
}
BROKEN = (
    "reset",
    "cut short",
    "silence",
    "half a JSON",
    "a web page",
    "an empty reply",
    "deep JSON",
    "no end",
    "drops",
    "the key repeated",
)
KINDS = (*SPOILED, *STATUS, *BROKEN)


class FaultyHandler(Handler):
    """Spoils a share of all replies; the first requests, those of the self-test, may be let through."""

    seed = 0
    share = 0.3
    n_good = 0
    silence = 1.0
    seen: Counter[bytes]
    faults: Counter[str]

    def fault_of(self, body: bytes) -> str | None:
        """Return how this attempt at a request fails."""
        with self.lock:
            self.seen[body] += 1
            n = self.seen[body]
            if sum(self.seen.values()) <= self.n_good:
                return None
        drawn = random.Random(zlib.crc32(body) * 1_000_003 + self.seed * 1009 + n)
        if drawn.random() >= self.share:
            return None
        kind = drawn.choice(KINDS)
        with self.lock:
            self.faults[kind] += 1
        return kind

    def _serve(self, body: bytes) -> None:
        kind = self.fault_of(body) if body else None
        if kind is None:
            super()._serve(body)
            return
        with self.lock:
            self.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        if kind in STATUS:
            status, headers = STATUS[kind]
            self.send_bytes(status, b'{"error": {"message": "try again"}}', headers)
        elif kind in SPOILED:
            try:
                reply = self.pretend.answer(self.path, json.loads(body))
            except Wrong as error:
                self.send(error.status, {"error": {"message": error.message}})
                return
            try:
                self.send(200, SPOILED[kind](deepcopy(reply)))
            except (KeyError, IndexError, TypeError, AttributeError):  # A reply without what is to be spoiled.
                self.send(500, {"error": {"message": "try again"}})
        else:
            self._break(kind, body)

    def _break(self, kind: str, body: bytes) -> None:
        given = self.headers.get("Authorization", "")
        if kind == "reset":
            # An abort, not an end: the other side gets no chance to read what was sent before.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif kind == "silence":
            time.sleep(self.silence)
            self.close_connection = True
        elif kind == "cut short":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif kind in ("no end", "drops"):
            self._go_on(kind)
        elif kind == "a web page":
            page = f"<html><body>Bad gateway {given}</body></html>".encode()
            self.send_bytes(200, page, {"X-Request-Id": given}, kind="text/html")
        elif kind == "the key repeated":
            told = {"error": {"message": f"bad header: Authorization: {given}", "headers": {"Authorization": given}}}
            self.send_bytes(500, json.dumps(told).encode(), {"X-Request-Id": given, "Via": given})
        else:
            content = {"half a JSON": b'{"choices": [{"te', "an empty reply": b"", "deep JSON": b"[" * 100_000}[kind]
            self.send_bytes(200, content, {})

    def _go_on(self, kind: str) -> None:
        """Send more and more of a reply, all at once or a byte now and then, until nobody reads it."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        piece, pause = (b" " * 2**18, 0.0) if kind == "no end" else (b" ", self.silence / 20)
        try:
            while True:
                self.wfile.write(piece)
                time.sleep(pause)
        except OSError:
            return

    def finish(self) -> None:
        """Say nothing where a connection was closed on purpose."""
        try:
            super().finish()
        except (OSError, ValueError):
            return


class FaultyServer(Server):
    """A pretended server with faults.

    Args:
        seed: Of which attempts fail, and how.
        share: Of attempts that fail.
        silence: Seconds in which it says nothing where it says nothing.
        n_good: Requests that are let through first.
        **options: Of :class:`Server`.
    """

    def __init__(
        self, *, seed: int = 0, share: float = 0.3, silence: float = 1.0, n_good: int = 0, **options: Any
    ) -> None:
        self.faults: Counter[str] = Counter()
        given = {"seed": seed, "share": share, "silence": silence, "n_good": n_good}
        handler = type("Faulty", (FaultyHandler,), {**given, "seen": Counter(), "faults": self.faults})
        super().__init__(handler=handler, **options)

    def truth(self, prefix: tuple[int, ...]) -> tuple[float, ...]:
        """Return the log-probabilities of what follows some tokens."""
        return next_logprobs(prefix, self.pretend.size)
