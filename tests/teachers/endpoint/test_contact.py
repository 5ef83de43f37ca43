"""What is found out before the first row: who answers, in which form, and about which token."""

import json
import re
from typing import Any

import pytest
from servers.asked import MakeTeacher, inputs_of, require_truth
from servers.pretend import Habits, Handler, Server

from mashbill.errors import TeacherError, VocabularyError
from mashbill.teachers.endpoint.telling import distance

FORMS = ("vllm", "sglang", "completions", "steps", "chat")


def refusal(teacher_of: MakeTeacher, tokenizer: Any, server: Server | str, **changes: Any) -> str:
    """Return the one error with which a first question ends."""
    with pytest.raises(TeacherError) as told:
        teacher_of(server, **changes).score(inputs_of(tokenizer, ["The capital"], n_prompt=1))
    return str(told.value)


@pytest.mark.parametrize(
    ("habits", "form", "words"),
    [
        (Habits(echoes=False), "vllm", "ignores `prompt_logprobs`"),
        (Habits(echoes=False), "completions", "ignores `echo`"),
        (Habits(echoes=False), "auto", "steps` asks a server that can only generate"),
        (Habits(speaks_logprobs=False), "completions", "no log-probabilities"),
        (Habits(speaks_logprobs=False), "steps", "no log-probabilities"),
        (Habits(speaks_logprobs=False), "chat", "no log-probabilities"),
        (Habits(continues_turns=False), "chat", "does not continue a turn of the assistant"),
        (Habits(limit=5), "vllm", "greater than max allowed: 5"),
        (Habits(models=("other", "another")), "vllm", "no model `pretend`.*has `other`, `another`"),
        (Habits(models=("pretend-2",)), "vllm", "did you mean `pretend-2`"),
        (Habits(most=3), "completions", "lists 3 entries, and 8 were asked for.*smaller `top_logprobs`"),
        (Habits(most=3), "steps", "lists 3 entries, and 8 were asked for"),
        (Habits(key="sk-right"), "vllm", "HTTP 401.*name a `key_variable`"),
    ],
)
def test_what_cannot_be_used_is_said_once(
    habits: Habits, form: str, words: str, teacher_of: MakeTeacher, tokenizer: Any
) -> None:
    with Server(habits) as server:
        text = refusal(teacher_of, tokenizer, server, form=form)
    assert text.count("error:") == 1
    assert re.search(words, text.replace("\n", " ")), text
    assert server.url in text


def test_a_wrong_key_is_named_and_not_shown(
    teacher_of: MakeTeacher, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-wrong-0123456789")
    with Server(Habits(key="sk-right")) as server:
        text = refusal(teacher_of, tokenizer, server, key_variable="FAR_KEY")
    assert "the environment variable `FAR_KEY` holds a wrong key" in text
    assert "sk-wrong" not in text
    assert "[key]" in text  # the server has repeated it


def test_a_dead_endpoint_is_found_out_at_once(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    with Server() as server:
        url = server.url
    text = refusal(teacher_of, tokenizer, url, backoff=60.0)
    assert "nobody answers" in text
    assert "start the server" in text


@pytest.mark.parametrize(
    ("models", "is_read"),
    [
        ({"data": 5}, False),
        ({"data": [{"id": "pretend", "aliases": 7}]}, False),
        ({"data": {"id": 1}}, True),  # says nothing of what it has, as servers may
        ([], True),
    ],
)
def test_odd_names_of_models_are_one_error_or_none(
    models: Any, is_read: bool, teacher_of: MakeTeacher, tokenizer: Any
) -> None:
    class Odd(Handler):
        """Says what it has in its own way."""

        def _serve(self, body: bytes) -> None:
            if body:
                super()._serve(body)
            else:
                self.send(200, models)

    with Server(handler=Odd) as server:
        teacher = teacher_of(server, retries=0)
        if is_read:
            assert teacher.score(inputs_of(tokenizer, ["five"])).refused == {}
        else:
            with pytest.raises(TeacherError, match="another shape than what was asked for"):
                teacher.score(inputs_of(tokenizer, ["five"]))


class Page(Handler):
    """Answers with a page."""

    def _serve(self, body: bytes) -> None:
        self.send_bytes(200, b"<!doctype html><title>Welcome</title>", {}, kind="text/html")


def test_a_web_page_is_no_endpoint(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    with Server(handler=Page) as server:
        text = refusal(teacher_of, tokenizer, server, backoff=60.0)
    assert "web page, not with JSON: <!doctype html>" in text
    assert "/v1" in text


class Scrambled(Handler):
    """Says of a prompt what it would never say next."""

    def _serve(self, body: bytes) -> None:
        habits = self.pretend.habits
        is_echo = b"prompt_logprobs" in body or b"echo" in body
        object.__setattr__(habits, "shift", 2 if is_echo else 0)
        super()._serve(body)


@pytest.mark.parametrize("form", ["vllm", "completions"])
def test_entries_about_no_token_of_ours_are_refused(form: str, teacher_of: MakeTeacher, tokenizer: Any) -> None:
    with Server(handler=Scrambled) as server:
        text = refusal(teacher_of, tokenizer, server, form=form)
    assert "is not what it would say next itself" in text


def test_a_probe_that_tells_nothing_is_refused(
    teacher_of: MakeTeacher, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import servers.pretend

    always = servers.pretend.next_logprobs((1, 2, 3), len(tokenizer))
    monkeypatch.setattr(servers.pretend, "next_logprobs", lambda prefix, size: always)
    with Server() as server:
        text = refusal(teacher_of, tokenizer, server, form="vllm")
    assert "does not tell about which token" in text


@pytest.mark.parametrize("form", ["vllm", "sglang"])
def test_ids_that_mean_other_tokens_are_refused(form: str, teacher_of: MakeTeacher, tokenizer: Any) -> None:
    words = {id: f"x{id}" for id in range(1, 300)}
    with Server(Habits(words=words)) as server, pytest.raises(VocabularyError, match=r'first: .* vs "x') as told:
        teacher_of(server, form=form).score(inputs_of(tokenizer, ["The capital"]))
    assert "does not share the student's vocabulary" in str(told.value)


class Moved(Handler):
    """Takes ids for those of another tokenizer, one that has as many tokens for every text."""

    def _serve(self, body: bytes) -> None:
        asked = json.loads(body or b"{}")
        if isinstance(asked.get("prompt"), list):
            asked["prompt"] = [id - 1 for id in asked["prompt"]]
        super()._serve(json.dumps(asked).encode() if body else b"")


def test_ids_that_are_another_prompt_than_their_text_are_not_sent(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer, ["The capital of"])
    with Server(handler=Moved) as server:
        teacher = teacher_of(server, form="steps")
        scored = teacher.score(inputs)
    assert getattr(teacher.form, "as_text", None) is True
    require_truth(scored, inputs, len(tokenizer), label_is_known=False)


def test_a_server_that_does_not_say_what_it_has_is_asked_all_the_same(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    with Server(Habits(models=None)) as server:
        assert teacher_of(server).score(inputs_of(tokenizer, ["The capital"])).refused == {}


def test_the_distance_of_lists() -> None:
    one = {1: -0.7, 2: -1.2}
    assert distance(one, one) == 0
    assert distance(one, {3: -0.7}) == 1
    assert 0 < distance(one, {1: -0.8, 2: -1.2}) < 0.1
    assert distance({}, {}) == 1
