"""All rows of a set, encoded once and laid end to end, and batches of them by index."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from mashbill.errors import DataError, did_you_mean
from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.teachers.protocol import Inputs
from mashbill.train.data import Row
from mashbill.train.protocol import NO_LABEL, Batch, Student


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, end to end.

    Attributes:
        values: All rows' values.
        starts: Where each row begins; one more than there are rows.
    """

    values: Int[Tensor, " P"]
    starts: Int[Tensor, " N1"]

    @classmethod
    def of(cls, rows: Sequence[Tensor]) -> "Ragged":
        """Lay rows end to end."""
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        return cls(torch.cat([*rows, torch.zeros(0, dtype=torch.long)]), lengths.cumsum(0))

    @cached_property
    def lengths(self) -> Int[Tensor, " N"]:
        """Values in each row."""
        return self.starts.diff()

    def padded(self, index: Int[Tensor, " B"], *, fill: int) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Return some rows, filled up on the right to the longest of them, and which values are real."""
        place, real = self.places(index)
        return torch.where(real, self.values[place], fill), real

    def rows_at(self, index: Int[Tensor, " B"]) -> "Ragged":
        """Return some rows, end to end."""
        return Ragged.of([self.values[self.starts[n] : self.starts[n + 1]] for n in index.tolist()])

    def places(
        self, index: Int[Tensor, " B"], *, width: int | None = None
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Return where the values of some rows lie, and which are real; the others point at value 0."""
        lengths = self.lengths[index]
        within = torch.arange(int(lengths.max()) if width is None else width)
        real = within < lengths.unsqueeze(1)
        return torch.where(real, self.starts[index].unsqueeze(1) + within, 0), real


@dataclass(frozen=True)
class Corpus:
    """A set of rows as tensors; row ``n`` is the same in all of them.

    Attributes:
        kind: Whether positions are tokens or whole rows.
        rows: What the rows were; a block of a long text has an id of its own.
        input_ids: Token ids or features.
        labels: A label for each position, ``-100`` where there is none.
        teachers: Teacher ids; ``route`` indexes them.
        tasks: Task names; ``task`` indexes them.
        contexts: Context names; ``context`` indexes them.
        task: Task of each row.
        context: Context of each row.
        route: The teacher that a row names, ``-1`` if none.
        features: Numeric context features.
        variances: Measured variance of each teacher's answer to the row; empty if none was measured.
        critical: Whether failure on the row weighs most.
    """

    kind: str
    rows: tuple[Row, ...]
    input_ids: Ragged
    labels: Ragged
    teachers: tuple[str, ...]
    tasks: tuple[str, ...]
    contexts: tuple[str, ...]
    task: Int[Tensor, " N"]
    context: Int[Tensor, " N"]
    route: Int[Tensor, " N"]
    features: Float[Tensor, "N F"]
    variances: Float[Tensor, "N _"]
    critical: Bool[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Int[Tensor, " N"]:
        """Inputs of each row: tokens or features."""
        return self.input_ids.lengths

    @cached_property
    def counts(self) -> Bool[Tensor, " P"]:
        """Positions that count, end to end: of a classifier all, of a language model those with a label."""
        return (
            torch.ones_like(self.labels.values, dtype=torch.bool)
            if self.kind == "classifier"
            else self.labels.values != NO_LABEL
        )

    @cached_property
    def n_counted(self) -> Int[Tensor, " N"]:
        """Positions of each row that count."""
        total = torch.cat([torch.zeros(1, dtype=torch.long), self.counts.long().cumsum(0)])
        return total[self.labels.starts[1:]] - total[self.labels.starts[:-1]]

    @cached_property
    def digest(self) -> str:
        """The sha256 of everything that a teacher sees of the rows."""
        digest = hashlib.sha256(self.kind.encode())
        for row in self.rows:
            digest.update(f"{row.id}\0{row.text}\1".encode("utf-8", "surrogatepass"))
        for part in (self.input_ids, self.labels):
            for tensor in (part.values, part.starts):
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def rows_at(self, index: Int[Tensor, " B"]) -> "Corpus":
        """Return a corpus of some of the rows; tasks, contexts and teachers keep their numbers."""
        tensors = ("task", "context", "route", "features", "variances", "critical")
        return replace(
            self,
            rows=tuple(self.rows[n] for n in index.tolist()),
            input_ids=self.input_ids.rows_at(index),
            labels=self.labels.rows_at(index),
            **{name: getattr(self, name)[index] for name in tensors},
        )

    def batch(self, index: Int[Tensor, " B"]) -> Batch:
        """Return some rows, padded."""
        inputs, attention = self.input_ids.padded(index, fill=0)
        labels, real = self.labels.padded(index, fill=NO_LABEL)
        return Batch(index, inputs, attention, labels, real if self.kind == "classifier" else labels != NO_LABEL)

    def inputs(self, index: Int[Tensor, " B"]) -> Inputs:
        """Return some rows as teachers see them."""
        batch = self.batch(index)
        rows = [self.rows[place] for place in index.tolist()]
        return Inputs(
            row_ids=tuple(row.id for row in rows),
            texts=tuple(row.text or "" for row in rows),
            input_ids=batch.input_ids if self.kind == "causal_lm" else None,
            labels=batch.labels,
            mask=batch.mask,
        )


def build_corpus(
    student: Student,
    rows: Sequence[Row],
    *,
    max_length: int,
    teachers: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
    contexts: Sequence[str] | None = None,
) -> Corpus:
    """Encode rows for a student.

    Args:
        student: Who reads them.
        rows: From :func:`mashbill.train.data.read_rows`.
        max_length: The recipe's ``data.max_length``.
        teachers: Ids of all teachers, in their order.
        tasks: Names of the tasks of all sets together, so that an index means the same in each; None for those of
            ``rows``.
        contexts: Likewise.

    Raises:
        DataError: There are no rows, or a row names a teacher, a label or a number of features that does not exist.
    """
    if not rows:
        raise DataError("there are no rows", help="check the path and the format under `data`")
    encoded = student.encode(rows, max_length=max_length)
    kept = tuple(each.row for each in encoded)
    task_names = names_of((row.task for row in rows) if tasks is None else tasks)
    context_names = names_of((row.context for row in rows) if contexts is None else contexts)
    return Corpus(
        kind=student.kind,
        rows=kept,
        input_ids=Ragged.of([each.input_ids for each in encoded]),
        labels=Ragged.of([each.labels for each in encoded]),
        teachers=tuple(teachers),
        tasks=task_names,
        contexts=context_names,
        task=_index([row.task for row in kept], task_names),
        context=_index([row.context for row in kept], context_names),
        route=_routes(kept, teachers),
        features=_features(kept),
        variances=_variances(kept, teachers),
        critical=torch.tensor([row.critical for row in kept]),
    )


def names_of(each: Iterable[str]) -> tuple[str, ...]:
    """Return the different names among ``each``, sorted."""
    return tuple(sorted(set(each)))


def encode_sets(
    student: Student, sets: dict[str, list[Row]], *, max_length: int, teachers: Sequence[str]
) -> dict[str, Corpus]:
    """Encode several sets so that a task's or a context's index is the same in all of them."""
    every = [row for rows in sets.values() for row in rows]
    tasks, contexts = names_of(row.task for row in every), names_of(row.context for row in every)
    return {
        name: build_corpus(student, rows, max_length=max_length, teachers=teachers, tasks=tasks, contexts=contexts)
        for name, rows in sets.items()
    }


def _index(values: Sequence[str], names: Sequence[str]) -> Tensor:
    place = {name: n for n, name in enumerate(names)}
    return torch.tensor([place[value] for value in values], dtype=torch.long)


def _routes(rows: Sequence[Row], teachers: Sequence[str]) -> Tensor:
    place = {teacher: n for n, teacher in enumerate(teachers)}
    for row in rows:
        if row.teacher and place and row.teacher not in place:
            raise DataError(
                f"row `{row.id}` names teacher `{row.teacher}`, which the recipe does not have"
                f"{did_you_mean(row.teacher, teachers)}",
                why=f"teachers: {', '.join(teachers)}",
                help="correct the column, or leave data.teacher_column out",
            )
    return torch.tensor([place.get(row.teacher or "", -1) for row in rows], dtype=torch.long)


def _features(rows: Sequence[Row]) -> Tensor:
    widths = {len(row.features) for row in rows}
    if len(widths) > 1:
        raise DataError(f"rows have different numbers of features: {sorted(widths)}", help="check data.feature_columns")
    return torch.tensor([list(row.features) for row in rows], dtype=torch.float32).reshape(len(rows), widths.pop())


def _variances(rows: Sequence[Row], teachers: Sequence[str]) -> Tensor:
    if not rows[0].variances:
        return torch.zeros(len(rows), 0)
    missing = [teacher for teacher in teachers if teacher not in rows[0].variances]
    if missing:
        raise DataError(
            f"data.variance_columns says nothing about teacher `{missing[0]}`",
            help="name a column for each teacher, or leave variance_columns out",
        )
    return torch.tensor([[row.variances[teacher] for teacher in teachers] for row in rows], dtype=torch.float32)
