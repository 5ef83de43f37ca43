"""The first contact with a server that is asked position by position.

What it says after a beginning cannot be shifted, but it can be about something else: ids of another tokenizer, a
prompt that is cut differently, a turn of the assistant that is closed and not continued. So two tokens are generated,
and the list of the second has to be the list of the next token once the first has been sent back.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mashbill.teachers.endpoint.asking import Ask, Failed, Form, Listed, unanswerable
from mashbill.teachers.endpoint.echoed import listed_words, prompt_tokens
from mashbill.teachers.endpoint.replies import member
from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.spelling import Spelling
from mashbill.teachers.endpoint.stepwise import Chat, Steps
from mashbill.teachers.endpoint.telling import SAME, distance, require_long

QUESTION = "What is the capital of France? Answer in one sentence."
_N_TRIES = 4
# What is generated is drawn at random: it can be an end, or a part of a character.


def settle_steps(settings: Settings, spelling: Spelling, ask: Ask, probe: Sequence[int]) -> Form:
    """Return the form for completions of one token; raises :class:`Failed`."""
    try:
        return _settle_steps(Steps(settings, spelling), ask, probe)
    except Failed as failure:
        if failure.verdict != "row":
            raise
        first = failure
    try:
        return _settle_steps(Steps(settings, spelling, as_text=True), ask, probe)
    except Failed as failure:
        raise unanswerable(f"with token ids: {first.reason}; with text: {failure.reason}") from None


def settle_chat(settings: Settings, spelling: Spelling, ask: Ask) -> Form:
    """Return the form for chat completions of one token; raises :class:`Failed`."""

    def read(reply: Any) -> tuple[Chat, str | None, Listed | None]:
        form = Chat(settings, spelling, trust_ids=_are_ids_ours(reply, spelling))
        word = _first_word(reply, form)
        return form, word, None if word is None else form.said(reply, 1)

    for _ in range(_N_TRIES):
        form, word, second = ask("/chat/completions", Chat(settings, spelling).generation(QUESTION, "", 2), read)
        if second is not None:
            again = ask("/chat/completions", form.generation(QUESTION, word, 1), partial(form.said, place=0))
            _require_same(second, again, "it does not continue a turn of the assistant that has been begun")
            return form
    raise unanswerable("nothing that it generates can be sent back")


def _settle_steps(plain: Steps, ask: Ask, probe: Sequence[int]) -> Form:
    for n_cut in range(1, _N_TRIES + 1):
        prefix = list(probe[:-n_cut])
        form, first, id, second = ask("/completions", plain.generation(prefix, 2), partial(_begun, plain, len(prefix)))
        require_long([first, *([] if second is None else [second])], form.settings)
        if not form.as_text and not form.trust_ids:
            _require_same_prompt(form, first, prefix, ask)
        if second is not None:
            again = ask("/completions", form.generation([*prefix, id], 1), partial(form.said, place=0))
            _require_same(second, again, "it does not go on where a prompt ends")
            return form
    raise unanswerable("nothing that it generates can be sent back")


def _begun(plain: Steps, n_sent: int, reply: Any) -> tuple[Steps, Listed, int | None, Listed | None]:
    """Return how to read replies, the list of the first token, that token, and the list of the second."""
    n = prompt_tokens(reply)
    tokens = plain.spelling.tokens
    if n is None and plain.as_text and (tokens.start or tokens.leads_with_space):
        raise unanswerable("it does not say how many tokens a prompt had, so that nobody knows how it begins")
    if n is not None and n != n_sent:
        raise unanswerable(f"it cuts a prompt of {n_sent} tokens into {n}")
    form = replace(plain, trust_ids=_are_ids_ours(reply, plain.spelling))
    if "content" not in member(reply, "choices", 0, "logprobs"):
        form = replace(form, spelling=form.spelling.heard(listed_words(reply)))
    id = _first_id(reply, form)
    return form, form.said(reply, 0), id, None if id is None else form.said(reply, 1)


def _require_same_prompt(form: Steps, first: Listed, prefix: Sequence[int], ask: Ask) -> None:
    """Refuse ids that are another prompt than their text, with the start token that is put before it or without."""
    as_text, read = replace(form, as_text=True).generation(prefix, 1), partial(form.said, place=0)
    told, n_start = ask("/completions", as_text, read), len(form.spelling.tokens.start)
    if n_start and distance(first.top, told.top) > SAME:
        first = ask("/completions", form.generation(prefix[n_start:], 1), read)
    _require_same(first, told, "token ids are another prompt to it than their text")


def _require_same(one: Listed, other: Listed, otherwise: str) -> None:
    apart = distance(one.top, other.top)
    if apart > SAME:
        raise unanswerable(f"{otherwise}: lists that should be equal are {apart:.2f} apart")


def _are_ids_ours(reply: Any, spelling: Spelling) -> bool:
    """Say whether a reply has ids and all of them mean the student's tokens."""
    told = member(reply, "choices", 0).get("logprobs")
    if not isinstance(told, dict):
        raise unanswerable("it says no log-probabilities")
    n = 0
    for content in told.get("content") or ():
        for entry in content.get("top_logprobs") or ():
            spelled, id = entry.get("bytes"), entry.get("id")
            if not isinstance(id, int) or not isinstance(spelled, list):
                return False
            if id in spelling.tokens.pieces and spelled:
                n += 1
                if spelling.tokens.pieces[id] != bytes(spelled):
                    return False
    return n > 0


def _first_id(reply: Any, form: Steps) -> int | None:
    """Return the first token of two that were generated, if it can be sent back."""
    told = member(reply, "choices", 0, "logprobs")
    if "content" in told:
        entries = told["content"]
        id = form.spelling.id_of_entry(entries[0], trust_ids=form.trust_ids) if len(entries) > 1 else None
    else:
        words = told.get("tokens") or ()
        id = form.spelling.id_of_text(str(words[0])) if len(words) > 1 else None
    return None if id is None or id in form.spelling.tokens.special else id


def _first_word(reply: Any, form: Chat) -> str | None:
    entries = member(reply, "choices", 0, "logprobs", "content")
    if len(entries) < 2:
        return None
    id = form.spelling.id_of_entry(entries[0], trust_ids=form.trust_ids)
    if id is None:
        return None
    try:
        return form.spelling.text_of([id]) or None
    except Failed:
        return None
