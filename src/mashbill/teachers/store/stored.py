"""A teacher that was asked before: its answers come from a store."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mashbill.errors import MashbillError, TeacherError, VocabularyError
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.positions import joined, part_of, spread
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.store.columns import Answered
from mashbill.teachers.store.content import content_of
from mashbill.teachers.store.files import Note, read_note, read_refused, read_shard
from mashbill.teachers.store.finding import Finder
from mashbill.teachers.store.plan import FILE, Plan, Shard
from mashbill.teachers.vocabulary import Vocabulary

_AHEAD = 1
# Shards that are read while one is in use.


class StoredTeacher:
    """The answers of a teacher to rows that it was asked about once.

    Args:
        id: Name in the recipe.
        folder: A store, or a folder of stores of one teacher about different rows.
        vocabulary: The student's.
        classes: Whose mass is wanted: those that the store was captured with, or none.
        most_shards: Shards that are kept in memory, the last used ones.

    Raises:
        MashbillError: There is no store, or it is not complete, or stores are of different teachers.
        VocabularyError: A store's ids mean something else.
        CorruptionError: A plan is not what was written.
    """

    def __init__(
        self,
        id: str,
        folder: Path | str,
        vocabulary: Vocabulary,
        *,
        classes: EntryClasses = NO_CLASSES,
        most_shards: int = 2,
    ) -> None:
        self.id, self.folder, self.classes = id, Path(folder), classes
        inside = sorted(one.parent for one in self.folder.glob(f"*/{FILE}"))
        self.plans = {one: Plan.read(one) for one in inside or [self.folder]}
        self._most_shards = most_shards
        self._notes: dict[Path, list[Note]] = {}
        self._kept: OrderedDict[tuple[Path, int], Answered] = OrderedDict()
        self._ahead: dict[tuple[Path, int], Future[Answered]] = {}
        for place, plan in self.plans.items():
            self._require(place, plan, vocabulary)

    def identity(self) -> Mapping[str, str]:
        """Return what pins the teacher down that was asked, and the digests of the stores."""
        plan = next(iter(self.plans.values()))
        own = {name: value for name, value in plan.teacher.items() if name != "classes"}
        return {**own, **self.classes.pins, "stores": self._stored}

    def score(self, inputs: Inputs) -> Scored:
        """Return the stored answers to some rows, ``[B T]``.

        Raises:
            TeacherError: A row is not in the store, or was another one when the teacher was asked.
            CorruptionError: A shard is not what was written.
        """
        parts, places, refused = [], [], {}
        n_positions = inputs.mask.shape[1]
        for b in range(len(inputs.row_ids)):
            answered, row = self._found(inputs, b)
            if answered.refused[row]:
                refused[b] = answered.refused[row]
            here = slice(int(answered.starts[row]), int(answered.starts[row + 1]))
            parts.append(self._wanted(part_of(answered.scored, here)))
            places.append(b * n_positions + torch.from_numpy(answered.positions[here].astype(np.int64)))
        return replace(spread(joined(parts), torch.cat(places), (len(inputs.row_ids), n_positions)), refused=refused)

    def require_rows(self, inputs: Inputs) -> None:
        """Refuse rows that are not in the store; no shard is read for it.

        Raises:
            TeacherError: A row is not in the store, or was another one when the teacher was asked.
        """
        for b, row_id in enumerate(inputs.row_ids):
            if next(self._finder.places(row_id, content_of(inputs, b)), None) is None:
                raise self._unknown(row_id)

    @cached_property
    def refused(self) -> Mapping[str, str]:
        """Ids of rows that the teacher could not answer, and why."""
        found: dict[str, str] = {}
        for folder, plan in self.plans.items():
            for shard, note in zip(plan.shards, self._notes[folder], strict=True):
                if note.n_refused:
                    found |= dict(read_refused(folder, shard))
        return found

    def reason(self, inputs: Inputs, row: int) -> str:
        """Return why the teacher could not answer a row of a batch; empty if it did."""
        answered, place = self._found(inputs, row)
        return answered.refused[place]

    def shards(self, *, seed: int | None = None) -> Iterator[Answered]:
        """Stream all shards, the next one read while one is in use.

        Args:
            seed: Of the order; None for that of the rows.
        """
        each = [(folder, plan, shard) for folder, plan in self.plans.items() for shard in plan.shards]
        order = np.arange(len(each)) if seed is None else np.random.default_rng(seed).permutation(len(each))
        with ThreadPoolExecutor(max_workers=_AHEAD) as reader:
            ahead: list[Future[Answered]] = []
            for number in order:
                ahead.append(reader.submit(read_shard, *each[number]))
                if len(ahead) > _AHEAD:
                    yield ahead.pop(0).result()
            for one in ahead:
                yield one.result()

    @cached_property
    def _stored(self) -> str:
        """Hashes of all that the stores hold: the same plan may have been captured anew, with other answers."""
        found = []
        for folder, plan in self.plans.items():
            held = "".join(note.sha256 for note in self._notes[folder])
            found.append(hashlib.sha256(f"{plan.digest}{held}".encode()).hexdigest())
        return " ".join(found)

    @cached_property
    def _finder(self) -> Finder:
        return Finder.of(self.plans)

    def _found(self, inputs: Inputs, row: int) -> tuple[Answered, int]:
        """Return the shard that holds a row of a batch, and the place in it."""
        row_id, content = inputs.row_ids[row], content_of(inputs, row)
        for folder, shard, place in self._finder.places(row_id, content):
            answered = self._shard(folder, shard)
            if answered.row_ids[place] == row_id and answered.content[place] == content:
                return answered, place
        raise self._unknown(row_id)

    def _wanted(self, scored: Scored) -> Scored:
        mass = scored.statistics.class_mass[..., : len(self.classes.members)]
        return replace(scored, statistics=replace(scored.statistics, class_mass=mass))

    def _unknown(self, row_id: str) -> TeacherError:
        if self._finder.names(row_id):
            return TeacherError(
                f"row `{row_id}` is not the row that teacher `{self.id}` was asked about",
                where=str(self.folder),
                why="its text, its tokens or the positions that count have changed since",
                help="capture again with these rows, or restore them",
            )
        return TeacherError(
            f"row `{row_id}` is not in the store of teacher `{self.id}`",
            where=str(self.folder),
            why=f"{sum(plan.n_rows for plan in self.plans.values()):,} rows were captured, and this is none of them",
            help="capture again with these rows",
        )

    def _shard(self, folder: Path, shard: Shard) -> Answered:
        key = (folder, shard.number)
        if key not in self._kept:
            ahead = self._ahead.pop(key, None)
            self._kept[key] = read_shard(folder, self.plans[folder], shard) if ahead is None else ahead.result()
            if len(self._kept) > self._most_shards:
                self._kept.popitem(last=False)
            self._read_ahead(folder, shard.number + 1)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _read_ahead(self, folder: Path, number: int) -> None:
        """Read the next shard meanwhile: whoever goes through rows in their order wants it soon."""
        plan, key = self.plans[folder], (folder, number)
        if number < len(plan.shards) and key not in self._kept:
            self._ahead = {
                key: self._ahead.get(key) or self._reader.submit(read_shard, folder, plan, plan.shards[number])
            }

    @cached_property
    def _reader(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    def release(self) -> None:
        """Let shards go; the next question reads them again."""
        self._kept.clear()
        self._ahead.clear()

    def _require(self, place: Path, plan: Plan, vocabulary: Vocabulary) -> None:
        if plan.vocabulary != vocabulary.digest or plan.layout.n_entries != len(vocabulary):
            raise VocabularyError(
                f"the store of teacher `{self.id}` was captured for another vocabulary",
                where=str(place),
                why=f"its ids have sha256 {plan.vocabulary[:8]} and {plan.layout.n_entries:,} entries, "
                f"the student's {vocabulary.digest[:8]} and {len(vocabulary):,}",
                help="capture it again with this student's tokenizer",
            )
        if plan.teacher != next(iter(self.plans.values())).teacher:
            raise MashbillError(
                f"the stores of teacher `{self.id}` are of different teachers, or were asked differently",
                where=str(place),
                help="delete those that are out of date, and capture again",
            )
        kept, wanted = plan.teacher.get("classes", "none"), self.classes.pins.get("classes")
        if wanted not in (None, kept):
            raise MashbillError(
                f"the store of teacher `{self.id}` has not the mass of the recipe's `classes`",
                where=str(place),
                why=f"it was captured with {kept}, and the recipe has {wanted}",
                help="capture it again into another `store`; or give those classes, or none",
            )
        notes = [read_note(place, plan, shard) for shard in plan.shards]
        n_missing = sum(shard.n_rows for shard, note in zip(plan.shards, notes, strict=True) if note is None)
        if n_missing > 0:
            raise MashbillError(
                f"the store of teacher `{self.id}` is not complete: {n_missing:,} of {plan.n_rows:,} rows are missing",
                where=str(place),
                help="run `mashbill capture` again; it goes on where it stopped",
            )
        self._notes[place] = [note for note in notes if note is not None]
