"""From the tokens in replies, said as ids, bytes or text, to the student's ids.

Text in a reply can be lossy: a token that is part of a character comes as ``U+FFFD``, and two tokens can have the same
text. What is not certain has no id, and its mass goes to the tail.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mashbill.teachers.endpoint.asking import bad, unanswerable
from mashbill.teachers.token_bytes import TokenBytes

_BY_ID = re.compile(r"token_id:(\d{1,9})")
_BY_BYTES = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
_LOST = "\ufffd"


@dataclass(frozen=True)
class Spelling:
    """The student's tokens as endpoints spell them.

    Attributes:
        tokens: Bytes and control tokens of the student.
        drops_spaces: The endpoint leaves the space before a word out of its text, so that a text may be that of two
            tokens.
    """

    tokens: TokenBytes
    drops_spaces: bool = False

    @cached_property
    def by_bytes(self) -> Mapping[bytes, int]:
        """The id of each token of text whose bytes no other one has."""
        counts = Counter(self.tokens.pieces.values())
        return {piece: id for id, piece in self.tokens.pieces.items() if counts[piece] == 1 and piece}

    @cached_property
    def _spaced(self) -> frozenset[bytes]:
        return frozenset(piece for piece in self.tokens.pieces.values() if piece.startswith(b" "))

    @cached_property
    def by_name(self) -> Mapping[str, int]:
        """The id of each control token."""
        return {name: id for id, name in self.tokens.special.items()}

    def has(self, id: int) -> bool:
        """Whether the student has an entry with this id."""
        return id in self.tokens.pieces or id in self.tokens.special

    def id_of_text(self, text: str) -> int | None:
        """Return the id of a token that a reply spells as text, None if that is not certain."""
        if match := _BY_ID.fullmatch(text):
            return int(match[1]) if self.has(int(match[1])) else None
        if match := _BY_BYTES.fullmatch(text):
            return self.by_bytes.get(bytes.fromhex(match[1].replace("\\x", "")))
        if text in self.by_name:
            return self.by_name[text]
        piece = text.encode("utf-8", "surrogatepass")
        if _LOST in text or (self.drops_spaces and b" " + piece in self._spaced):
            return None
        return self.by_bytes.get(piece)

    def id_of_entry(self, entry: Mapping[str, Any], *, trust_ids: bool) -> int | None:
        """Return the id of a token that a reply spells with its text, its bytes and perhaps an id."""
        id, spelled = entry.get("id"), entry.get("bytes")
        if trust_ids and isinstance(id, int) and not isinstance(id, bool):
            return id if self.has(id) else None
        if isinstance(spelled, list) and spelled:
            try:
                return self.by_bytes.get(bytes(spelled))
            except (TypeError, ValueError):
                raise bad("the bytes of a token in its reply are no bytes") from None
        return self.id_of_text(require_text(entry.get("token")))

    def heard(self, words: Iterable[str]) -> "Spelling":
        """Return what the texts of many tokens, all that are probable in several places, show of their spaces."""
        return replace(self, drops_spaces=bool(self._spaced) and not any(word.startswith(" ") for word in words))

    def agrees(self, id: int, text: str) -> bool | None:
        """Say whether an id means the same here and there; None where the text does not tell."""
        if not text or _LOST in text:
            return None
        if id in self.tokens.special:
            return text == self.tokens.special[id]
        piece = self.tokens.pieces.get(id)
        # Some servers leave out the space that SentencePiece puts before a word.
        return None if piece is None else piece.decode("utf-8", "replace").lstrip() == text.lstrip()

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens.

        Raises:
            Failed: They are not text alone: control tokens, or a part of a character.
        """
        if any(id in self.tokens.special for id in ids):
            raise unanswerable("it has control tokens, which cannot be sent as text")
        try:
            return self.tokens.joined(ids).decode("utf-8")
        except UnicodeDecodeError:
            raise unanswerable("a position lies inside a character, which cannot be sent as text") from None

    def beginning_of(self, ids: Sequence[int]) -> str:
        """Return the text of a row's first tokens, without what a tokenizer puts before every text.

        Whoever is sent the text puts it there again; whether that is so, the count of its tokens tells.

        Raises:
            Failed: As :meth:`text_of`, or the row does not begin as every text does.
        """
        start = self.tokens.start
        if tuple(ids[: len(start)]) != start:
            raise unanswerable("it does not begin with the start token that is put before every text")
        text = self.text_of(ids[len(start) :])
        return text.removeprefix(" ") if self.tokens.leads_with_space else text

    def require_same(self, said: Sequence[str], sent: Sequence[int]) -> None:
        """Refuse a row whose tokens a server cuts in another way.

        Args:
            said: The server's tokens, at least as many.
            sent: The student's.

        Raises:
            Failed: They do not line up.
        """
        for place, (text, id) in enumerate(zip(said, sent, strict=False)):
            by_id = _BY_ID.fullmatch(text)
            same = int(by_id[1]) == id if by_id else self.agrees(id, text)
            if same is False and place > 0:  # The first may be a start token, or have lost its space.
                mine = self.tokens.special.get(id) or self.tokens.pieces.get(id, b"").decode("utf-8", "replace")
                raise unanswerable(f"its token {place} is {text!r} there and {mine!r} here: they do not line up")


def require_text(value: Any) -> str:
    """Return a text of a reply.

    Raises:
        Failed: It is none.
    """
    if not isinstance(value, str):
        raise bad(f"a token in its reply is no text: {str(value)[:40]!r}")
    return value
