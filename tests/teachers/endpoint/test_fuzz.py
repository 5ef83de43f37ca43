"""Replies with anything in place of any of their parts are refused, or give numbers that can be probabilities."""

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.pretend import Pretend
from servers.pretend_tokenizers import make_tokenizer

from mashbill.errors import MashbillError
from mashbill.teachers.endpoint.asking import Failed, Form, Question, Read
from mashbill.teachers.endpoint.contact import Endpoint, find_form, probe_of
from mashbill.teachers.endpoint.echoed import Completions, Sglang, Vllm
from mashbill.teachers.endpoint.replies import guarded
from mashbill.teachers.endpoint.settings import FormName, Settings
from mashbill.teachers.endpoint.spelling import Spelling
from mashbill.teachers.endpoint.stepwise import Chat, Steps
from mashbill.teachers.token_bytes import TokenBytes

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10),
    st.sampled_from([10**400, -(10**400), 1e308, -9999.0, -1e300, 0.0, math.nan, -math.inf]),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.none(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.floats(), max_size=2),
)


def forms() -> list[Form]:
    settings_ = Settings(url="http://localhost/v1", model="pretend", top_logprobs=4)
    spelling = Spelling(TokenBytes.of(make_tokenizer(), owner="the student"))
    echoed = [kind(settings_, spelling, shift=shift) for kind in (Vllm, Sglang, Completions) for shift in (0, 1)]
    return [*echoed, Steps(settings_, spelling), Chat(settings_, spelling)]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every part of a reply."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], junk)
    return copy


@pytest.mark.parametrize("form", ["auto", "vllm", "sglang", "completions", "steps", "chat"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_a_first_contact_with_junk_ends_with_a_form_or_one_error(form: FormName, data: st.DataObject) -> None:
    tokenizer = make_tokenizer()
    tokens, pretend = TokenBytes.of(tokenizer, owner="the student"), Pretend(tokenizer)
    settings_ = Settings(url="http://localhost/v1", model="pretend", top_logprobs=4, form=form)
    left = data.draw(st.integers(0, 6))

    def ask(path: str, body: Any, read: Read) -> Any:
        nonlocal left
        path = path if path.startswith("/") else "/generate"
        reply = json.loads(json.dumps(pretend.answer(path if path == "/generate" else f"/v1{path}", body or {})))
        left -= 1
        if left < 0 and data.draw(st.booleans()):
            reply = put(reply, data.draw(st.sampled_from(list(places(reply))[:40])), data.draw(JUNK))
        return guarded(read, reply)

    with contextlib.suppress(MashbillError):  # and nothing else
        found = find_form(Endpoint("far", settings_), ask, Spelling(tokens), probe_of(tokenizer, tokens))
        assert form in ("auto", found.name)


@pytest.mark.parametrize("form", forms(), ids=lambda form: f"{form.name} {getattr(form, 'shift', '')}")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_no_reply_is_believed_that_holds_junk(form: Form, data: st.DataObject) -> None:
    tokenizer = make_tokenizer()
    tokens = tuple(tokenizer("capital of Rome")["input_ids"])
    call = form.calls(Question(tokens, tuple(range(1, len(tokens) - 1))))[0]
    path = call.path if call.path.startswith("/") else "/generate"
    good = Pretend(tokenizer).answer(path if path == "/generate" else f"/v1{path}", call.body)
    reply = json.loads(json.dumps(good))
    assert guarded(call.read, reply)
    for _ in range(data.draw(st.integers(1, 2))):
        where = data.draw(st.sampled_from(list(places(reply))))
        reply = put(reply, where, data.draw(JUNK))
    try:
        found = guarded(call.read, reply)
    except Failed:
        return
    for one in found.values():
        numbers = [*one.top.values(), *([] if one.label is None else [one.label])]
        assert all(math.isfinite(number) and -1000 < number <= 0 for number in numbers)
        assert math.fsum(map(math.exp, one.top.values())) <= 1 + 1e-9
        assert all(form.spelling.has(id) for id in one.top)  # pyright: ignore[reportAttributeAccessIssue]
