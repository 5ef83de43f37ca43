"""What the ids of a model mean, and the refusal of a teacher whose ids mean something else.

Two tokenizers of equal size can name every id differently; training on such a teacher runs without an error and is
wrong. So vocabularies are compared entry by entry, never by size. This module does not import torch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from mashbill.errors import VocabularyError

N_SHOWN = 3


@runtime_checkable
class HasVocab(Protocol):
    """A tokenizer, as far as this module needs one."""

    def get_vocab(self) -> dict[str, int]:
        """Return ``{token: id}``, added tokens included."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """The token, or label, that each id stands for.

    Attributes:
        tokens: ``{id: token}``; ids without a token are padding rows of the model's output.
        n_entries: ``V``, the rows of the model's output; at least the greatest id plus one.

    Raises:
        ValueError: ``n_entries`` is too small for the ids.

    >>> len(Vocabulary.from_labels(["de", "en"]))
    2
    """

    tokens: Mapping[int, str]
    n_entries: int

    def __post_init__(self) -> None:
        needed = max(self.tokens, default=-1) + 1
        if self.n_entries < needed:
            raise ValueError(
                f"n_entries={self.n_entries} must be at least {needed}, one row for each id up to the greatest"
            )

    @classmethod
    def from_tokenizer(cls, tokenizer: HasVocab, *, n_entries: int | None = None) -> "Vocabulary":
        """Read a tokenizer's map, added tokens included.

        Args:
            tokenizer: A ``transformers`` tokenizer.
            n_entries: Rows of the model's output, if it has more than the tokenizer has ids.
        """
        tokens = {index: token for token, index in sorted(tokenizer.get_vocab().items(), reverse=True)}
        return cls(tokens, max(tokens, default=-1) + 1 if n_entries is None else n_entries)

    @classmethod
    def from_labels(cls, labels: Sequence[str]) -> "Vocabulary":
        """Number the labels of a classifier in their order."""
        return cls(dict(enumerate(labels)), len(labels))

    @cached_property
    def digest(self) -> str:
        """The sha256 of the map from ids to tokens, hexadecimal; padding rows do not count."""
        text = json.dumps(sorted(self.tokens.items()), ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def __len__(self) -> int:
        """``V``, padding rows included."""
        return self.n_entries


def require_agreement(student: Vocabulary, teacher: Vocabulary, *, teacher_id: str) -> None:
    """Refuse a teacher unless every id of the student names the same token in the teacher.

    Ids that only the teacher has, and padding rows on either side, are allowed: they take no part.

    Raises:
        VocabularyError: Ids are missing or differ; the text counts them and shows the first.
    """
    missing = [index for index in sorted(student.tokens) if index not in teacher.tokens]
    differing = [index for index, token in sorted(student.tokens.items()) if teacher.tokens.get(index, token) != token]
    if not missing and not differing:
        return
    facts = []
    if differing:
        shown = ", ".join(f'{i} "{student.tokens[i]}" vs "{teacher.tokens[i]}"' for i in differing[:N_SHOWN])
        facts.append(f"{len(differing):,} ids name different tokens (student vs teacher, first: {shown})")
    if missing:
        shown = ", ".join(f'{i} "{student.tokens[i]}"' for i in missing[:N_SHOWN])
        facts.append(f"{len(missing):,} ids of the student are missing (first: {shown})")
    raise VocabularyError(
        f"teacher `{teacher_id}` does not share the student's vocabulary: {'; '.join(facts)}",
        where=f"teachers.{teacher_id} ({_described(teacher)}; the student has {_described(student)})",
        why="training on these ids would run, and be silently wrong",
        help="use a teacher with the student's tokenizer, give the student the teacher's, or lay their tokens side by "
        "side: `align: {}` for a local model",
    )


def _described(vocabulary: Vocabulary) -> str:
    return f"{len(vocabulary.tokens):,} ids, sha256 {vocabulary.digest[:8]}"
