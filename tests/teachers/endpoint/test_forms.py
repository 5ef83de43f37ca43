"""Every form brings the numbers of the model behind it, at the positions that they are about."""

import math
from typing import Any

import pytest
from servers.asked import MakeTeacher, inputs_of, require_truth
from servers.pretend import Habits, Server

from mashbill.distributions import TopK

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
