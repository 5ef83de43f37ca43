"""Where an endpoint is and how it may be asked. Holds no secret, only the name of the variable that does.

This module does not import torch.
"""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from mashbill.errors import MashbillError

FormName = Literal["auto", "vllm", "sglang", "completions", "steps", "chat"]
FORMS: tuple[FormName, ...] = ("auto", "vllm", "sglang", "completions", "steps", "chat")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


@dataclass(frozen=True)
class Settings:
    """One endpoint.

    Attributes:
        url: Base address, usually ending in ``/v1``.
        model: Name of the model there.
        form: How log-probabilities are asked for; ``auto`` finds out.
        key_variable: Name of the environment variable that holds the key; None where none is needed.
        concurrency: Requests that are under way at once.
        retries: Further attempts at one request.
        retry_budget: Further attempts at all requests of a process together.
        timeout: Seconds without a byte until an attempt has failed.
        top_logprobs: Entries asked for at each position.
        backoff: Seconds before the first further attempt; each wait may be twice the last.
    """

    url: str
    model: str
    form: FormName = "auto"
    key_variable: str | None = None
    concurrency: int = 8
    retries: int = 5
    retry_budget: int = 10_000
    timeout: float = 120.0
    top_logprobs: int = 20
    backoff: float = 0.5

    def __post_init__(self) -> None:
        require_url(self.url)
        if self.key_variable is not None:
            require_variable(self.key_variable)

    @property
    def root(self) -> str:
        """The address without ``/v1``, where servers have interfaces of their own."""
        return self.url.rstrip("/").removesuffix("/v1")

    def key(self) -> str | None:
        """Return the key from the environment.

        Raises:
            MashbillError: The variable is not set, or what it holds cannot be a key; the text does not show it.
        """
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "")
        if not key:
            raise MashbillError(
                f"the environment variable `{self.key_variable}` is not set",
                why=f"the recipe takes the key for `{self.url}` from it",
                help=f"export {self.key_variable}=...",
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise MashbillError(
                f"what the environment variable `{self.key_variable}` holds cannot be a key",
                why="it has spaces, line ends or other characters that no HTTP header may have",
                help="set it again, without quotes inside and without a line end",
            )
        return key


def require_url(url: str) -> str:
    """Return the address of an endpoint if it can be one.

    Raises:
        ValueError: It is none, or holds what does not belong in a file; the text never shows a password.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "must be a plain address: no user, no password, nothing after `?` or `#`; name a `key_variable`"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"`{url}` is no address; write it like http://127.0.0.1:8000/v1")
    return url


def require_variable(name: str) -> str:
    """Return the name of an environment variable if it can be one; what looks like the key itself is not shown.

    Raises:
        ValueError: It cannot.
    """
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "must be the name of an environment variable: capital letters, digits and `_`; never the key itself"
        )
    return name


def require_client() -> None:
    """Refuse to go on without the package that speaks HTTP.

    Raises:
        MashbillError: ``openai`` is not installed.
    """
    if find_spec("openai") is None:
        raise MashbillError(
            "the package `openai` is not installed",
            why="teachers behind an endpoint need it",
            help="pip install 'mashbill[http]'",
        )
