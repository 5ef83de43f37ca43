"""The bytes that each token of a tokenizer stands for: what two tokenizers have in common.

Two spellings are known: byte-level vocabularies (each byte is a printable character), and those of SentencePiece (a
space is ``▁``, and bytes without a token of their own are spelled ``<0x0A>``). Not covered: vocabularies whose tokens
do not add up to the text, such as WordPiece. This module does not import torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mashbill.errors import VocabularyError

PROBE = "The quick brown fox, 12 of them:  jumps\nover."
"""Plain text that a tokenizer must keep as it is; what a row's own text loses is found row by row."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MARK = "\u2581"  # the space of SentencePiece


@dataclass(frozen=True)
class TokenBytes:
    """A vocabulary as bytes.

    Attributes:
        pieces: Bytes of each token of text, by id; UTF-8, and possibly a part of a character.
        special: Text of each control token by id. They stand for no bytes, whatever they are called.
        spelled: Ids of tokens that spell one byte of what has no token of its own.
        start: Ids that the tokenizer puts before every text.
        end: Id of the token that ends a text.
        leads_with_space: Whether the tokenizer puts a space before every text.
    """

    pieces: Mapping[int, bytes]
    special: Mapping[int, str]
    spelled: frozenset[int]
    start: tuple[int, ...]
    end: int | None
    leads_with_space: bool

    @classmethod
    def of(cls, tokenizer: Any, *, owner: str) -> "TokenBytes":
        """Read a ``transformers`` tokenizer.

        Args:
            tokenizer: One that the ``tokenizers`` library runs.
            owner: Whose it is, for messages: ``teacher `code```.

        Raises:
            VocabularyError: Its tokens have no certain bytes, or it does not keep plain text as it is.
        """
        form = _form(tokenizer, owner)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {int(id) for id, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        pieces: dict[int, bytes] = {}
        spelled = set()
        for token, id in tokenizer.get_vocab().items():
            if id in special:
                continue
            if id in added:
                pieces[id] = added[id].content.encode()
            elif form == "bytes":
                pieces[id] = _from_byte_level(token, owner)
            elif match := _BYTE.fullmatch(token):
                pieces[id] = bytes.fromhex(match[1])
                spelled.add(id)
            else:
                pieces[id] = token.replace(_MARK, " ").encode()
        names = {id: tokenizer.convert_ids_to_tokens(id) for id in sorted(special)}
        plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = list(tokenizer("a", add_special_tokens=True)["input_ids"])
        start = tuple(whole[: next(n for n in range(len(whole) + 1) if whole[n : n + len(plain)] == plain)])
        found = cls(pieces, names, frozenset(spelled), start, tokenizer.eos_token_id, leads_with_space=False)
        kept = found.joined(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
        if kept not in (PROBE.encode(), b" " + PROBE.encode()):
            became = kept.decode(errors="replace")
            raise VocabularyError(
                f"the tokenizer of {owner} does not keep text as it is: {PROBE!r} becomes {became!r}",
                why="tokens can be laid side by side only where their bytes add up to the text",
                help="use a teacher with a byte-level or SentencePiece vocabulary, or with the student's tokenizer",
            )
        leads = kept != PROBE.encode()
        return cls(pieces, names, frozenset(spelled), start, tokenizer.eos_token_id, leads_with_space=leads)

    @cached_property
    def digest(self) -> str:
        """The sha256 of all of it, hexadecimal."""
        told = [sorted((id, piece.hex()) for id, piece in self.pieces.items()), sorted(self.special.items())]
        text = json.dumps([told, sorted(self.spelled), self.start, self.end, self.leads_with_space])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def joined(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of some tokens together; control tokens have none."""
        return b"".join(self.pieces.get(id, b"") for id in ids)


def _form(tokenizer: Any, owner: str) -> str:
    """Say how tokens are spelled, which is what the tokenizer's own decoder undoes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told = {} if backend is None else json.loads(backend.to_str())
    decoder = told.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return "bytes"
    marks = [step for step in steps if step.get("type") == "Replace" and _MARK in str(step.get("pattern"))]
    if "Metaspace" in kinds or marks:
        return "marks"
    raise VocabularyError(
        f"the tokens of {owner} have no certain bytes",
        why=f"its tokenizer joins tokens by {', '.join(sorted(filter(None, kinds))) or 'no rule that it names'}",
        help="use a teacher with a byte-level or SentencePiece vocabulary, or with the student's tokenizer",
    )


def _byte_level() -> dict[str, int]:
    """Return the byte of each character: printable ones stand for themselves, the others for what follows 255."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_level()


def _from_byte_level(token: str, owner: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        raise VocabularyError(
            f"the token {token!r} of {owner} is no spelling of bytes",
            why="the tokenizer's decoder is byte-level, and this token has other characters",
            help="mark it as an added token in tokenizer.json",
        ) from None
