"""Positions of two tokenizers side by side: where both have consumed the same bytes of a row.

A student position is answered by the teacher position at which the teacher, reading the same text in its own tokens,
has consumed exactly the same bytes. Where a token of the teacher straddles the border there is none. This module does
not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mashbill.teachers.token_bytes import TokenBytes

Encode = Callable[[str], Sequence[int]]
"""A tokenizer's ids for a stretch of text, without control tokens of its own."""
_Place = tuple[int, int]
# Control tokens and bytes that were consumed: a border between tokens.
_NOWHERE: _Place = (-1, -1)


class UnalignableError(ValueError):
    """A row cannot be said in the teacher's tokens; the message is the reason."""


@dataclass(frozen=True)
class Aligned:
    """One row in both tokenizers.

    Attributes:
        ids: The teacher's tokens, as far as some student position needs them.
        partner: For each position of the student, the teacher position that answers it; ``-1`` for none.
    """

    ids: tuple[int, ...]
    partner: tuple[int, ...]


def align(
    tokens: Sequence[int],
    *,
    student: TokenBytes,
    teacher: TokenBytes,
    control: Mapping[int, int],
    encode: Encode,
) -> Aligned:
    """Lay a row's tokens beside the teacher's.

    The last token is what the last position is about: it is read, so that the teacher's tokens end where the text goes
    on, and it has no position of its own.

    Args:
        tokens: Of the student, at least two.
        student: Its tokens' bytes.
        teacher: The teacher's.
        control: Teacher id of each of the student's control tokens that the teacher has too.
        encode: The teacher's tokenizer.

    Raises:
        UnalignableError: The text does not survive the teacher's tokenizer, or has a control token that it lacks.
    """
    n_start = len(student.start) if tuple(tokens[: len(student.start)]) == student.start else 0
    written = _Written(teacher, encode)
    written.begin()
    places: list[_Place] = [_NOWHERE] * max(0, n_start - 1) + [(0, 0)] * min(1, n_start)
    n_control, run = 0, bytearray()
    for number, id in enumerate(tokens[n_start:], start=n_start + 1):
        if id in student.pieces:
            run += student.pieces[id]
        elif number == len(tokens) and id not in control:
            break  # nothing is read after the last token, which is a label alone
        elif id in control:
            written.text(bytes(run))
            run.clear()
            n_control += 1
            written.control(control[id])
        else:
            name = student.special.get(id, f"id {id}")
            raise UnalignableError(f"the teacher has no token for `{name}`, which stands in the row")
        places.append((n_control, written.n_bytes + len(run)))
    written.text(bytes(run))
    return _joined(written, places[: len(tokens) - 1])


@dataclass
class _Written:
    """What the teacher reads, token by token, and what it has consumed after each."""

    teacher: TokenBytes
    encode: Encode
    ids: list[int] = field(default_factory=list)
    places: list[_Place] = field(default_factory=list)
    n_control: int = 0
    n_bytes: int = 0

    def begin(self) -> None:
        """Write what stands before every text."""
        self.ids += self.teacher.start
        self.places += [_NOWHERE] * (len(self.ids) - 1) + [(0, 0)] * min(1, len(self.ids))

    def control(self, id: int) -> None:
        """Write a control token."""
        self.n_control += 1
        self.ids.append(id)
        self.places.append((self.n_control, self.n_bytes))

    def text(self, data: bytes) -> None:
        """Write a stretch of text.

        Characters that are cut in two at its ends are left out: a tokenizer reads whole ones. Positions within them
        have no partner.
        """
        head, text = _whole_characters(data)
        body = text.encode()
        ids, shift = self._encoded(text, body) if body else ((), 0)
        if shift and self.places:
            # The space that the teacher puts before a text is not in the text, so what it expects here is not, either.
            self.places[-1] = _NOWHERE
        consumed = self.n_bytes + head - shift
        for id in ids:
            consumed += len(self.teacher.pieces[id])
            self.ids.append(id)
            self.places.append((self.n_control, consumed))
        self.n_bytes += len(data)

    def _encoded(self, text: str, body: bytes) -> tuple[Sequence[int], int]:
        """Return tokens whose bytes are the text's, and the length of a space that stands before them."""
        without = text.removeprefix(" ") if self.teacher.leads_with_space else text
        for given in dict.fromkeys((without, text)):
            ids = self.encode(given)
            found = self.teacher.joined(ids) if all(id in self.teacher.pieces for id in ids) else b""
            if found in (body, b" " + body):
                return ids, len(found) - len(body)
        raise UnalignableError("its text is not what the teacher's tokenizer makes of it")


def _joined(written: _Written, places: Sequence[_Place]) -> Aligned:
    # Of several tokens at one place, such as spaces that are nobody's, the last has seen most.
    at = {place: number for number, place in enumerate(written.places) if place != _NOWHERE}
    partner = tuple(at.get(place, -1) for place in places)
    return Aligned(tuple(written.ids[: max(partner, default=-1) + 1]), partner)


def _whole_characters(data: bytes) -> tuple[int, str]:
    """Return how many bytes of a cut character come first, and the whole characters after them."""
    head = next((n for n in range(min(4, len(data))) if not _is_middle(data[n])), min(3, len(data)))
    for tail in range(4):
        try:
            return head, data[head : len(data) - tail].decode()
        except UnicodeDecodeError:
            continue
    raise UnalignableError("its tokens add up to bytes that are no text")


def _is_middle(byte: int) -> bool:
    return byte & 0xC0 == 0x80
