"""Teachers of a pretended server, and what they have to say."""

from typing import Any

import pytest
from servers.pretend import Server
from servers.pretend_tokenizers import make_tokenizer

from mashbill.teachers.endpoint.contact import probe_of
from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.teacher import EndpointTeacher
from mashbill.teachers.token_bytes import TokenBytes
from mashbill.teachers.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level tokenizer of 300 tokens."""
    return make_tokenizer()


@pytest.fixture
def teacher_of(tokenizer: Any) -> Any:
    """Return a function that makes the teacher behind a server; connections are closed at the end."""
    made: list[EndpointTeacher] = []

    def make(server: Server | str, **changes: Any) -> EndpointTeacher:
        url = server if isinstance(server, str) else server.url
        usual: dict[str, Any] = {"url": url, "model": "pretend", "backoff": 1e-3, "timeout": 5.0, "top_logprobs": 8}
        own = server.pretend.tokenizer if isinstance(server, Server) else tokenizer
        tokens = TokenBytes.of(own, owner="the student")
        settings, probe = Settings(**{**usual, **changes}), probe_of(own, tokens)
        made.append(EndpointTeacher("far", settings, Vocabulary.from_tokenizer(own), tokens, probe=probe))
        return made[-1]

    yield make
    for one in made:
        one.release()
