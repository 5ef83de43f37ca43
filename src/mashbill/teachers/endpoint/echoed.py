"""Forms in which one request scores a whole row, because the server says what it thinks of the prompt's own tokens.

Entry ``j`` of such a reply is about token ``j``, or, at servers that are off by one, about token ``j + 1``; which of
the two is found out by :mod:`mashbill.teachers.endpoint.contact`. Nothing is about the first token, so that a server
that is off by one leaves the first position open; it is asked for apart. Replies hold the tokens that they are about:
the answer to another row is never taken for this one's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mashbill.teachers.endpoint.asking import Call, Listed, Question, bad, unanswerable
from mashbill.teachers.endpoint.replies import listed, member, sequence
from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.spelling import Spelling, require_text


@dataclass(frozen=True)
class Vllm:
    """``prompt_logprobs`` of vLLM: token ids in, token ids out.

    Attributes:
        settings: Of the endpoint.
        spelling: Of the student's tokens.
        shift: 0 if entries are about their own token, 1 if about the next.
    """

    settings: Settings
    spelling: Spelling
    shift: int = 0
    name: str = "vllm"

    def calls(self, question: Question) -> Sequence[Call]:
        """Return the one request for a row."""
        k = self.settings.top_logprobs
        body = {**_usual(self.settings), "prompt": list(question.tokens), "prompt_logprobs": k}
        return [Call("/completions", body, lambda reply: self._read(reply, question)), *_first(self, question)]

    def next_token(self, prefix: Sequence[int]) -> Call:
        """Return the request for what the server itself would say after some tokens."""
        body = {**_usual(self.settings), "prompt": list(prefix), "logprobs": self.settings.top_logprobs}
        body["return_tokens_as_token_ids"] = True
        return Call("/completions", body, lambda reply: {0: generated_legacy(reply, 0, self.spelling, None)})

    def words(self, reply: Any) -> Iterator[tuple[int, str]]:
        """Yield every id in a reply with the text that the server gives it."""
        for entry in member(reply, "choices", 0, "prompt_logprobs"):
            for key, told in (entry or {}).items():
                if isinstance(told, dict) and isinstance(told.get("decoded_token"), str):
                    yield _id(key), told["decoded_token"]

    def _read(self, reply: Any, question: Question) -> Mapping[int, Listed]:
        n = len(question.tokens)
        entries = sequence(reply, "choices", 0, "prompt_logprobs", n_least=n, n_most=n)
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict) and place > 0:
                raise bad(f"its reply has nothing at token {place}")
            if place > 0 and str(question.tokens[place]) not in entry:
                raise bad(f"its reply is about another token at {place}")
        return {
            at: self._one(entries[at + 1 - self.shift], question.tokens[at + 1])
            for at in question.asked
            if at + 1 - self.shift > 0
        }

    def _one(self, entry: Mapping[str, Any], label: int) -> Listed:
        pairs = {_id(key): member(told, "logprob") for key, told in entry.items()}
        known = [(id if self.spelling.has(id) else None, number) for id, number in pairs.items()]
        return listed(known, n_least=self.settings.top_logprobs, label=label, is_top=self.shift == 0)


@dataclass(frozen=True)
class Sglang:
    """``/generate`` of SGLang with ``return_logprob``: token ids in, token ids out."""

    settings: Settings
    spelling: Spelling
    shift: int = 0
    name: str = "sglang"

    def calls(self, question: Question) -> Sequence[Call]:
        """Return the one request for a row."""
        body = {**self._body(question.tokens), "logprob_start_len": 0}
        return [Call(self._path, body, lambda reply: self._read(reply, question)), *_first(self, question)]

    def next_token(self, prefix: Sequence[int]) -> Call:
        """Return the request for what the server itself would say after some tokens."""
        return Call(
            self._path,
            self._body(prefix),
            lambda reply: {0: self._one(member(reply, "meta_info", "output_top_logprobs", 0), None, None)},
        )

    def words(self, reply: Any) -> Iterator[tuple[int, str]]:
        """Yield every id in a reply with the text that the server gives it."""
        for entry in member(reply, "meta_info", "input_top_logprobs"):
            yield from ((_id(told[1]), told[2]) for told in entry or () if isinstance(told[2], str))

    @property
    def _path(self) -> str:
        return f"{self.settings.root}/generate"

    def _body(self, tokens: Sequence[int]) -> dict[str, Any]:
        sampling = {"max_new_tokens": 1, "temperature": 1.0}
        told = {"return_logprob": True, "return_text_in_logprobs": True}
        k = self.settings.top_logprobs
        return {"input_ids": list(tokens), "sampling_params": sampling, "top_logprobs_num": k, **told}

    def _read(self, reply: Any, question: Question) -> Mapping[int, Listed]:
        n = len(question.tokens)
        own = sequence(reply, "meta_info", "input_token_logprobs", n_least=n, n_most=n)
        tops = sequence(reply, "meta_info", "input_top_logprobs", n_least=n, n_most=n)
        for place, (entry, id) in enumerate(zip(own, question.tokens, strict=True)):
            if _id(member(entry, 1)) != id:
                raise bad(f"its reply is about another token at {place}")
        found = {}
        for at in question.asked:
            place = at + 1 - self.shift
            if place > 0:
                said = member(own, place, 0) if self.shift == 0 else None
                found[at] = self._one(tops[place], question.tokens[at + 1], said)
        return found

    def _one(self, entry: Any, label: int | None, own: Any) -> Listed:
        if not isinstance(entry, list):
            raise bad("its reply has no list at a position")
        pairs = ((_id(member(told, 1)), member(told, 0)) for told in entry)
        known = [(id if self.spelling.has(id) else None, number) for id, number in pairs]
        k, is_top = self.settings.top_logprobs, self.shift == 0
        return listed(known, n_least=k, label=label, label_logprob=own, is_top=is_top)


@dataclass(frozen=True)
class Completions:
    """Legacy completions with ``echo``: tokens come back as text.

    Attributes:
        settings: Of the endpoint.
        spelling: Of the student's tokens.
        shift: 0 if entries are about their own token, 1 if about the next.
        as_text: Send the prompt as text, because the server takes no ids; rows whose tokens it cuts otherwise are
            refused. Start tokens are left out, and put back by the server.
        n_hidden: Start tokens that it puts before a text and does not repeat.
    """

    settings: Settings
    spelling: Spelling
    shift: int = 0
    as_text: bool = False
    n_hidden: int = 0
    name: str = "completions"

    def calls(self, question: Question) -> Sequence[Call]:
        """Return the one request for a row."""
        sent = question.tokens
        if self.as_text and sent[-1] in self.spelling.tokens.special:
            # An end of text cannot be sent as text; what is said of it comes with the token generated.
            sent = sent[:-1]
        prompt = self.spelling.beginning_of(sent) if self.as_text else list(sent)
        body = {**_usual(self.settings), "prompt": prompt, "logprobs": self.settings.top_logprobs, "echo": True}
        return [Call("/completions", body, lambda reply: self._read(reply, question, sent)), *_first(self, question)]

    def next_token(self, prefix: Sequence[int]) -> Call:
        """Return the request for what the server itself would say after some tokens."""
        prompt = self.spelling.beginning_of(prefix) if self.as_text else list(prefix)
        body = {**_usual(self.settings), "prompt": prompt, "logprobs": self.settings.top_logprobs}

        def read(reply: Any) -> Mapping[int, Listed]:
            self._require_start(reply, prefix)
            return {0: generated_legacy(reply, 0, self.spelling, None)}

        return Call("/completions", body, read)

    def _read(self, reply: Any, question: Question, whole: Sequence[int]) -> Mapping[int, Listed]:
        self._require_start(reply, whole)
        sent = whole[self.n_hidden :]
        n, path = len(sent), ("choices", 0, "logprobs")
        said = [require_text(text) for text in sequence(reply, *path, "tokens", n_least=1)]
        if len(said) < n:
            raise unanswerable(f"it cuts the row into {len(said)} tokens, and the student into {n}")
        self.spelling.require_same(said, sent)
        own = sequence(reply, *path, "token_logprobs", n_least=len(said), n_most=len(said))
        tops = sequence(reply, *path, "top_logprobs", n_least=len(said), n_most=len(said))
        self._require_end(reply, said, sent)
        found = {}
        for at in question.asked:
            place = at + 1 - self.shift - self.n_hidden
            if 0 < place < len(said):
                known = own[place] if self.shift == 0 and place < n else None
                label, is_top = question.tokens[at + 1], self.shift == 0
                found[at] = _by_text(tops[place], self.spelling, label, known, is_top=is_top)
        return found

    def _require_start(self, reply: Any, sent: Sequence[int]) -> None:
        """Refuse a server of which it is not known that it puts before a text what the student's tokenizer does."""
        tokens, n = self.spelling.tokens, prompt_tokens(reply)
        if self.as_text and (tokens.start or tokens.leads_with_space) and n != len(sent):
            raise unanswerable(
                "it does not say how many tokens a prompt had, so that nobody knows whether it begins as the student's"
                if n is None
                else f"it cuts the row's text into {n} tokens, and the student into {len(sent)}, start tokens included"
            )

    def _require_end(self, reply: Any, said: Sequence[str], sent: Sequence[int]) -> None:
        """Refuse a row that a server cuts into more tokens: the prompt's end must be where the student's is."""
        offsets = member(reply, "choices", 0, "logprobs").get("text_offset")
        if len(said) > len(sent) + 1:
            raise unanswerable(f"it cuts the row into {len(said)} tokens or more, and the student into {len(sent)}")
        # Parts of characters have no length of their own; what is put before a text is counted by tokens instead.
        is_plain = not self.spelling.tokens.start and not self.spelling.tokens.leads_with_space
        is_whole = is_plain and not any("\ufffd" in text for text in said)
        if self.as_text and is_whole and isinstance(offsets, list) and len(offsets) > len(sent):
            length = len(self.spelling.text_of(sent))
            if isinstance(offsets[len(sent)], int) and offsets[len(sent)] != length:
                raise unanswerable("its tokens end elsewhere than the student's: they do not line up")


def prompt_tokens(reply: Any) -> int | None:
    """Return how many tokens a server says a prompt had, None if it does not say."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    n = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return n if isinstance(n, int) and not isinstance(n, bool) else None


def listed_words(reply: Any) -> Iterator[str]:
    """Yield the text of every entry of a legacy reply's lists."""
    for entry in sequence(reply, "choices", 0, "logprobs", "top_logprobs", n_least=1):
        yield from entry or ()


def generated_legacy(reply: Any, place: int, spelling: Spelling, label: int | None) -> Listed:
    """Return what a legacy reply says about the ``place``-th token that was generated."""
    tops = sequence(reply, "choices", 0, "logprobs", "top_logprobs", n_least=place + 1)
    return _by_text(tops[place], spelling, label, None)


def _by_text(entry: Any, spelling: Spelling, label: int | None, own: Any, *, is_top: bool = True) -> Listed:
    if not isinstance(entry, dict):
        raise bad("its reply has no list at a position")
    pairs = [(spelling.id_of_text(text), number) for text, number in entry.items()]
    # Tokens of the same text overwrite each other: parts of characters have none of their own, and a list of them may
    # be much shorter than was asked for. They have no certain id either, so that the list does not count as the top.
    return listed(pairs, n_least=1, label=label, label_logprob=own, is_top=is_top)


def _first(form: "Vllm | Sglang | Completions", question: Question) -> list[Call]:
    """Return the requests for first positions that a reply leaves open, as nothing is said of its first token."""
    n_open = form.shift + (form.n_hidden if isinstance(form, Completions) else 0)
    return [_apart(form.next_token(question.tokens[: at + 1]), at) for at in question.asked if at < n_open]


def _apart(call: Call, at: int) -> Call:
    return Call(call.path, call.body, lambda reply: {at: call.read(reply)[0]})


def _usual(settings: Settings) -> dict[str, Any]:
    # One token, since to some servers 0 means no limit; at temperature 1, so that what is said is what the model says.
    return {"model": settings.model, "max_tokens": 1, "temperature": 1.0}


def _id(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise bad(f"a token id in its reply is none: {str(value)[:40]!r}")
