"""A teacher with a tokenizer of its own, heard in the student's tokens.

It reads each row's text in its own tokens and is asked where both tokenizers have consumed the same bytes. What its
answer is there, and what it is not, stands in :doc:`/tokenizers`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from mashbill import numerics
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.teachers.alignment import Aligned, UnalignableError, align
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.positions import Reading
from mashbill.teachers.protocol import Inputs, Scored, Teacher
from mashbill.teachers.shared_tokens import ROOM, SharedColumns, SharedTokens
from mashbill.teachers.token_bytes import TokenBytes

UNSHARED = "unshared_entries"
"""Key of a teacher's identity: entries of the student that it cannot say. Its presence marks an aligned teacher."""


@dataclass(frozen=True)
class AlignedTeacher:
    """A causal language model that answers in the student's tokens what it was asked in its own.

    Attributes:
        inner: Reads its own ids and answers about the student's entries
            (:class:`~mashbill.teachers.shared_tokens.SharedColumns`).
        student: Bytes of the student's tokens.
        own: Bytes of the teacher's.
        shared: The tokens that both have.
        tokenizer: The teacher's.
        classes: Whose mass ``inner`` measures.
    """

    inner: Teacher
    student: TokenBytes
    own: TokenBytes
    shared: SharedTokens
    tokenizer: Any
    classes: EntryClasses = NO_CLASSES

    @property
    def id(self) -> str:
        """Name in the recipe."""
        return self.inner.id

    def score(self, inputs: Inputs) -> Scored:
        """Return distributions and statistics at every position, ``[B T]``.

        A position without a partner is all tail, with the statistics of an even distribution; so are rows that cannot
        be said in the teacher's tokens, which are refused.

        Raises:
            TeacherError: The teacher failed.
        """
        if inputs.input_ids is None:
            raise ValueError("inputs.input_ids=None: a causal language model needs the student's token ids")
        rows, refused = self._rows(inputs)
        partner = torch.full(inputs.mask.shape, -1)
        for b, row in enumerate(rows):
            partner[b, : len(row.partner)] = torch.tensor(row.partner, dtype=torch.long)
        partner = partner.masked_fill(~inputs.mask, -1)
        told = partner >= 0
        if not bool(told.any()):
            return self.classes.measured(Scored(*_nothing(inputs.mask.shape, self.shared.n_student), refused))
        answer = self.inner.score(_asked(inputs, rows, partner, told))
        return Scored(*_at(answer, partner, told), {**answer.refused, **refused})

    def release(self) -> None:
        """Let the model go; the next question opens it again."""
        getattr(self.inner, "release", lambda: None)()

    def identity(self) -> Mapping[str, str]:
        """Return what pins the teacher down, both vocabularies as bytes, and how many tokens are shared."""
        return {
            **self.inner.identity(),
            "aligned": f"{self.student.digest} {self.own.digest} {self.shared.digest}",
            UNSHARED: str(max(ROOM, self.shared.n_student - self.shared.n_shared)),
        }

    def _rows(self, inputs: Inputs) -> tuple[list[Aligned], dict[int, str]]:
        assert inputs.input_ids is not None, "the caller looked"
        control = {s: t for t, s in self.shared.student_of.items() if s in self.student.special}
        rows, refused = [], {}
        for b, (ids, labels, mask) in enumerate(zip(inputs.input_ids, inputs.labels, inputs.mask, strict=True)):
            places = mask.nonzero().squeeze(1)
            end = int(places[-1]) + 1 if len(places) else 0
            tokens = [*ids[:end].tolist(), int(labels[end - 1])] if end else []
            try:
                rows.append(
                    align(tokens, student=self.student, teacher=self.own, control=control, encode=self._encode)
                    if tokens
                    else Aligned((), ())
                )
            except UnalignableError as error:
                rows.append(Aligned((), ()))
                refused[b] = str(error)
        return rows, refused

    def _encode(self, text: str) -> Sequence[int]:
        # A text that spells a control token is a text.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def _asked(inputs: Inputs, rows: Sequence[Aligned], partner: Int[Tensor, "B T"], told: Bool[Tensor, "B T"]) -> Inputs:
    """Return the rows in the teacher's tokens; labels are the student's, at the positions that answer for them."""
    ids = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = torch.tensor(row.ids, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    b, t = told.nonzero(as_tuple=True)
    labels[b, partner[b, t]] = inputs.labels[b, t]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[b, partner[b, t]] = True
    return Inputs(inputs.row_ids, inputs.texts, ids, labels, mask)


def _at(answer: Scored, partner: Int[Tensor, "B T"], told: Bool[Tensor, "B T"]) -> tuple[TopK, Statistics]:
    """Return the answers at the partners, and an even distribution without one."""
    topk = answer.distribution
    assert isinstance(topk, TopK), "a teacher that is read in other tokens always has a tail"
    even, flat = _even(topk.n_entries), partner.clamp_min(0)

    def laid(values: Tensor, fill: float) -> Tensor:
        index = flat.reshape(*flat.shape, *[1] * (values.ndim - 2)).expand(*flat.shape, *values.shape[2:])
        where = told.reshape(*told.shape, *[1] * (values.ndim - 2))
        return torch.where(where, values.gather(1, index), torch.tensor(fill, dtype=values.dtype))

    distribution = TopK(
        laid(topk.ids, -1), laid(topk.logprobs, numerics.LOG_ZERO), laid(topk.log_tail, 0.0), topk.n_entries
    )
    return distribution, Statistics(**{f.name: laid(getattr(answer.statistics, f.name), even[f.name]) for f in _FIELDS})


def _nothing(shape: torch.Size, n_entries: int) -> tuple[TopK, Statistics]:
    even = _even(n_entries)
    numbers = {name: torch.full(shape, value) for name, value in even.items() if name != "class_mass"}
    none: Float[Tensor, "B T 1"] = torch.full((*shape, 1), numerics.LOG_ZERO)
    distribution = TopK(torch.full((*shape, 1), -1), none, torch.zeros(shape), n_entries)
    return distribution, Statistics(**numbers, class_mass=torch.zeros(*shape, 0))


_FIELDS = fields(Statistics)


def _even(n_entries: int) -> dict[str, float]:
    """Return the statistics of an even distribution: whoever says nothing is not sure of anything."""
    ceiling = numerics.entropy_ceiling(n_entries)
    even = {"entropy": ceiling, "entropy_low": ceiling, "gini": 1 - 1 / n_entries, "margin": 0.0}
    return even | {"max_logprob": -ceiling, "label_logprob": -ceiling, "class_mass": 0.0}


def aligned(
    teacher_id: str,
    student_tokenizer: Any,
    tokenizer: Any,
    n_entries: int,
    opened: Callable[[Reading], Teacher],
    *,
    classes: EntryClasses = NO_CLASSES,
) -> AlignedTeacher:
    """Return a teacher that is heard in the student's tokens.

    Args:
        teacher_id: Its name in the recipe.
        student_tokenizer: The student's.
        tokenizer: The teacher's.
        n_entries: ``V`` of the student.
        opened: Makes the teacher that reads its own ids, from what its output says of the student's entries.
        classes: Whose mass that teacher measures.

    Raises:
        VocabularyError: A tokenizer's tokens have no certain bytes, or the two share none.
    """
    student = TokenBytes.of(student_tokenizer, owner="the student")
    own = TokenBytes.of(tokenizer, owner=f"teacher `{teacher_id}`")
    shared = SharedTokens.of(student, own, n_student=n_entries, teacher_id=teacher_id)
    return AlignedTeacher(opened(SharedColumns.of(shared)), student, own, shared, tokenizer, classes)


def mapped_mass(statistics: Statistics, *, unshared: int) -> Float[Tensor, "*batch"]:
    """Return how much of a teacher's mass lies on shared tokens, where it was asked; exact whatever was kept.

    The statistics are those of all shared entries and a tail of mass ``m`` over ``n`` others. Its entropy spread evenly
    is larger than packed into one entry by ``m ln n``, and those are ``entropy`` and ``entropy_low``.

    Args:
        statistics: As the teacher gave them.
        unshared: ``n``, see :data:`UNSHARED`.
    """
    width = (statistics.entropy - statistics.entropy_low).double()
    return (1 - width / math.log(max(unshared, ROOM))).clamp(0, 1)
