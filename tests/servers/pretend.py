"""A server that speaks every form from a model that is a hash: exact answers, in no time, and nothing to load.

What follows some tokens is drawn from them alone, so that a test can work out every number that has to arrive.
"""

import json
import math
import random
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from servers.pretend_tokenizers import make_tokenizer


@lru_cache(maxsize=100_000)
def next_logprobs(prefix: tuple[int, ...], size: int) -> tuple[float, ...]:
    """Return the log-probability of each token after some others, float64."""
    drawn = random.Random(zlib.crc32(repr(prefix).encode()))
    logits = [drawn.gauss(0, 2) for _ in range(size)]
    top = max(logits)
    log_sum = top + math.log(math.fsum(math.exp(one - top) for one in logits))
    return tuple(one - log_sum for one in logits)


def top_of(logprobs: Sequence[float], k: int) -> list[int]:
    """Return the ids of the ``k`` largest."""
    return sorted(range(len(logprobs)), key=lambda id: -logprobs[id])[:k]


@dataclass(frozen=True)
class Habits:
    """What a server does its own way.

    Attributes:
        shift: 1 if entries about a prompt are those about the next token.
        echoes: It says something about prompts.
        takes_ids: Prompts may be token ids.
        speaks_logprobs: It says log-probabilities at all.
        continues_turns: A turn of the assistant that was begun is continued.
        limit: The most entries of a list.
        key: What has to be in the header; None lets everybody in.
        models: What it says that it has; None says nothing.
        words: What ids mean there, if not what they mean here.
        starts: It puts the tokenizer's start tokens before a text.
        repeats_start: They are among the tokens that it echoes.
        keeps_spaces: The space before a word is part of its text.
        counts: It says how many tokens a prompt had.
        most: The most entries that it lists, without a word to those who ask for more.
    """

    shift: int = 0
    echoes: bool = True
    takes_ids: bool = True
    speaks_logprobs: bool = True
    continues_turns: bool = True
    limit: int = 1000
    key: str | None = None
    models: tuple[str, ...] | None = ("pretend",)
    words: Mapping[int, str] = field(default_factory=dict)
    starts: bool = True
    repeats_start: bool = True
    keeps_spaces: bool = True
    counts: bool = True
    most: int = 1000


@dataclass(frozen=True)
class Wrong(Exception):  # noqa: N818  # an answer of a server
    """A request that is refused."""

    status: int
    message: str


@dataclass(frozen=True)
class Pretend:
    """The model and the server's habits."""

    tokenizer: Any
    habits: Habits = Habits()

    @property
    def size(self) -> int:
        """Entries of the vocabulary."""
        return len(self.tokenizer)

    def word(self, id: int) -> str:
        """Return the text of a token, as servers write it."""
        if id == self.tokenizer.eos_token_id:
            return "<end>"
        if self.habits.keeps_spaces and id not in self.tokenizer.all_special_ids:
            return self.habits.words.get(id, self._bytes(id).decode("utf-8", "replace"))
        return self.habits.words.get(id, self.tokenizer.decode([id]))

    def ids_of(self, prompt: Any) -> list[int]:
        """Return the tokens of a prompt."""
        if isinstance(prompt, str):
            return self.tokenizer(prompt, add_special_tokens=self.habits.starts)["input_ids"]
        if not self.habits.takes_ids:
            raise Wrong(422, "prompt: Input should be a valid string")
        return list(prompt)

    def answer(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the reply to a request."""
        if path == "/v1/models" and self.habits.models is not None:
            return {"object": "list", "data": [{"id": name} for name in self.habits.models]}
        if path == "/v1/completions":
            return self._completions(body)
        if path == "/v1/chat/completions":
            return self._chat(body)
        if path == "/generate" and self.habits.echoes:
            return self._generate(body)
        raise Wrong(404, "Not Found")

    def _completions(self, body: Mapping[str, Any]) -> Any:
        ids, k = self.ids_of(body["prompt"]), body.get("logprobs")
        k = k and min(k, self.habits.most)
        asked = max(k or 0, body.get("prompt_logprobs") or 0)
        if asked > self.habits.limit:
            raise Wrong(400, f"Requested logprobs of {asked}, which is greater than max allowed: {self.habits.limit}")
        new = self._generated(ids, body.get("max_tokens", 16))
        choice: dict[str, Any] = {"index": 0, "text": self.tokenizer.decode(new), "finish_reason": "length"}
        choice["logprobs"] = None
        by_id = bool(body.get("return_tokens_as_token_ids"))
        if k is not None and self.habits.speaks_logprobs:
            is_echo = bool(body.get("echo")) and self.habits.echoes
            choice["logprobs"] = self._legacy(ids, new, k, is_echo=is_echo, by_id=by_id)
            if is_echo and not self.habits.repeats_start and ids[:1] == [self.tokenizer.bos_token_id]:
                choice["logprobs"] = {name: values[1:] for name, values in choice["logprobs"].items()}
        if body.get("prompt_logprobs") and self.habits.echoes and self.habits.speaks_logprobs:
            choice["prompt_logprobs"] = [
                None if at == 0 else self._by_id(ids, at, body["prompt_logprobs"]) for at in range(len(ids))
            ]
        usage = {"prompt_tokens": len(ids)} if self.habits.counts else None
        return {"object": "text_completion", "choices": [choice], "usage": usage}

    def _generated(self, ids: Sequence[int], n: int) -> list[int]:
        new: list[int] = []
        for _ in range(n):
            logprobs = next_logprobs((*ids, *new), self.size)
            new.append(next(id for id in top_of(logprobs, self.size) if self._is_plain(id)))
        return new

    def _is_plain(self, id: int) -> bool:
        return id not in self.tokenizer.all_special_ids and self.word(id).isascii()

    def _about(self, ids: Sequence[int], at: int) -> tuple[float, ...]:
        """Return what entry ``at`` of a prompt is said to be."""
        return next_logprobs(tuple(ids[: at + self.habits.shift]), self.size)

    def _by_id(self, ids: Sequence[int], at: int, k: int) -> dict[str, Any]:
        logprobs = self._about(ids, at)
        listed = dict.fromkeys([ids[at], *top_of(logprobs, k)])
        return {str(id): {"logprob": logprobs[id], "rank": 1, "decoded_token": self.word(id)} for id in listed}

    def _legacy(self, ids: Sequence[int], new: Sequence[int], k: int, *, is_echo: bool, by_id: bool) -> dict[str, Any]:
        whole = [*ids, *new]
        first = 0 if is_echo else len(ids)
        shown = [f"token_id:{id}" if by_id else self.word(id) for id in whole]
        offsets, own, tops = [], [], []
        for at in range(first, len(whole)):
            logprobs = self._about(ids, at) if at < len(ids) else next_logprobs(tuple(whole[:at]), self.size)
            names = dict.fromkeys([*top_of(logprobs, k), *([whole[at]] if at < len(ids) else [])])
            own.append(None if at == 0 else logprobs[whole[at]])
            top = {f"token_id:{id}" if by_id else self.word(id): logprobs[id] for id in names}
            tops.append(None if at == 0 else top)
            offsets.append(sum(len(self.word(id)) for id in whole[first:at]))
        return {"tokens": shown[first:], "token_logprobs": own, "top_logprobs": tops, "text_offset": offsets}

    def _generate(self, body: Mapping[str, Any]) -> Any:
        ids, k = body["input_ids"], body["top_logprobs_num"]

        def entries(logprobs: Sequence[float]) -> list[Any]:
            return [[logprobs[id], id, self.word(id)] for id in top_of(logprobs, k)]

        meta: dict[str, Any] = {"output_top_logprobs": [entries(next_logprobs(tuple(ids), self.size))]}
        if "logprob_start_len" in body:
            about = [None, *(self._about(ids, at) for at in range(1, len(ids)))]
            own = [[None if one is None else one[id], id, None] for one, id in zip(about, ids, strict=True)]
            meta["input_token_logprobs"] = own
            meta["input_top_logprobs"] = [None if one is None else entries(one) for one in about]
        return {"text": "", "meta_info": meta}

    def _chat(self, body: Mapping[str, Any]) -> Any:
        user, *begun = body["messages"]
        written = begun[0]["content"] if begun and self.habits.continues_turns else ""
        ids = self.ids_of(f"[{user['content']}]") + self.ids_of(written)
        if begun and not self.habits.continues_turns:
            ids += self.ids_of("[new turn]")
        content = []
        for at, id in enumerate(new := self._generated(ids, body["max_tokens"])):
            logprobs = next_logprobs((*ids, *new[:at]), self.size)
            top = [self._entry(one, logprobs[one]) for one in top_of(logprobs, body["top_logprobs"])]
            content.append({**self._entry(id, logprobs[id]), "top_logprobs": top})
        told = {"content": content} if self.habits.speaks_logprobs else None
        return {"choices": [{"index": 0, "message": {"content": ""}, "logprobs": told}]}

    def _entry(self, id: int, logprob: float) -> dict[str, Any]:
        spelled = b"" if id == self.tokenizer.eos_token_id else self._bytes(id)
        return {"token": self.word(id), "bytes": list(spelled), "logprob": logprob}

    def _bytes(self, id: int) -> bytes:
        from mashbill.teachers.token_bytes import TokenBytes

        return _token_bytes(self.tokenizer, TokenBytes)[id]


@lru_cache(maxsize=4)
def _token_bytes(tokenizer: Any, kind: Any) -> Mapping[int, bytes]:
    return kind.of(tokenizer, owner="the server").pieces


class Handler(BaseHTTPRequestHandler):
    """Passes requests to the server's ``pretend``; a subclass may spoil what it sends."""

    protocol_version = "HTTP/1.1"
    pretend: Pretend
    requests: list[tuple[str, Mapping[str, str], bytes]]
    lock = threading.Lock()

    def do_GET(self) -> None:
        """Answer a question without a body."""
        self._serve(b"")

    def do_POST(self) -> None:
        """Answer a question with a body."""
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _serve(self, body: bytes) -> None:
        with self.lock:
            self.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        given, wanted = self.headers.get("Authorization"), self.pretend.habits.key
        if wanted is not None and given != f"Bearer {wanted}":
            self.send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
            return
        try:
            reply = self.pretend.answer(self.path, json.loads(body or b"{}"))
        except Wrong as error:
            self.send(error.status, {"error": {"message": error.message}})
            return
        self.send(200, reply)

    def send(self, status: int, reply: Any) -> None:
        """Send a reply as it is."""
        self.send_bytes(status, json.dumps(reply).encode(), {})

    def send_bytes(self, status: int, content: bytes, headers: Mapping[str, str], *, kind: str = "json") -> None:
        """Send bytes and headers."""
        self.send_response(status)
        self.send_header("Content-Type", f"application/{kind}" if kind == "json" else kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class Server:
    """A server of its own in a thread, on a port of this machine; use with ``with``.

    Args:
        habits: What it does its own way.
        handler: A subclass of :class:`Handler`.
        tokenizer: What it cuts text with.
    """

    def __init__(
        self, habits: Habits | None = None, *, handler: type[Handler] = Handler, tokenizer: Any = None
    ) -> None:
        self.pretend = Pretend(tokenizer or make_tokenizer(), habits or Habits())
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []
        given = type("Given", (handler,), {"pretend": self.pretend, "requests": self.requests})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), given)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def become(self, **habits: Any) -> None:
        """Change the server's habits."""
        self.pretend = replace(self.pretend, habits=replace(self.pretend.habits, **habits))
        self._http.RequestHandlerClass.pretend = self.pretend  # pyright: ignore[reportAttributeAccessIssue]

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
