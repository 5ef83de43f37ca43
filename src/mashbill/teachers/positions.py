"""From logits at some positions to distributions and statistics at all of them, in bounded memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from mashbill import numerics
from mashbill.distributions.cutting import measure_and_cut
from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics, measure
from mashbill.distributions.topk import TopK
from mashbill.errors import TeacherError
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.vocabulary import Vocabulary

CHUNK_ENTRIES = 2**18
"""Log-probabilities that are made, measured and cut at once, a whole position at least: in float32 one MiB, so that
the passes over them read the cache and not memory."""


@runtime_checkable
class Reading(Protocol):
    """How a teacher's output columns become a distribution over the student's ``V`` entries."""

    @property
    def n_entries(self) -> int:
        """``V``."""
        ...

    @property
    def n_rows(self) -> int:
        """Columns that the teacher must have at least."""
        ...

    def read(self, logits: Float[Tensor, "P _"]) -> Dense | TopK:
        """Return all that the logits say of the student's entries."""
        ...


@dataclass(frozen=True)
class Columns:
    """The reading of a teacher whose ids are the student's.

    Columns of ids that the student does not have get no mass; they go before anything is normalised.

    Attributes:
        n_entries: ``V``.
        absent: Entries that stand for no token of the student.
    """

    n_entries: int
    absent: Bool[Tensor, " V"]

    @property
    def n_rows(self) -> int:
        """One for each id up to the student's greatest."""
        return int((~self.absent).nonzero().max()) + 1

    def read(self, logits: Float[Tensor, "P _"]) -> Dense:
        """Return the whole distribution."""
        # That of numerics, in fewer passes: it need not pass gradients, nor be equal to the last bit elsewhere.
        logprobs = torch.log_softmax(numerics.widen(self.select(logits.detach())), dim=-1)
        return Dense(logprobs.clamp_min_(numerics.LOG_ZERO))

    @classmethod
    def of(cls, student: Vocabulary) -> "Columns":
        """Take the student's entries."""
        absent = torch.ones(len(student), dtype=torch.bool)
        absent[torch.tensor(sorted(student.tokens), dtype=torch.long)] = False
        return cls(len(student), absent)

    def select(self, logits: Float[Tensor, "P _"]) -> Float[Tensor, "P V"]:
        """Return the student's columns; ``-inf`` where the student has no token."""
        chosen = logits[:, : self.n_entries]
        if chosen.shape[1] < self.n_entries:
            chosen = torch.nn.functional.pad(chosen, (0, self.n_entries - chosen.shape[1]), value=-torch.inf)
        return chosen.masked_fill(self.absent.to(logits.device), -torch.inf) if self._has_absent else chosen

    @cached_property
    def _has_absent(self) -> bool:
        return bool(self.absent.any())


def score_logits(
    logits: Float[Tensor, "N _"],
    index: Int[Tensor, " P"],
    labels: Int[Tensor, " P"],
    columns: Reading,
    *,
    top_k: int | None,
    classes: EntryClasses = NO_CLASSES,
) -> Scored:
    """Normalise, measure and cut the logits of some positions, a few at a time.

    The statistics are those of the full distribution, whatever ``top_k`` keeps of it.

    Args:
        logits: Of all positions, in the model's dtype and on its device.
        index: Which of them count.
        labels: What those are about; ``-100`` where unknown.
        columns: The student's entries, and what is said of them.
        top_k: Entries to keep; None keeps all.
        classes: Whose mass is measured too.

    Returns:
        Distributions and statistics ``[P]`` on the CPU; NaN where the logits are no numbers.
    """
    index, labels = index.to(logits.device), labels.to(logits.device)
    n_each = max(1, CHUNK_ENTRIES // columns.n_entries)
    parts = []
    for start in range(0, len(index), n_each):
        chunk = slice(start, start + n_each)
        whole = columns.read(logits[index[chunk]])
        kept, statistics = _measured(whole, labels[chunk], top_k)
        statistics = replace(statistics, class_mass=classes.mass(whole))
        parts.append(Scored(_moved(kept), statistics.to("cpu")))
    return joined(parts)


def joined(parts: Sequence[Scored]) -> Scored:
    """Put answers for different positions one after the other; shorter lists get unused slots."""
    statistics = Statistics(
        **{f.name: torch.cat([getattr(part.statistics, f.name) for part in parts]) for f in fields(Statistics)}
    )
    each = [part.distribution for part in parts]
    lists = [one for one in each if isinstance(one, TopK)]
    if not lists:
        return Scored(Dense(torch.cat([one.logprobs for one in each])), statistics)
    widest = max(one.logprobs.shape[-1] for one in lists)
    even = [_widened(one, widest) for one in lists]
    whole = {name: torch.cat([getattr(one, name) for one in even]) for name in ("ids", "logprobs", "log_tail")}
    return Scored(TopK(**whole, n_entries=lists[0].n_entries), statistics)


def _widened(topk: TopK, width: int) -> TopK:
    more, pad = width - topk.logprobs.shape[-1], torch.nn.functional.pad
    ids, logprobs = pad(topk.ids, (0, more), value=-1), pad(topk.logprobs, (0, more), value=numerics.LOG_ZERO)
    return TopK(ids, logprobs, topk.log_tail, topk.n_entries)


def part_of(scored: Scored, index: slice | Tensor) -> Scored:
    """Return the answers of lists at some positions, one after the other: ``index`` is of the first axes, or a mask."""
    topk = scored.distribution
    assert isinstance(topk, TopK), "of whole distributions nobody takes a part"
    part = TopK(topk.ids[index], topk.logprobs[index], topk.log_tail[index], topk.n_entries)
    return Scored(part, scored.statistics.rows(index))


def spread(flat: Scored, where: Int[Tensor, " P"], shape: tuple[int, int]) -> Scored:
    """Lay flat answers out as ``[B T]``; all other positions hold the uniform distribution.

    Args:
        flat: Answers ``[P]``.
        where: Place ``b * T + t`` of each.
        shape: ``B`` and ``T``.
    """

    def lay(values: Tensor, fill: int | float) -> Tensor:
        out = values.new_full((shape[0] * shape[1], *values.shape[1:]), fill)
        return out.index_copy(0, where, values).unflatten(0, shape)

    n = flat.distribution.n_entries
    even = {"entropy": math.log(n), "entropy_low": math.log(n), "gini": 1 - 1 / n, "margin": 0.0}
    even |= {"max_logprob": -math.log(n), "label_logprob": math.nan, "class_mass": 0.0}
    statistics = Statistics(**{name: lay(getattr(flat.statistics, name), fill) for name, fill in even.items()})
    one = flat.distribution
    if isinstance(one, Dense):
        return Scored(Dense(lay(one.logprobs, -math.log(n))), statistics)
    ids, logprobs, log_tail = lay(one.ids, -1), lay(one.logprobs, numerics.LOG_ZERO), lay(one.log_tail, 0.0)
    return Scored(TopK(ids, logprobs, log_tail, n), statistics)


def require_numbers(scored: Scored, inputs: Inputs, *, teacher_id: str) -> None:
    """Refuse an answer that is not a number, naming row and position.

    Raises:
        TeacherError: A distribution holds NaN.
    """
    broken = scored.statistics.entropy.isnan() | scored.statistics.max_logprob.isnan()
    if not bool(broken.any()):
        return
    row, position = (int(at) for at in broken.nonzero()[0])
    raise TeacherError(
        f"teacher `{teacher_id}` gave logits that are not numbers",
        where=f"row `{inputs.row_ids[row]}`, position {position}",
        why="NaN or infinite logits are no distribution; nothing was trained on them",
        help="check the teacher's weights, or load it with dtype float32 if it runs in float16",
    )


def _measured(whole: Dense | TopK, labels: Tensor, top_k: int | None) -> tuple[Dense | TopK, Statistics]:
    if top_k is None or top_k >= whole.n_entries:
        return whole, measure(whole, labels=labels)
    if isinstance(whole, TopK):
        return whole.cut(top_k), measure(whole, labels=labels)
    if top_k == 1:
        return TopK.from_logprobs(whole.logprobs, k=1), measure(whole, labels=labels)
    return measure_and_cut(whole.logprobs, labels=labels, k=top_k)


def _moved(distribution: Dense | TopK) -> Dense | TopK:
    if isinstance(distribution, Dense):
        return Dense(distribution.logprobs.cpu())
    return TopK(
        distribution.ids.cpu(), distribution.logprobs.cpu(), distribution.log_tail.cpu(), distribution.n_entries
    )
