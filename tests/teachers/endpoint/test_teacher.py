"""Rows that cannot be answered, endpoints that stop, keys that are never told, and many requests at once."""

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from servers.asked import MakeTeacher, inputs_of, require_truth
from servers.faulty import FaultyHandler
from servers.pretend import Habits, Handler, Pretend, Server

from mashbill.distributions import TopK
from mashbill.errors import MashbillError, TeacherError
from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.transport import Transport

KEY = "sk-far-0123456789abcdef"


def test_a_row_that_the_server_refuses_is_refused(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    class Short(Handler):
        """Takes no long prompts, but the probe."""

        def _serve(self, body: bytes) -> None:
            prompt = json.loads(body or b"{}").get("prompt", [])
            if len(prompt) == 9:
                self.send(400, {"error": {"message": "maximum context length is 8 tokens"}})
                return
            super()._serve(body)

    texts = ["five", "four"]
    long = tokenizer.decode(tokenizer("The capital of Italy and one of two")["input_ids"][:8])
    inputs = inputs_of(tokenizer, [*texts, long])
    with Server(handler=Short) as server:
        scored = teacher_of(server).score(inputs)
    assert scored.refused == {2: "HTTP 400: maximum context length is 8 tokens"}
    found = scored.distribution
    assert isinstance(found, TopK)
    assert bool((found.ids[2] == -1).all())
    assert bool((found.log_tail[2] == 0).all())
    assert bool(scored.statistics.label_logprob[2].isnan().all())
    others = inputs.mask.clone()
    others[2] = False
    rest = type(inputs)(inputs.row_ids, inputs.texts, inputs.input_ids, inputs.labels, others)
    require_truth(scored, rest, len(tokenizer), label_is_known=True)


def test_a_row_that_is_cut_otherwise_is_refused(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    whole = tokenizer("The capital")["input_ids"]
    pieces = [tokenizer(letter)["input_ids"][0] for letter in "The capital"]
    assert whole != pieces
    inputs = inputs_of(tokenizer, ["The capital"])
    split = type(inputs)(
        ("split",),
        inputs.texts,
        torch.tensor([pieces[:-1]]),
        torch.tensor([pieces[1:]]),
        torch.ones(1, len(pieces) - 1, dtype=torch.bool),
    )
    with Server(Habits(takes_ids=False)) as server:
        assert "it cuts the row into" in teacher_of(server, form="completions").score(split).refused[0]
        assert "into" in teacher_of(server, form="steps").score(split).refused[0]


def test_characters_in_pieces_cannot_be_sent_as_text(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer, ["one €"])
    with Server(Habits(takes_ids=False)) as server:
        scored = teacher_of(server, form="steps").score(inputs)
        assert scored.refused == {0: "a position lies inside a character, which cannot be sent as text"}
        assert teacher_of(server, form="completions").score(inputs).refused == {}


def test_a_server_that_dies_stops_the_run(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer, ["five"])
    with Server() as server:
        teacher = teacher_of(server, retries=2)
        teacher.score(inputs)
    teacher.release()
    with pytest.raises(TeacherError, match=r"stopped answering: cannot reach it.*3 attempts") as told:
        teacher.score(inputs)
    assert told.value.exit_code == 3
    assert "goes on from there" in told.value.help


def test_a_key_that_is_taken_back_stops_the_run(
    teacher_of: MakeTeacher, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    with Server(Habits(key=KEY)) as server:
        teacher = teacher_of(server, key_variable="FAR_KEY")
        teacher.score(inputs_of(tokenizer, ["five"]))
        server.become(key="another")
        with pytest.raises(TeacherError, match="HTTP 401") as told:
            teacher.score(inputs_of(tokenizer, ["five", "four"]))
    assert KEY not in str(told.value)


def test_no_more_requests_are_under_way_than_allowed(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    now, most, lock = 0, 0, threading.Lock()

    class Slow(Handler):
        """Counts who is there."""

        def _serve(self, body: bytes) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            super()._serve(body)
            with lock:
                now -= 1

    inputs = inputs_of(tokenizer, [f"{word} {n}" for word in ("one", "two", "three") for n in range(8)])
    with Server(handler=Slow) as server:
        assert teacher_of(server, concurrency=3).score(inputs).refused == {}
    assert most == 3


def test_a_rate_limit_is_kept_by_all(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    came: list[float] = []
    limit = threading.Event()

    class Limited(Handler):
        """Asks once to be left alone for a while."""

        def _serve(self, body: bytes) -> None:
            came.append(time.monotonic())
            if limit.is_set():
                limit.clear()
                self.send_bytes(429, b"{}", {"Retry-After": "1"})
                return
            super()._serve(body)

    inputs = inputs_of(tokenizer, ["one", "two", "three", "four"])
    with Server(handler=Limited) as server:
        teacher = teacher_of(server, concurrency=1)
        teacher.score(inputs)
        limit.set()
        n_before = len(came)
        assert teacher.score(inputs).refused == {}
    gaps = [after - before for before, after in zip(came[n_before:], came[n_before + 1 :], strict=False)]
    assert gaps[0] >= 0.99


@pytest.mark.parametrize(("kind", "words"), [("no end", "has more than"), ("drops", "went on for more than 0.3 s")])
def test_a_reply_without_an_end_is_not_read_for_ever(
    kind: str, words: str, teacher_of: MakeTeacher, tokenizer: Any
) -> None:
    class Endless(FaultyHandler):
        """Answers the last question for ever."""

        def _serve(self, body: bytes) -> None:
            if len(self.requests) == n_before:
                self._break(kind, body)
            else:
                Handler._serve(self, body)

    n_before = -1
    with Server(handler=Endless) as server:
        teacher = teacher_of(server, retries=0, timeout=0.3, form="vllm")
        teacher.score(inputs_of(tokenizer, ["five"]))
        n_before = len(server.requests)
        assert words in teacher.score(inputs_of(tokenizer, ["four"])).refused[0]


@pytest.mark.parametrize("value", ["", "two words", "line\nend", "café"])
def test_a_variable_without_a_key_is_named_and_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", value)
    with pytest.raises(MashbillError, match="`FAR_KEY`") as told:
        Transport(Settings(url="http://localhost/v1", model="m", key_variable="FAR_KEY"))
    assert not value or value not in str(told.value)


def test_only_the_key_of_the_recipe_is_sent(
    teacher_of: MakeTeacher, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-somebody-elses")
    monkeypatch.setenv("FAR_KEY", KEY)
    inputs = inputs_of(tokenizer, ["five"])
    with Server() as server:
        teacher_of(server).score(inputs)
        without = list(server.requests)
        server.requests.clear()
        teacher_of(server, key_variable="FAR_KEY").score(inputs)
        sent: list[Mapping[str, str]] = [headers for _, headers, _ in server.requests]
    assert not any("authorization" in headers for _, headers, _ in without)
    assert {headers["authorization"] for headers in sent} == {f"Bearer {KEY}"}
    assert "elses" not in str([*without, *sent])


class Telling(Handler):
    """Repeats what it was sent, wherever it can."""

    def _serve(self, body: bytes) -> None:
        given = self.headers.get("Authorization", "")
        self.send_bytes(503, json.dumps({"error": f"{given} {given}"}).encode(), {"X-Request-Id": given, "Via": given})


def test_the_key_is_in_no_error_and_no_log(
    teacher_of: MakeTeacher, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "httpx", "httpcore"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    with Server(handler=Telling) as server:
        teacher = teacher_of(server, key_variable="FAR_KEY", retries=1)
        with pytest.raises(TeacherError) as told:
            teacher.score(inputs_of(tokenizer, ["five"]))
    error: BaseException | None = told.value
    while error is not None:  # What is not printed can still be sent to somebody who collects errors.
        assert KEY not in f"{error!r} {error} {error.__dict__}"
        error = error.__cause__ or error.__context__
    shown = [teacher, teacher.__dict__, teacher.settings, teacher.identity(), teacher._transport.__dict__]
    assert "[key]" in str(told.value)
    assert KEY not in caplog.text
    assert len(caplog.records) > 5
    assert KEY not in repr(shown[:4])
    assert KEY not in str({**shown[4], "_options": ""})


def test_identity_says_whom_and_what_for(teacher_of: MakeTeacher) -> None:
    one, moved = teacher_of("http://localhost:1/v1"), teacher_of("http://elsewhere:2/v1")
    assert one.identity() == moved.identity() != teacher_of("http://localhost:1/v2").identity()
    assert one.identity() != teacher_of("http://localhost:1/v1", model="other").identity()
    assert one.identity()["source"] == "pretend"
    assert one.identity() == teacher_of("http://localhost:1/v1", concurrency=3, retries=9).identity()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000/v1", "is no address"),
        ("ftp://host/v1", "is no address"),
        ("http:///v1", "is no address"),
        ("http://me:secret@host/v1", "no user, no password"),
        ("http://host/v1?key=secret", "no user, no password"),
    ],
)
def test_an_address_is_checked_and_its_secrets_are_not_shown(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        Settings(url=url, model="m")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("name", ["sk-0123456789", "deadbeef0123456789", "My-Key", "", "1KEY"])
def test_a_key_in_place_of_a_variable_is_not_shown(name: str) -> None:
    with pytest.raises(ValueError, match="never the key itself") as told:
        Settings(url="http://host/v1", model="m", key_variable=name)
    assert not name or name not in str(told.value)


def test_attempts_are_counted_and_no_others_are_made(
    teacher_of: MakeTeacher, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server:
        teacher = teacher_of(server, form="vllm", retries=1)
        teacher.score(inputs_of(tokenizer, ["five"]))
        server.requests.clear()
        monkeypatch.setattr(Handler, "send", lambda self, status, reply: self.send_bytes(503, b"{}", {}))
        assert "HTTP 503" in teacher.score(inputs_of(tokenizer, ["four"])).refused[0]
        assert len(server.requests) == 2


@pytest.mark.parametrize("form", ["vllm", "sglang"])
def test_the_answer_to_another_row_is_not_taken(
    form: str, teacher_of: MakeTeacher, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server:
        teacher = teacher_of(server, form=form, retries=0)
        teacher.score(inputs_of(tokenizer, ["five"]))
        answer, name = Pretend.answer, "prompt" if form == "vllm" else "input_ids"

        def other(self: Pretend, path: str, body: Mapping[str, Any]) -> Any:
            return answer(self, path, {**body, name: [7, *body[name][1:-1], 9]})

        monkeypatch.setattr(Pretend, "answer", other)
        scored = teacher.score(inputs_of(tokenizer, ["one, two"]))
    assert "is about another token" in scored.refused[0]
