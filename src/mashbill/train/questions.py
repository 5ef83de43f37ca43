"""The rows of a recipe as questions to teachers, a piece at a time: nobody holds all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mashbill.errors import DataError
from mashbill.teachers.store.asking import Asked
from mashbill.teachers.store.plan import Shard, cut_rows
from mashbill.train.assemble import TRAIN
from mashbill.train.loading import Loaded
from mashbill.train.pieces import read_row_pieces
from mashbill.train.protocol import NO_LABEL, EncodedRow, Student


@dataclass(frozen=True)
class Questions:
    """A set of rows, read from its file as often as it is gone through.

    Attributes:
        loaded: The recipe.
        student: Who encodes the rows.
        path: The file.
    """

    loaded: Loaded
    student: Student
    path: Path

    def pieces(self) -> Iterator[Asked]:
        """Yield the rows, some at a time.

        Raises:
            DataError: A row cannot be used, or there are none.
        """
        data, critical = self.loaded.recipe.data, self.loaded.recipe.critical
        n_rows = 0
        for rows in read_row_pieces(self.path, data, critical_labels=critical.labels if critical else ()):
            encoded = self.student.encode(rows, max_length=data.max_length)
            n_rows += len(encoded)
            yield _asked(encoded, is_text=self.student.kind == "causal_lm")
        if not n_rows:
            raise DataError("there are no rows", help="check the path and the format under `data`")

    def samples(self) -> tuple[Asked, Asked]:
        """Return the first row of which some position counts, and the longest of all."""
        first = longest = None
        for piece in self.pieces():
            for row in range(len(piece)):
                if first is None and len(piece.places[row]):
                    first = piece.rows(row, row + 1)
                if longest is None or len(piece.labels[row]) > len(longest.labels[0]):
                    longest = piece.rows(row, row + 1)
        if first is None or longest is None:
            raise DataError("no row has a position that counts", where=str(self.path))
        return first, longest

    def shards(self, *, at_most: int) -> tuple[tuple[Shard, ...], int]:
        """Return the rows cut into shards, and about how many bytes their questions are."""
        n_bytes = 0

        def each() -> Iterator[tuple[int, str, bytes]]:
            nonlocal n_bytes
            for piece in self.pieces():
                n_bytes += piece.n_bytes
                yield from zip(map(len, piece.places), piece.row_ids, piece.contents(), strict=True)

        shards = cut_rows(each(), at_most=at_most)
        return shards, n_bytes

    def _next(self, pieces: Iterator[Asked]) -> Asked:
        for piece in pieces:
            return piece
        raise DataError(
            "rows are gone that were there a moment ago",
            where=str(self.path),
            why="the file was changed while it was read",
            help="leave the data alone, and give the same command again",
        )

    def of(self, shards: tuple[Shard, ...]) -> Iterator[tuple[Shard, Asked]]:
        """Yield each shard with its rows, in their order."""
        left, pieces = Asked((), (), None, (), ()), self.pieces()
        for shard in shards:
            held = [left] if len(left) else []
            while sum(map(len, held)) < shard.n_rows:
                held.append(self._next(pieces))
            together = Asked.joined(held)
            left = together.rows(shard.n_rows, len(together))
            yield shard, together.rows(0, shard.n_rows)


def question_sets(loaded: Loaded, student: Student) -> Mapping[str, Questions]:
    """Return every set of rows that a recipe names."""
    data = loaded.recipe.data
    paths = {TRAIN: data.train, **data.eval}
    if data.scorecard is not None:
        paths["scorecard rows"] = data.scorecard
    return {name: Questions(loaded, student, loaded.resolve(path)) for name, path in paths.items()}


def _asked(encoded: list[EncodedRow], *, is_text: bool) -> Asked:
    labels = tuple(each.labels.numpy() for each in encoded)
    return Asked(
        tuple(each.row.id for each in encoded),
        tuple(each.row.text or "" for each in encoded),
        tuple(each.input_ids.numpy() for each in encoded) if is_text else None,
        labels,
        # Of a classifier every row counts; of a language model the positions with a label.
        tuple(np.flatnonzero(row != NO_LABEL) if is_text else np.arange(len(row)) for row in labels),
    )
