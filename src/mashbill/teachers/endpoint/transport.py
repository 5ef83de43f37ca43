"""One attempt at one request through the ``openai`` client, and what its failure means.

The key lives in the client alone. Whatever a server says is cut short and cleared of the key before anybody sees it,
since some servers repeat the headers that they were sent.
"""

import html
import json
import logging
import time
import weakref
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from mashbill.teachers.endpoint.asking import Failed, bad
from mashbill.teachers.endpoint.bounding import BoundError, bound
from mashbill.teachers.endpoint.settings import Settings, require_client

_AGAIN = (408, 409, 425, 429)
_STOP = (401, 402, 403, 404, 405, 407, 410, 501)
_N_SHOWN = 200
_N_HARMLESS = 8
# Letters that a key begins with may be those of all keys of a provider.
_LOGGERS = ("openai._base_client", "httpx", "httpx2", "httpcore", "httpcore2")
_CHILDREN = ("", ".connection", ".http11", ".http2", ".proxy", ".socks")


class Redactor(logging.Filter):
    """Takes a key out of texts and of log records, spelled as it is or in another usual way, whole or cut short."""

    def __init__(self, key: str | None) -> None:
        super().__init__()
        self._forms = _spellings(key) if key else ()

    def __repr__(self) -> str:
        return "Redactor()"

    def __call__(self, text: str) -> str:
        """Return the text without the key."""
        for form in self._forms:
            least = max(_N_HARMLESS, len(form) // 2)
            if form[:least] in text:
                for n in range(len(form), least - 1, -1):
                    text = text.replace(form[:n], "[key]")
        return text

    def within(self, value: Any) -> Any:
        """Return what a reply holds without the key, however deep it lies in it."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self.within(one) for one in value]
        if isinstance(value, dict):
            return {self(name): self.within(one) for name, one in value.items()}
        return value

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a record that holds the key."""
        text = record.getMessage()
        if (cleared := self(text)) != text:
            record.msg, record.args = cleared, ()
        return True


def _spellings(key: str) -> tuple[str, ...]:
    """Return how a key may stand in a text that nobody has decoded."""
    by_code = "".join(f"\\u{ord(letter):04x}" for letter in key)
    return tuple(dict.fromkeys((key, quote(key, safe=""), json.dumps(key)[1:-1], html.escape(key), by_code)))


class Transport:
    """A client of one endpoint; safe to use from many threads.

    Args:
        settings: Where it is.

    Raises:
        MashbillError: The client is not installed, or the key's variable does not hold one.
    """

    def __init__(self, settings: Settings) -> None:
        require_client()
        from openai import DefaultHttpxClient, Omit, OpenAI

        key = settings.key()
        self.redact = Redactor(key)
        # The client reads variables of its own, which say nothing about this endpoint; without a key none is sent.
        own = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        self._options: Any = {"headers": {"Authorization": f"Bearer {key}" if key else Omit(), **own}}
        http = DefaultHttpxClient(event_hooks={"response": [partial(bound, settings)]})
        weakref.finalize(self, http.close).atexit = False  # an error may come before anybody closes it
        self._client = OpenAI(
            api_key=key or "none",
            base_url=settings.url,
            max_retries=0,
            timeout=settings.timeout,
            http_client=http,
        )
        self._loggers = [logging.getLogger(name + child) for name in _LOGGERS for child in _CHILDREN]
        for logger in self._loggers:
            logger.addFilter(self.redact)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        for logger in self._loggers:
            logger.removeFilter(self.redact)

    def get(self, path: str) -> Any:
        """Return the JSON at a path; raises :class:`Failed`."""
        return self._attempt(path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON that a request is answered with; raises :class:`Failed`."""
        return self._attempt(path, body)

    def _attempt(self, path: str, body: Mapping[str, Any] | None) -> Any:
        content = self._sent(path, body)
        # Raised out here, so that the client's own error, which holds all that the server said, is not its context.
        if isinstance(content, Failed):
            raise content
        return self._parsed(content)

    def _sent(self, path: str, body: Mapping[str, Any] | None) -> bytes | Failed:
        """Return the bytes of a reply, or how the request failed."""
        import openai

        try:
            if body is None:
                return self._client.get(path, cast_to=bytes, options=self._options)
            return self._client.post(path, cast_to=bytes, body=dict(body), options=self._options)
        except (BoundError, openai.APITimeoutError) as error:
            return Failed(str(error) if isinstance(error, BoundError) else "no answer in time", "again")
        except openai.APIStatusError as error:
            return self._of_status(error.status_code, error.response.text, error.response.headers)
        except openai.APIConnectionError as error:
            cause = error.__cause__
            is_gone = type(cause).__name__ in ("ConnectError", "UnsupportedProtocol")
            why = self._shown(str(cause)) or "the connection broke"
            return Failed(f"cannot reach it: {why}", "again", is_gone=is_gone)
        except openai.OpenAIError as error:
            return Failed(f"the client failed: {self._shown(str(error))}", "again")

    def _parsed(self, content: bytes) -> Any:
        told = "no JSON"
        try:
            # What is read from a reply may be shown or kept.
            return self.redact.within(json.loads(content, parse_constant=_no_number))
        except _NoNumberError:
            told = "numbers that are not finite"
        except (ValueError, RecursionError):
            pass
        shown = self._shown(content.decode("utf-8", "replace"))
        if shown[:1] == "<":
            raise Failed(f"it answers with a web page, not with JSON: {shown}", "again", is_foreign=True)
        raise bad(f"its reply is {told}: {shown or 'nothing'}")

    def _of_status(self, status: int, text: str, headers: Mapping[str, str]) -> Failed:
        reason = f"HTTP {status}: {self._shown(_message(text))}"
        if status in _STOP or status < 400:
            return Failed(reason, "stop")
        if status in _AGAIN or status >= 500:
            return Failed(reason, "again", wait=_wait(headers))
        return Failed(reason, "row")

    def _shown(self, text: str) -> str:
        # Cleared before it is cut: half a key is still a secret.
        words = " ".join(self.redact(text).split())
        return words if len(words) <= _N_SHOWN else words[:_N_SHOWN] + "..."


class _NoNumberError(ValueError):
    """NaN or an infinity, which JSON does not have."""


def _no_number(name: str) -> float:
    raise _NoNumberError(name)


def _message(text: str) -> str:
    """Return what a server says went wrong: the message alone if its reply has the usual form."""
    try:
        error = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(error, dict):
        error = error.get("error", error)
    if isinstance(error, dict):
        error = error.get("message", error.get("detail", error))
    return error if isinstance(error, str) else text


def _wait(headers: Mapping[str, str]) -> float:
    """Return the seconds in ``Retry-After`` (a number or a date) or ``retry-after-ms``; 0 without them."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        given = headers.get(name, "")
        try:
            seconds = float(given) * unit
        except ValueError:
            continue
        return seconds if 0 < seconds < float("inf") else 0.0
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
