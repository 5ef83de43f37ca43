"""From a capture that DistillKit wrote to stores of our own: rows are found again by their tokens."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mashbill.distributions.statistics import Statistics, measure
from mashbill.distributions.topk import TopK
from mashbill.errors import DataError, MashbillError
from mashbill.progress import Progress
from mashbill.shapes import Int, Tensor
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.protocol import Scored, Teacher
from mashbill.teachers.store.capturing import RESERVE, capture, expected_bytes, require_room
from mashbill.teachers.store.columns import Answered, joined
from mashbill.teachers.store.content import content_of
from mashbill.teachers.store.distillkit_files import Capture, Place, as_topk
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, Shard, cut
from mashbill.train.corpus import Corpus
from mashbill.train.reconstruction import Reconstruction, reconstruction_of, require_alignment
from mashbill.train.rescoring import Difference, difference, flat, sample_of

SAMPLE = 16
"""Rows that are looked at before anything is written."""


class Index:
    """Captured rows by their tokens.

    Args:
        source: The capture.
    """

    def __init__(self, source: Capture) -> None:
        self.source = source
        self._places: dict[bytes, Place] = {}
        for place, tokens in source.tokens():
            # The last token may be padding, or an end that a text does not show: what comes before it counts too.
            for end in (len(tokens), len(tokens) - 1):
                self._places.setdefault(_key(tokens[:end]), place)

    def places(self, corpus: Corpus, *, where: str) -> list[Place]:
        """Return where each row of a corpus lies.

        Raises:
            DataError: A row was not captured.
        """
        found, missing = [], []
        for number, row in enumerate(corpus.rows):
            begin, end = (int(corpus.input_ids.starts[number + n]) for n in (0, 1))
            place = self._places.get(_key(corpus.input_ids.values[begin:end].numpy()))
            found += [place] if place else []
            missing += [] if place else [row.id]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(corpus):,} rows were not captured, the first is `{missing[0]}`",
                where=where,
                why="no captured row has the tokens that the student's tokenizer makes of it",
                help="give the tokenizer and `data.max_length` of the capture, or make rows from it: --write-rows",
            )
        return found


@dataclass(frozen=True)
class Source:
    """A capture and the rows of one set in it.

    Attributes:
        capture: The folder.
        places: Of each row of the corpus.
        corpus: The rows.
        n_entries: ``V``.
        classes: Of the student's entries; the mass of what was captured of them.
    """

    capture: Capture
    places: Sequence[Place]
    corpus: Corpus
    n_entries: int
    classes: EntryClasses = NO_CLASSES

    def answered(self, number: int) -> Answered:
        """Return what was captured about one row.

        Raises:
            DataError: It cannot be restored, or positions of the row were not captured.
        """
        inputs = self.corpus.inputs(torch.tensor([number]))
        where = inputs.mask[0].nonzero().squeeze(1)
        found, place = self.capture.read(self.places[number]), self.places[number]
        if len(where) and int(where[-1]) >= len(found.ids):
            raise DataError(
                f"row `{inputs.row_ids[0]}` counts {int(where[-1]) + 1} positions, and {len(found.ids)} were captured",
                where=f"{place.file.parent / place.name}",
                help="cut the row where the capture ends, or make rows from it: --write-rows",
            )
        whole, _ = as_topk(found, self.n_entries)
        topk = TopK(whole.ids[where], whole.logprobs[where], whole.log_tail[where], self.n_entries)
        end = int(where[-1]) + 1 if len(where) else 0
        tokens = np.zeros(0, np.int32) if inputs.input_ids is None else inputs.input_ids[0, :end].numpy()
        return Answered(
            inputs.row_ids,
            (content_of(inputs, 0),),
            (tokens,),
            np.array([0, len(where)]),
            where.numpy(),
            self.classes.measured(Scored(topk, _measured(topk, inputs.labels[0][where]))),
            ("",),
        )

    def form(self) -> Reconstruction:
        """Look at some rows.

        Raises:
            DataError: Labels say that the distributions belong to other positions.
        """
        parts, labels = [], []
        for number in sample_of(self.corpus, SAMPLE).tolist():
            parts.append(self.capture.read(self.places[number]))
            labels.append(self.corpus.inputs(torch.tensor([number])).labels[0])
        require_alignment(parts, labels, where=str(self.capture.folder))
        return reconstruction_of(parts, self.capture.settings, self.n_entries, where=str(self.capture.folder))

    def against(self, live: Teacher) -> Difference:
        """Ask the teacher about some rows, and compare.

        Raises:
            MashbillError: It is another teacher's capture.
        """
        parts, names = [], []
        for number in sample_of(self.corpus, SAMPLE).tolist():
            inputs, kept = self.corpus.inputs(torch.tensor([number])), self.answered(number)
            parts.append((flat(live.score(inputs), inputs.mask), kept.scored.distribution))
            names += [f"row `{inputs.row_ids[0]}`, position {place}" for place in kept.positions.tolist()]
        found = difference(parts, names)
        if found.is_of_another:
            raise MashbillError(
                f"the capture is not that of teacher `{live.id}`",
                where=str(self.capture.folder),
                why=f"{found.n_rows} rows were asked about again: the most probable entry is the same at "
                f"{100 * found.agreement:.0f} % of the positions, and half of them have lost more than "
                f"{found.typical:.2f} nats beside what was cut off",
                help="name the teacher that was captured, or leave `model` out to import without a comparison",
            )
        return found


def plan_of(source: Source, *, teacher: Mapping[str, str], vocabulary: str, at_most: int) -> Plan:
    """Return what the store of one set of rows is to hold.

    Args:
        source: Where the rows come from.
        teacher: What pins the capture down.
        vocabulary: The sha256 of the student's map from ids to tokens.
        at_most: Positions of a shard.
    """
    shards = cut(source.corpus.n_counted.tolist(), _contents(source.corpus), at_most=at_most)
    k, classes = min(source.capture.settings.k, source.n_entries), source.classes.names
    return Plan(teacher, vocabulary, Layout(source.n_entries, k=k, classes=classes), shards)


def require_room_for(plans: Sequence[Plan], store: Path) -> None:
    """Refuse an import for which the disk is too small.

    Raises:
        MashbillError: It is.
    """
    place = next(one for one in (store, *store.absolute().parents) if one.exists())
    needed = sum(expected_bytes(plan, plan.n_positions) for plan in plans)
    require_room(place, free=shutil.disk_usage(place).free, needed=needed, reserve=RESERVE)


def import_set(source: Source, folder: Path, plan: Plan, *, progress: Progress | None) -> None:
    """Write the store of one set of rows; killed, the same call goes on."""

    def ask(shard: Shard) -> Answered:
        return joined([source.answered(shard.first + n) for n in range(shard.n_rows)])

    capture(folder, plan, ask, progress=progress)


def _contents(corpus: Corpus) -> Iterator[bytes]:
    for index in torch.arange(len(corpus)).split(256):
        inputs = corpus.inputs(index)
        yield from (content_of(inputs, row) for row in range(len(index)))


def _measured(topk: TopK, labels: Int[Tensor, " P"]) -> Statistics:
    try:
        return measure(topk, labels=labels, is_top=True)
    except ValueError:  # restored numbers need not leave so little for the rest
        return measure(topk, labels=labels)


def _key(tokens: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(tokens).astype(np.int64).tobytes(), digest_size=16).digest()
