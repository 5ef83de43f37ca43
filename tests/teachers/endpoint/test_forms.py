"""Every form brings the numbers of the model behind it, at the positions that they are about."""

import json
import math
from typing import Any

import pytest
from servers.asked import MakeTeacher, inputs_of, require_truth
from servers.pretend import Habits, Server
from servers.pretend_tokenizers import make_llama_tokenizer

from mashbill.distributions import TopK
from mashbill.errors import TeacherError

LLAMA_TEXTS = ["The capital of France", "The capital, one, two"]  # A row that begins with a bare space has no text.
TEXTS = ["The capital of France", "is Rome. One, two", "five"]


@pytest.mark.parametrize("form", ["vllm", "sglang", "completions", "steps"])
@pytest.mark.parametrize("n_prompt", [0, 2])
def test_a_form_brings_the_numbers_of_the_model(
    form: str, n_prompt: int, teacher_of: MakeTeacher, tokenizer: Any
) -> None:
    texts = ["The capital of France", "is Rome. One, two"]
    inputs = inputs_of(tokenizer, texts, n_prompt=n_prompt)
    with Server() as server:
        scored = teacher_of(server, form=form).score(inputs)
    assert scored.refused == {}
    n = require_truth(scored, inputs, len(tokenizer), label_is_known=form != "steps")
    assert n == int(inputs.mask.sum())


@pytest.mark.parametrize("form", ["vllm", "sglang", "completions"])
def test_entries_that_are_off_by_one_are_moved_back(form: str, teacher_of: MakeTeacher, tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer, TEXTS)
    with Server(Habits(shift=1)) as server:
        teacher = teacher_of(server, form=form)
        scored = teacher.score(inputs)
    assert getattr(teacher.form, "shift", None) == 1
    require_truth(scored, inputs, len(tokenizer), label_is_known=False)


def test_text_is_sent_where_ids_are_not_taken(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer, TEXTS)
    with Server(Habits(takes_ids=False)) as server:
        for form in ("completions", "steps"):
            teacher = teacher_of(server, form=form)
            scored = teacher.score(inputs)
            assert getattr(teacher.form, "as_text", None) is True
            # The end of text cannot be sent as text, so its own log-probability may be missing.
            require_truth(scored, inputs, len(tokenizer), label_is_known=False)


@pytest.mark.parametrize("form", ["completions", "steps"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("repeats_start", [True, False])
def test_a_start_token_is_left_to_a_server_that_takes_text(
    form: str, shift: int, repeats_start: bool, teacher_of: MakeTeacher
) -> None:
    tokenizer = make_llama_tokenizer()
    inputs = inputs_of(tokenizer, LLAMA_TEXTS)
    assert inputs.input_ids is not None
    assert set(inputs.input_ids[:, 0].tolist()) == {tokenizer.bos_token_id}
    habits = Habits(takes_ids=False, shift=shift, repeats_start=repeats_start)
    with Server(habits, tokenizer=tokenizer) as server:
        teacher = teacher_of(server, form=form)
        scored = teacher.score(inputs)
        sent = [json.loads(body)["prompt"] for _, _, body in server.requests if body]
    assert scored.refused == {}
    assert getattr(teacher.form, "as_text", None) is True
    assert not any("<s>" in prompt or prompt.startswith(" ") for prompt in sent if isinstance(prompt, str))
    n = require_truth(scored, inputs, len(tokenizer), label_is_known=False)
    assert n == int(inputs.mask.sum())


@pytest.mark.parametrize("form", ["vllm", "completions", "steps"])
@pytest.mark.parametrize("starts", [True, False])
def test_a_start_token_is_sent_among_ids(form: str, starts: bool, teacher_of: MakeTeacher) -> None:
    tokenizer = make_llama_tokenizer()
    inputs = inputs_of(tokenizer, LLAMA_TEXTS)
    with Server(Habits(starts=starts), tokenizer=tokenizer) as server:
        teacher = teacher_of(server, form=form)
        scored = teacher.score(inputs)
    assert not getattr(teacher.form, "as_text", False)
    require_truth(scored, inputs, len(tokenizer), label_is_known=False)


@pytest.mark.parametrize("form", ["completions", "steps"])
@pytest.mark.parametrize(("habits", "words"), [({"starts": False}, "tokens"), ({"counts": False}, "does not say how")])
def test_a_start_token_that_nobody_puts_there_is_noticed(
    form: str, habits: dict[str, Any], words: str, teacher_of: MakeTeacher
) -> None:
    tokenizer = make_llama_tokenizer()
    inputs = inputs_of(tokenizer, LLAMA_TEXTS)
    with (
        Server(Habits(takes_ids=False, **habits), tokenizer=tokenizer) as server,
        pytest.raises(TeacherError, match=words),
    ):
        teacher_of(server, form=form).score(inputs)


@pytest.mark.parametrize("form", ["completions", "steps"])
def test_a_text_that_is_that_of_two_tokens_has_no_certain_id(form: str, teacher_of: MakeTeacher) -> None:
    tokenizer = make_llama_tokenizer()
    inputs = inputs_of(tokenizer, LLAMA_TEXTS)
    vocabulary = tokenizer.get_vocab()
    pairs = [(vocabulary[text], id) for text, id in vocabulary.items() if "\u2581" + text in vocabulary]
    assert pairs
    with Server(Habits(keeps_spaces=False), tokenizer=tokenizer) as server:
        scored = teacher_of(server, form=form, top_logprobs=40).score(inputs)
    found = scored.distribution
    assert isinstance(found, TopK)
    labels = inputs.labels.unsqueeze(-1)
    said = set(found.ids[(found.ids != labels) & inputs.mask.unsqueeze(-1)].tolist())
    assert not said & {id for pair in pairs for id in pair}


def test_a_chat_answers_about_the_assistants_turn(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer, TEXTS[:2], n_prompt=2)
    with Server() as server:
        scored = teacher_of(server, form="chat").score(inputs)
        pretend = server.pretend

    def prefix(row: int, at: int) -> tuple[int, ...]:
        ids = inputs.input_ids[row].tolist()
        user, written = tokenizer.decode(ids[:3]), tokenizer.decode(ids[3 : at + 1])
        return (*pretend.ids_of(f"[{user}]"), *pretend.ids_of(written))

    assert scored.refused == {}
    assert require_truth(scored, inputs, len(tokenizer), label_is_known=False, user=prefix) > 4


@pytest.mark.parametrize(
    ("habits", "form"),
    [(Habits(), "vllm"), (Habits(shift=1), "vllm")],
)
def test_auto_takes_the_first_form_that_is_understood(
    habits: Habits, form: str, teacher_of: MakeTeacher, tokenizer: Any
) -> None:
    with Server(habits) as server:
        teacher = teacher_of(server)
        teacher.score(inputs_of(tokenizer, TEXTS))
        assert teacher.form.name == form


def test_nothing_is_asked_before_the_first_question(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    with Server() as server:
        teacher = teacher_of(server, key_variable="MASHBILL_NO_SUCH_KEY")
        teacher.identity()
        assert server.requests == []


def test_the_list_need_not_hold_the_label_for_its_number_to_be_exact(teacher_of: MakeTeacher, tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer, TEXTS[:1])
    with Server() as server:
        scored = teacher_of(server, form="vllm", top_logprobs=1).score(inputs)
    require_truth(scored, inputs, len(tokenizer), label_is_known=True)
    assert isinstance(scored.distribution, TopK)
    assert scored.distribution.ids.shape[-1] == 2
    assert float(scored.statistics.entropy.max()) < math.log(len(tokenizer))
