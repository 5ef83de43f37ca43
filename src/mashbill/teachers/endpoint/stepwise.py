"""Forms in which every position is a request of its own, for servers that say only what they would generate.

``T`` positions cost ``T`` requests. A server that keeps what it has computed of a prefix does the work of one row in
about the time of one row; others do it ``T`` times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mashbill.teachers.endpoint.asking import Call, Listed, Question, bad, unanswerable
from mashbill.teachers.endpoint.echoed import generated_legacy, prompt_tokens
from mashbill.teachers.endpoint.replies import listed, member, sequence
from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.spelling import Spelling


@dataclass(frozen=True)
class Steps:
    """Completions of one token, once for each position; the prompt is what stands before it.

    Attributes:
        settings: Of the endpoint.
        spelling: Of the student's tokens.
        as_text: Send prompts as text.
        trust_ids: Believe the ids in replies; they were found to mean the student's tokens.
    """

    settings: Settings
    spelling: Spelling
    as_text: bool = False
    trust_ids: bool = False
    name: str = "steps"

    def calls(self, question: Question) -> Sequence[Call]:
        """Return a request for each position that counts."""
        return [self._call(question.tokens[: at + 1], question.tokens[at + 1], at) for at in question.asked]

    def generation(self, prefix: Sequence[int], n: int) -> Mapping[str, Any]:
        """Return the body of a request for some tokens after others."""
        prompt = self.spelling.beginning_of(prefix) if self.as_text else list(prefix)
        k, model = self.settings.top_logprobs, self.settings.model
        return {"model": model, "prompt": prompt, "max_tokens": n, "temperature": 1.0, "logprobs": k}

    def said(self, reply: Any, place: int, label: int | None = None) -> Listed:
        """Return what a reply says about the ``place``-th token that was generated."""
        if isinstance(member(reply, "choices", 0, "logprobs"), dict) and "content" in reply["choices"][0]["logprobs"]:
            return by_entries(reply, place, self.spelling, self.settings, label, trust_ids=self.trust_ids)
        return generated_legacy(reply, place, self.spelling, label)

    def _call(self, prefix: Sequence[int], label: int, at: int) -> Call:
        def read(reply: Any) -> Mapping[int, Listed]:
            n = prompt_tokens(reply)
            if n is not None and n != len(prefix):
                raise unanswerable(
                    f"it cuts what is before position {at} into {n} tokens, the student into {len(prefix)}"
                )
            return {at: self.said(reply, 0, label)}

        return Call("/completions", self.generation(prefix, 1), read)


@dataclass(frozen=True)
class Chat:
    """Chat completions of one token, once for each position of a completion.

    The prompt is the user's turn, and what stands before the position begins the assistant's. So the server's own chat
    template is around both, and the first position that counts is where the assistant begins.

    Attributes:
        settings: Of the endpoint.
        spelling: Of the student's tokens.
        trust_ids: Believe the ids in replies; they were found to mean the student's tokens.
    """

    settings: Settings
    spelling: Spelling
    trust_ids: bool = False
    name: str = "chat"

    def calls(self, question: Question) -> Sequence[Call]:
        """Return a request for each position that counts."""
        first = question.asked[0]
        user = self.spelling.beginning_of(question.tokens[: first + 1])
        if not user:
            raise unanswerable("it has no prompt that could be the user's turn")
        return [
            self._call(user, self.spelling.text_of(question.tokens[first + 1 : at + 1]), question.tokens[at + 1], at)
            for at in question.asked
        ]

    def generation(self, user: str, written: str, n: int) -> Mapping[str, Any]:
        """Return the body of a request for some tokens after what the assistant has written."""
        body: dict[str, Any] = {"model": self.settings.model, "messages": [{"role": "user", "content": user}]}
        body |= {"max_tokens": n, "temperature": 1.0, "logprobs": True, "top_logprobs": self.settings.top_logprobs}
        if written:
            body["messages"].append({"role": "assistant", "content": written})
            body |= {"continue_final_message": True, "add_generation_prompt": False}  # for vLLM and SGLang
        return body

    def said(self, reply: Any, place: int, label: int | None = None) -> Listed:
        """Return what a reply says about the ``place``-th token that was generated."""
        return by_entries(reply, place, self.spelling, self.settings, label, trust_ids=self.trust_ids)

    def _call(self, user: str, written: str, label: int, at: int) -> Call:
        body = self.generation(user, written, 1)
        return Call("/chat/completions", body, lambda reply: {at: self.said(reply, 0, label)})


def by_entries(
    reply: Any, place: int, spelling: Spelling, settings: Settings, label: int | None, *, trust_ids: bool
) -> Listed:
    """Return what a reply in the form of chat completions says about the ``place``-th token that was generated."""
    top = sequence(reply, "choices", 0, "logprobs", "content", place, "top_logprobs", n_least=1)
    if not all(isinstance(entry, dict) for entry in top):
        raise bad("an entry in its reply has no log-probability")
    pairs = [(spelling.id_of_entry(entry, trust_ids=trust_ids), member(entry, "logprob")) for entry in top]
    return listed(pairs, n_least=settings.top_logprobs, label=label)
