"""What two tokenizers can both say: tokens of the same bytes, and what a teacher's output says of the student's."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.errors import VocabularyError
from mashbill.shapes import Float, Int, Tensor
from mashbill.teachers.token_bytes import TokenBytes

ROOM = 2
"""Entries of the student that are never stored, so that the tail has somewhere to lie and its share shows."""


@dataclass(frozen=True)
class SharedTokens:
    """Which token of the student each token of a teacher is.

    Tokens of text are the same if their bytes are; several of the teacher's may be one of the student's. If several of
    the student's have the same bytes, it is the first that does not spell a byte: the one that a tokenizer uses.
    Control tokens are the same if both are control tokens of the same text; the end of a text is the end of a text
    whatever it is called.

    Attributes:
        student_of: Student id by teacher id; what is not in it is not shared.
        n_student: ``V`` of the student.
        teacher_ids: All ids that stand for a token of the teacher, ascending.
    """

    student_of: Mapping[int, int]
    n_student: int
    teacher_ids: tuple[int, ...]

    @classmethod
    def of(cls, student: TokenBytes, teacher: TokenBytes, *, n_student: int, teacher_id: str) -> "SharedTokens":
        """Find the tokens that both have.

        Raises:
            VocabularyError: There are none.
        """
        by_bytes: dict[bytes, int] = {}
        for id in sorted(student.pieces, key=lambda id: (id in student.spelled, id)):
            by_bytes.setdefault(student.pieces[id], id)
        by_bytes.pop(b"", None)
        found = {id: by_bytes[piece] for id, piece in teacher.pieces.items() if piece in by_bytes}
        by_text = {text: id for id, text in student.special.items()}
        found |= {id: by_text[text] for id, text in teacher.special.items() if text in by_text}
        if student.end is not None and teacher.end is not None and teacher.end not in found:
            found[teacher.end] = student.end
        if not any(id in teacher.pieces for id in found):
            raise VocabularyError(
                f"teacher `{teacher_id}` has no token in common with the student",
                where=f"teachers.{teacher_id}.align",
                why=f"none of its {len(teacher.pieces):,} tokens has the bytes of one of the student's",
                help="use a teacher whose tokens stand for text as the student's do",
            )
        return cls(dict(sorted(found.items())), n_student, tuple(sorted({*teacher.pieces, *teacher.special})))

    @property
    def n_shared(self) -> int:
        """Tokens of the student that the teacher can say."""
        return len(set(self.student_of.values()))

    @cached_property
    def digest(self) -> str:
        """The sha256 of the map, hexadecimal."""
        text = json.dumps([sorted(self.student_of.items()), self.n_student, self.teacher_ids])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SharedColumns:
    """A teacher's output in the student's tokens: what both can say is stored, all else is tail.

    ``q(v) = sum p(u)`` over the teacher's tokens ``u`` that are ``v``; the tail is the mass of its other tokens.
    :data:`ROOM` entries at least stay in the tail; if more are shared, those of least probability.

    Attributes:
        n_entries: ``V`` of the student.
        ids: Student tokens that are shared, ascending, ``[S]``.
        rounds: Pairs of teacher columns and places in ``ids``: the first teacher token of each, the second, and so on.
        others: Teacher tokens that are not shared.
    """

    n_entries: int
    ids: Int[Tensor, " S"]
    rounds: Sequence[tuple[Int[Tensor, " _"], Int[Tensor, " _"]]]
    others: Int[Tensor, " _"]

    @classmethod
    def of(cls, shared: SharedTokens) -> "SharedColumns":
        """Arrange the map for tensors."""
        ids = sorted(set(shared.student_of.values()))
        place = {id: n for n, id in enumerate(ids)}
        rounds: list[list[tuple[int, int]]] = []
        seen: dict[int, int] = {}
        for teacher, student in shared.student_of.items():
            turn = seen.get(student, 0)
            seen[student] = turn + 1
            rounds += [[]] if turn == len(rounds) else []
            rounds[turn].append((teacher, place[student]))
        pairs = [tuple(torch.tensor(column) for column in zip(*one, strict=True)) for one in rounds]
        others = torch.tensor([id for id in shared.teacher_ids if id not in shared.student_of], dtype=torch.long)
        return cls(shared.n_student, torch.tensor(ids), [(one[0], one[1]) for one in pairs], others)

    @property
    def n_rows(self) -> int:
        """One for each id up to the teacher's greatest."""
        every = torch.cat([self.others, *(columns for columns, _ in self.rounds)])
        return int(every.max()) + 1

    def read(self, logits: Float[Tensor, "P _"]) -> TopK:
        """Return the mass of every shared token, and that of all others as tail.

        Rows of the output that stand for no token go before anything is normalised.
        """
        on = logits.device
        every = torch.cat([self.others, *(columns for columns, _ in self.rounds)]).to(on)
        wide = numerics.widen(logits)[:, every]
        logprobs = wide - wide.logsumexp(dim=-1, keepdim=True)
        widths = [len(self.others), *(len(columns) for columns, _ in self.rounds)]
        outside, *told = logprobs.split(widths, dim=-1)
        # Every shared token has a first teacher token, so the first round fills all places.
        stored = torch.empty_like(told[0])
        stored[:, self.rounds[0][1].to(on)] = told[0]
        for (_, places), more in zip(self.rounds[1:], told[1:], strict=True):
            at = places.to(on)
            stored[:, at] = torch.logaddexp(stored[:, at], more)
        log_tail = outside.logsumexp(dim=-1) if outside.shape[1] else torch.full_like(stored[:, 0], -torch.inf)
        ids = self.ids.to(on).expand(len(logits), -1)
        whole = TopK(ids, _floored(stored), _floored(log_tail), self.n_entries)
        return whole.cut(max(1, min(len(self.ids), self.n_entries - ROOM)))


def _floored(logprobs: Tensor) -> Tensor:
    return logprobs.clamp_min(numerics.LOG_ZERO)
