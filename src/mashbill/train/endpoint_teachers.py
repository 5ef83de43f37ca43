"""Teachers behind an endpoint, from a recipe: what can be checked without a network, and how one is built."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mashbill.errors import Problem, VocabularyError
from mashbill.teachers.endpoint.settings import Settings
from mashbill.train import recipe
from mashbill.train.loading import Loaded

if TYPE_CHECKING:
    from mashbill.teachers.endpoint.teacher import EndpointTeacher
    from mashbill.teachers.entry_classes import EntryClasses
    from mashbill.train.protocol import Student


def check_endpoint(
    loaded: Loaded, key: str, given: recipe.Endpoint, *, has_store: bool, is_asked: bool
) -> Iterator[Problem]:
    """Find what is wrong with an endpoint, asking nobody.

    Args:
        loaded: The recipe.
        key: Of the endpoint in it.
        given: The endpoint.
        has_store: Its answers are kept.
        is_asked: Somebody will be asked; else the answers are in a store, and neither client nor key are needed.
    """
    if loaded.recipe.student.kind != "causal_lm":
        what = "an endpoint says tokens, but the student is a classifier"
        yield loaded.problem(key, what, "give it a `plugin`, or a local `model` with a classifier's head")
    if given.form == "chat" and loaded.recipe.data.format != "prompt_completion":
        what = "`chat` makes a user's turn of the prompt, and the rows have none"
        yield loaded.problem(f"{key}.form", what, "use `format: prompt_completion`, or another form")
    if not has_store:
        what = "answers cost time and money, and what a run keeps of them is lost with the first row that is refused"
        yield loaded.problem(key, what, "give the teacher a `store`: `mashbill capture` fills it, and runs read it")
    if not is_asked:
        return
    if find_spec("openai") is None:
        yield loaded.problem(key, "the package `openai` is not installed", "pip install 'mashbill[http]'")
    if given.key_variable is not None and not os.environ.get(given.key_variable):
        what = f"the environment variable `{given.key_variable}` is not set"
        yield loaded.problem(f"{key}.key_variable", what, f"export {given.key_variable}=...")


def endpoint_teacher(spec: recipe.Teacher, student: "Student", *, classes: "EntryClasses") -> "EndpointTeacher":
    """Return the teacher that asks a recipe's endpoint; it asks nothing yet.

    Raises:
        VocabularyError: The student's tokens cannot be told to another.
    """
    from mashbill.teachers.endpoint.contact import probe_of
    from mashbill.teachers.endpoint.teacher import EndpointTeacher
    from mashbill.teachers.token_bytes import TokenBytes

    assert spec.endpoint is not None, "the caller looked"
    tokenizer = getattr(student, "tokenizer", None)
    if student.kind != "causal_lm" or tokenizer is None:
        raise VocabularyError(
            f"teacher `{spec.id}` is an endpoint, which says tokens, but the student says labels",
            help="give it a `plugin`, or train a causal_lm",
        )
    tokens = TokenBytes.of(tokenizer, owner="the student")
    settings = Settings(**spec.endpoint.model_dump())
    probe = probe_of(tokenizer, tokens)
    return EndpointTeacher(spec.id, settings, student.vocabulary, tokens, probe=probe, classes=classes)
