"""A teacher that answers over HTTP.

Nothing is asked until the first question, so that a run whose answers are on disk needs neither the endpoint nor its
key. Then the endpoint is tested (:mod:`mashbill.teachers.endpoint.contact`), and rows are asked about, several at once.
A row that cannot be answered is refused with the reason; an endpoint that cannot be used is an error.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

from mashbill.errors import TeacherError
from mashbill.teachers.endpoint.asking import Call, Failed, Form, Listed, Question, Read
from mashbill.teachers.endpoint.assembling import assemble
from mashbill.teachers.endpoint.contact import Endpoint, find_form
from mashbill.teachers.endpoint.crowd import at_once
from mashbill.teachers.endpoint.patience import Patience
from mashbill.teachers.endpoint.replies import guarded
from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.spelling import Spelling
from mashbill.teachers.endpoint.transport import Transport
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.token_bytes import TokenBytes
from mashbill.teachers.vocabulary import Vocabulary


class EndpointTeacher:
    """A causal language model behind an HTTP interface like OpenAI's.

    Args:
        id: Name in the recipe.
        settings: Where it is.
        vocabulary: The student's.
        tokens: Bytes of the student's tokens.
        probe: As :func:`mashbill.teachers.endpoint.contact.probe_of` returns it.
        classes: Of the student's entries, whose listed mass is measured.

    Attributes:
        patience: Counts attempts; its budget lasts as long as the teacher.
    """

    def __init__(
        self,
        id: str,
        settings: Settings,
        vocabulary: Vocabulary,
        tokens: TokenBytes,
        *,
        probe: Sequence[int],
        classes: EntryClasses = NO_CLASSES,
    ) -> None:
        self.id, self.settings, self.vocabulary, self.classes = id, settings, vocabulary, classes
        self.patience = Patience(settings)
        self._spelling, self._probe = Spelling(tokens), tuple(probe)

    @cached_property
    def form(self) -> Form:
        """The form in which the endpoint answers, found out at the first question.

        Raises:
            MashbillError: The endpoint cannot be used.
        """
        return find_form(Endpoint(self.id, self.settings), self._ask, self._spelling, self._probe)

    @cached_property
    def _transport(self) -> Transport:
        return Transport(self.settings)

    def release(self) -> None:
        """Close the connections; the next question opens new ones."""
        if "_transport" in self.__dict__:
            self.__dict__.pop("_transport").close()

    def score(self, inputs: Inputs) -> Scored:
        """Return what the endpoint says at every position that counts, ``[B T]``.

        Raises:
            TeacherError: The endpoint cannot be used, or has stopped answering.
        """
        form, calls, refused = self.form, {}, {}
        for row in inputs.mask.any(dim=1).nonzero().squeeze(1).tolist():
            try:
                calls[row] = form.calls(_question(inputs, row))
            except Failed as failure:
                refused[row] = failure.reason
        answers = self._answers(calls, refused)
        return self.classes.measured(assemble(answers, inputs, n_entries=len(self.vocabulary), refused=refused))

    def identity(self) -> Mapping[str, str]:
        """Return model and what is asked for; what runs behind an address, nobody can pin down from here."""
        return {
            "kind": "endpoint",
            "source": self.settings.model,
            "path": urlsplit(self.settings.url).path,
            "form": self.settings.form,
            "top_logprobs": str(self.settings.top_logprobs),
            "vocabulary": f"{self.vocabulary.digest} {len(self.vocabulary)}",
            **self.classes.pins,
        }

    def _answers(
        self, calls: Mapping[int, Sequence[Call]], refused: dict[int, str]
    ) -> Mapping[int, Mapping[int, Listed]]:
        """Send the requests of all rows, several at once; what is given up goes to ``refused``."""
        self.patience.begin()
        _ = self._transport  # One for all threads.
        answers: dict[int, dict[int, Listed]] = {row: {} for row in calls}
        sent = [(row, call) for row, each in calls.items() for call in each]
        jobs = [partial(self._unless_refused, refused, row, call) for row, call in sent]
        try:
            for place, found in at_once(jobs, n=self.settings.concurrency):
                row = sent[place][0]
                if isinstance(found, Failed):
                    if found.verdict == "stop":
                        raise self._stopped(found)
                    refused.setdefault(row, found.reason)
                elif isinstance(found, Exception):
                    raise found
                else:
                    answers[row] |= found
        finally:
            self.patience.stop()  # A request that nobody waits for any more is not attempted again.
        return {row: each for row, each in answers.items() if row not in refused}

    def _unless_refused(self, refused: Mapping[int, str], row: int, call: Call) -> Mapping[int, Listed]:
        """Ask, unless another request for the same row has failed for good."""
        return {} if row in refused else self._ask(call.path, call.body, call.read)

    def _ask(self, path: str, body: Mapping[str, Any] | None, read: Read) -> Any:
        def attempt() -> Any:
            transport = self._transport
            return guarded(read, transport.get(path) if body is None else transport.post(path, body))

        return self.patience.ask(attempt)

    def _stopped(self, failure: Failed) -> TeacherError:
        return TeacherError(
            f"teacher `{self.id}` has stopped answering: {failure.reason}",
            where=f"teachers.{self.id}.endpoint, {self.settings.url}",
            help="what was stored before is kept; once the endpoint is well, the same command goes on from there",
        )


def _question(inputs: Inputs, row: int) -> Question:
    """Return the row's tokens with its last label, and the positions that count."""
    if inputs.input_ids is None:
        raise ValueError("inputs.input_ids=None: an endpoint is asked about the student's token ids")
    asked = inputs.mask[row].nonzero().squeeze(1).tolist()
    end, labels = asked[-1] + 1, inputs.labels[row].tolist()
    tokens = (*inputs.input_ids[row, :end].tolist(), labels[end - 1])
    if any(labels[at] != tokens[at + 1] for at in asked):
        raise ValueError(f"inputs.labels of row `{inputs.row_ids[row]}` are not the tokens that follow")
    return Question(tokens, tuple(asked))
