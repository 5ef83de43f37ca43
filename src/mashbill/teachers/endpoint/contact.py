"""The first contact: whether an endpoint is there, says log-probabilities, and about which token each of them is.

A server that ignores what it does not know, or whose entries are off by one, would give answers that look right and
are wrong. So before the first row is asked about, a sentence is scored in the form in question, and the same is asked
in a way that cannot be shifted: what the server itself would say next after each of several beginnings of it. Lists
are compared by ``1 - sum min(p, q) / sum max(p, q)``, which is 0 for equal lists and 1 for lists with nothing in
common. A form is believed if it agrees at every place, and if the other reading of it does not agree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mashbill.errors import TeacherError, VocabularyError, did_you_mean
from mashbill.teachers.endpoint.asking import Ask, Failed, Form, Listed, Question, unanswerable
from mashbill.teachers.endpoint.echoed import Completions, Sglang, Vllm, listed_words
from mashbill.teachers.endpoint.replies import member
from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.spelling import Spelling
from mashbill.teachers.endpoint.stepping import settle_chat, settle_steps
from mashbill.teachers.endpoint.telling import OTHER, SAME, distance, require_long
from mashbill.teachers.token_bytes import TokenBytes

PROBE = "The capital of France is Paris, and the capital of Italy is Rome. One, two, three, four, five."
N_PLACES = 4
_SHARE_OF_OTHERS = 0.05
# Decoded words of byte-level tokens differ here and there between libraries; those of another tokenizer nearly all.


@dataclass(frozen=True)
class Endpoint:
    """Who is asked, for messages.

    Attributes:
        teacher: Its id in the recipe.
        settings: Where it is.
    """

    teacher: str
    settings: Settings

    def refused(self, reason: str, *, why: str = "", help: str = "") -> TeacherError:
        """Return the error of an endpoint that cannot be used."""
        where = f"teachers.{self.teacher}.endpoint, {self.settings.url}"
        return TeacherError(f"teacher `{self.teacher}`: {reason}", where=where, why=why, help=help)


def probe_of(tokenizer: Any, tokens: TokenBytes) -> list[int]:
    """Return the student's ids of :data:`PROBE`, which begin as its rows do."""
    return [*tokens.start, *tokenizer(PROBE, add_special_tokens=False)["input_ids"]]


def find_form(endpoint: Endpoint, ask: Ask, spelling: Spelling, probe: Sequence[int]) -> Form:
    """Return the form in which an endpoint can be asked.

    Args:
        endpoint: Which one.
        ask: Sends one request.
        spelling: Of the student's tokens.
        probe: As :func:`probe_of` returns it.

    Raises:
        TeacherError: Nobody answers, the model is not there, or no form passes.
        VocabularyError: Its ids mean something else.
    """
    _require_model(endpoint, ask)
    settings = endpoint.settings
    tries: dict[str, Callable[[], Form]] = {
        "vllm": lambda: _settle(Vllm(settings, spelling), endpoint, ask, probe),
        "sglang": lambda: _settle(Sglang(settings, spelling), endpoint, ask, probe),
        "completions": lambda: _settle_completions(Completions(settings, spelling), endpoint, ask, probe),
        "steps": lambda: settle_steps(settings, spelling, ask, probe),
        "chat": lambda: settle_chat(settings, spelling, ask),
    }
    names = ["vllm", "sglang", "completions"] if settings.form == "auto" else [settings.form]
    reasons = {}
    for name in names:
        try:
            return tries[name]()
        except Failed as failure:
            if failure.is_gone or failure.reason.startswith(("HTTP 401", "HTTP 403")):
                raise _explained(endpoint, failure) from None
            reasons[name] = failure.reason
    raise _no_form(endpoint, reasons)


def _require_model(endpoint: Endpoint, ask: Ask) -> None:
    try:
        known, aliases = ask("/models", None, _models)
    except Failed as failure:
        if failure.reason.startswith(("HTTP 404", "HTTP 405", "HTTP 501")):
            return  # Not every server says what it has.
        raise _explained(endpoint, failure) from None
    wanted = endpoint.settings.model
    if known and wanted not in known + aliases:
        shown = ", ".join(f"`{name}`" for name in known[:5]) + (" and others" if len(known) > 5 else "")
        raise endpoint.refused(
            f"the endpoint has no model `{wanted}`{did_you_mean(wanted, known)}",
            help=f"correct `model`; it has {shown}",
        )


def _models(reply: Any) -> tuple[list[str], list[str]]:
    """Return the names of a server's models, and their other names."""
    models = (reply.get("data") if isinstance(reply, dict) else None) or ()
    known = [str(one["id"]) for one in models if isinstance(one, dict) and "id" in one]
    return known, [str(name) for one in models if isinstance(one, dict) for name in one.get("aliases") or ()]


def _settle_completions(form: Completions, endpoint: Endpoint, ask: Ask, probe: Sequence[int]) -> Form:
    try:
        return _settle(form, endpoint, ask, probe)
    except Failed as failure:
        if failure.verdict != "row":
            raise
    as_text, n_start = replace(form, as_text=True), len(form.spelling.tokens.start)
    try:
        return _settle(as_text, endpoint, ask, probe)
    except Failed as failure:
        if failure.verdict != "row" or not n_start:
            raise
        first = failure
    try:  # Some do not repeat the start token that they put before a text.
        return _settle(replace(as_text, n_hidden=n_start), endpoint, ask, probe)
    except Failed:
        raise first from None


def _settle(
    form: Vllm | Sglang | Completions, endpoint: Endpoint, ask: Ask, probe: Sequence[int]
) -> Vllm | Sglang | Completions:
    """Return a form with the shift that its entries have."""
    question = Question(tuple(probe), tuple(range(2, len(probe) - 1)))
    first = form.calls(question)[0]

    def read(reply: Any) -> tuple[list[Mapping[int, Listed]], Vllm | Sglang | Completions]:
        _require_echo(form, reply)
        if isinstance(form, Completions):
            heard = replace(form, spelling=form.spelling.heard(listed_words(reply)))
        else:
            _require_same_words(form, endpoint, reply)
            heard = form
        return [replace(heard, shift=shift).calls(question)[0].read(reply) for shift in (0, 1)], heard

    readings, form = ask(first.path, first.body, read)
    apart: tuple[list[float], list[float]] = ([], [])
    calls = {n: form.next_token(probe[:n]) for n in _places(len(probe))}
    told = {n: ask(call.path, call.body, call.read)[0] for n, call in calls.items()}
    require_long(told.values(), endpoint.settings)
    for n, said in told.items():
        for shift in (0, 1):
            apart[shift].append(distance(readings[shift][n - 1].top, said.top))
    for shift in (0, 1):
        if max(apart[shift]) <= SAME:
            if max(apart[1 - shift]) < OTHER:
                raise unanswerable("the probe does not tell about which token its entries are")
            return replace(form, shift=shift)
    raise unanswerable(
        "what it says of a prompt's own tokens is not what it would say next itself: "
        f"lists are {max(apart[0]):.2f} apart, and {max(apart[1]):.2f} if moved by one"
    )


def _places(n: int) -> list[int]:
    """Return lengths of beginnings, spread over the probe."""
    return sorted({max(3, n * (place + 1) // (N_PLACES + 1)) for place in range(N_PLACES)})


def _require_echo(form: Form, reply: Any) -> None:
    """Refuse a server that has generated, and said nothing about the prompt."""
    if form.name == "vllm" and member(reply, "choices", 0).get("prompt_logprobs") is None:
        raise unanswerable("it ignores `prompt_logprobs`")
    if form.name == "completions":
        told = member(reply, "choices", 0).get("logprobs")
        if told is None:
            raise unanswerable("it says no log-probabilities")
        if "tokens" not in told or len(told["tokens"]) <= 1:
            raise unanswerable("it ignores `echo`")


def _require_same_words(form: Vllm | Sglang, endpoint: Endpoint, reply: Any) -> None:
    """Refuse ids that mean other tokens there."""
    told = {(id, word): form.spelling.agrees(id, word) for id, word in form.words(reply)}
    known = {pair: same for pair, same in told.items() if same is not None}
    others = [pair for pair, same in known.items() if not same]
    if not known:
        raise unanswerable("it does not say what its token ids mean")
    if len(others) > _SHARE_OF_OTHERS * len(known):
        pieces = form.spelling.tokens.pieces
        mine = {id: pieces.get(id, b"").decode("utf-8", "replace") for id, _ in others[:3]}
        shown = ", ".join(f'{id} "{mine[id]}" vs "{word}"' for id, word in others[:3])
        raise VocabularyError(
            f"teacher `{endpoint.teacher}` does not share the student's vocabulary: {len(others)} of {len(known)} ids "
            f"in its reply name different tokens (student vs teacher, first: {shown})",
            where=f"teachers.{endpoint.teacher}.endpoint, {endpoint.settings.url}",
            why="training on these ids would run, and be silently wrong",
            help="serve a model with the student's tokenizer",
        )


def _explained(endpoint: Endpoint, failure: Failed) -> TeacherError:
    """Return what a user reads of an endpoint that does not answer as one."""
    reason, key = failure.reason, endpoint.settings.key_variable
    if failure.is_gone:
        return endpoint.refused(f"nobody answers: {reason}", help="start the server, or correct `url`")
    if reason.startswith(("HTTP 401", "HTTP 403")):
        told = (
            f"the environment variable `{key}` holds a wrong key" if key else "name a `key_variable` that holds a key"
        )
        return endpoint.refused(f"the endpoint refuses: {reason}", help=told)
    if failure.is_foreign:
        return endpoint.refused(reason, help="correct `url`: it is the address of the interface, often ending in /v1")
    return endpoint.refused(f"the endpoint cannot be used: {reason}", help="look at the server's log, or correct `url`")


def _no_form(endpoint: Endpoint, reasons: Mapping[str, str]) -> TeacherError:
    if len(reasons) == 1:
        [(name, reason)] = reasons.items()
        return endpoint.refused(
            f"the endpoint cannot be asked in the form `{name}`: {reason}",
            why="what cannot be told to be right is not stored",
            help="choose another `form`, or a smaller `top_logprobs` if the server has a limit",
        )
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return endpoint.refused(
        "the endpoint says no log-probabilities of the rows' own tokens that can be believed",
        why=told,
        help="`form: steps` asks a server that can only generate, with a request for each position",
    )
