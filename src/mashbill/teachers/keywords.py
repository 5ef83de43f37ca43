"""A teacher that is a list of words: the smallest real source of labels, and the one that new recipes start with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeywordTeacher:
    """Names the labels whose words occur in a text.

    ``p(label) = confidence * n_label / sum_l n_l`` with ``n`` the number of a label's words in the text; the rest of
    the mass is left open. A text with none of the words gets no opinion at all, not an even one.

    Attributes:
        words: Words of each label, compared without regard to case.
        confidence: Mass on the labels that were found, a probability.

    Raises:
        ValueError: A label has no words, or ``confidence`` is no probability above 0.

    >>> KeywordTeacher({"bill": ["invoice"], "bug": ["crash"]}, confidence=0.8).predict(["Invoice: crash, crash"])
    [{'bill': 0.26666666666666666, 'bug': 0.5333333333333333}]
    """

    words: Mapping[str, Sequence[str]]
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise ValueError(f"confidence={self.confidence!r} must be above 0 and at most 1")
        if not isinstance(self.words, Mapping) or not self.words:
            raise ValueError(f"words={self.words!r} must map each label to its words")
        for label, words in self.words.items():
            if isinstance(words, str) or not words or not all(isinstance(word, str) and word for word in words):
                raise ValueError(f"words[{label!r}]={words!r} must be a list of words")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that have words."""
        return tuple(self.words)

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return the labels whose words occur in each text, with their probabilities."""
        sets = {label: {word.casefold() for word in words} for label, words in self.words.items()}
        return [self._one(re.findall(r"\w+", text.casefold()), sets) for text in texts]

    def _one(self, found: Sequence[str], sets: Mapping[str, set[str]]) -> dict[str, float]:
        counts = {label: sum(word in words for word in found) for label, words in sets.items()}
        total = sum(counts.values())
        return {label: self.confidence * n / total for label, n in counts.items() if n}
