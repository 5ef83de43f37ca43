"""A teacher that is known by its text alone: completions are samples of what it would say.

``n`` samples of an answer give a distribution with an error of at most ``sqrt((V - 1) / n)`` in l1 on average, and one
sample gives one entry all the mass. How sure the teacher is does not follow from a few samples, so the statistics are
those of somebody who is sure of nothing; see :data:`CERTAINTY`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.completions import from_counts
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.shapes import Int, Tensor
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.protocol import Inputs, Scored

CERTAINTY = frozenset({"entropy", "entropy_low", "gini", "margin", "max_logprob"})
"""Statistics that say how sure a teacher is. A sample has them too, but not the teacher's: one is always certain."""

OUTSIDE = -1
"""An answer that names no entry of the student."""

Tally = Mapping[bytes, Mapping[int, int]]
"""How often each entry was the answer to each question."""


@dataclass(frozen=True)
class SampledTeacher:
    """Completions, counted.

    Attributes:
        id: Name in the recipe.
        tally: Answers by question; :data:`OUTSIDE` counts as mass of nobody in particular.
        n_entries: ``V``.
        smoothing: Added to the count of each of the ``V`` entries.
        pins: What identifies the samples.
        classes: Of the student's entries; their mass is the share of the samples.
    """

    id: str
    tally: Tally
    n_entries: int
    smoothing: float
    pins: Mapping[str, str]
    classes: EntryClasses = NO_CLASSES

    def score(self, inputs: Inputs) -> Scored:
        """Return the distribution of the samples at each position, ``[B T S]``; all tail where there is none."""
        found = self._found(inputs)
        width = max((len(answers.keys() - {OUTSIDE}) for row in found for answers in row), default=0)
        ids = torch.full((*inputs.labels.shape, max(1, width)), -1)
        counts = torch.zeros(ids.shape)
        outside = torch.zeros(inputs.labels.shape)
        for b, row in enumerate(found):
            for t, answers in enumerate(row):
                told = sorted((-n, entry) for entry, n in answers.items() if entry != OUTSIDE)
                outside[b, t] = answers.get(OUTSIDE, 0)
                for slot, (n, entry) in enumerate(told):
                    ids[b, t, slot], counts[b, t, slot] = entry, -n
        topk = from_counts(ids, counts, n_entries=self.n_entries, smoothing=self.smoothing, outside=outside)
        return self.classes.measured(Scored(topk, _sure_of_nothing(topk, inputs.labels)))

    def n_samples(self, inputs: Inputs) -> Int[Tensor, "B T"]:
        """Return how many samples there are of the answer at each position."""
        totals = [[sum(answers.values()) for answers in row] for row in self._found(inputs)]
        return torch.tensor(totals, dtype=torch.long)

    def identity(self) -> Mapping[str, str]:
        """Return the sha256 of the file and every option that changes what is made of it."""
        return {"kind": "samples", **self.pins, "smoothing": repr(self.smoothing), **self.classes.pins}

    def _found(self, inputs: Inputs) -> list[list[Mapping[int, int]]]:
        none: Mapping[int, int] = {}
        if inputs.input_ids is None:
            return [[self.tally.get(of_text(text), none)] for text in inputs.texts]
        rows = zip(inputs.input_ids.tolist(), inputs.mask.tolist(), strict=True)
        return [
            [self.tally.get(key, none) if counts else none for key, counts in zip(of_tokens(ids), mask, strict=True)]
            for ids, mask in rows
        ]


def of_text(text: str) -> bytes:
    """Return the key of the question what a text's label is."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def of_tokens(ids: Sequence[int]) -> Iterator[bytes]:
    """Yield, for each token, the key of the question what follows it and all before it."""
    whole = hashlib.blake2b(digest_size=16)
    for id in ids:
        whole.update(id.to_bytes(8, "little"))
        yield whole.digest()


def tally_tokens(rows: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Tally:
    """Count what follows each beginning.

    Args:
        rows: Token ids of each completion with its prompt, and the token after each of them, ``-100`` where it is not
            the teacher's.
    """
    found: dict[bytes, Counter[int]] = {}
    for ids, labels in rows:
        for key, label in zip(of_tokens(ids), labels, strict=True):
            if label >= 0:
                found.setdefault(key, Counter())[label] += 1
    return found


def tally_labels(rows: Iterable[tuple[str, int]]) -> Tally:
    """Count the labels that were given to each text."""
    found: dict[bytes, Counter[int]] = {}
    for text, label in rows:
        found.setdefault(of_text(text), Counter())[label] += 1
    return found


def _sure_of_nothing(topk: TopK, labels: Int[Tensor, "B T"]) -> Statistics:
    like, n = topk.log_tail, topk.n_entries
    ceiling = torch.full_like(like, numerics.entropy_ceiling(n))
    label = torch.where(labels >= 0, topk.logprob_of(labels.clamp_min(0)), torch.nan)
    return Statistics(
        entropy=ceiling,
        entropy_low=ceiling,
        gini=torch.full_like(like, 1 - 1 / n),
        margin=torch.zeros_like(like),
        max_logprob=-ceiling,
        label_logprob=label,
        class_mass=like.new_zeros(*like.shape, 0),
    )
