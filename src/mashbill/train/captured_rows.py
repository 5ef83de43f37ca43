"""Rows for a recipe from the tokens of a capture, which has no texts of its own."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mashbill.durable import written_aside
from mashbill.errors import DataError, MashbillError
from mashbill.teachers.store.distillkit_files import Capture
from mashbill.train.causal import CausalStudent
from mashbill.train.data import Row


@dataclass(frozen=True)
class Written:
    """What became of the captured rows.

    Attributes:
        n_rows: Rows written.
        n_lost: Rows whose text does not give their tokens back.
        n_long: Rows of more than ``data.max_length`` tokens.
    """

    n_rows: int
    n_lost: int
    n_long: int


def write_rows(source: Capture, student: CausalStudent, path: Path, *, text_column: str, max_length: int) -> Written:
    """Write a JSONL file with the text of each captured row that gives its tokens back, exactly.

    A row that the capture cut off gets the end of a text as its last label, whatever really came next.

    Raises:
        MashbillError: There is such a file, or it would not be JSONL.
        DataError: Most rows do not survive: the tokenizer is another one.
    """
    if path.exists():
        raise MashbillError(
            f"`{path}` exists", where="--write-rows", why="nothing is overwritten", help="leave --write-rows out"
        )
    if path.suffix != ".jsonl":
        raise MashbillError(
            f"`{path}` does not end in .jsonl", where="--write-rows", help="name such a file as the data"
        )
    n_rows = n_lost = n_long = 0
    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        for name, tokens in _rows(source):
            n_long += len(tokens) > max_length
            if len(tokens) > max_length:
                continue
            text = _text(student, tokens, max_length=max_length)
            n_lost += text is None
            if text is not None:
                n_rows += 1
                file.write(json.dumps({"id": name, text_column: text}, ensure_ascii=False) + "\n")
        if n_rows <= n_lost or n_rows == 0:
            raise _unlike(source, n_rows, n_lost, n_long, max_length)
    return Written(n_rows, n_lost, n_long)


def _rows(source: Capture) -> Iterator[tuple[str, np.ndarray]]:
    for place, tokens in source.tokens():
        yield f"{place.file.stem}-{place.group}-{place.row}", tokens


def _text(student: CausalStudent, tokens: np.ndarray, *, max_length: int) -> str | None:
    """Return a text that becomes these tokens, or these less an end that every text gets; None if there is none."""
    ids = tokens.tolist()
    for start in (0, 1):  # a first token that the tokenizer adds by itself stands in the capture too
        text = student.tokenizer.decode(ids[start:], clean_up_tokenization_spaces=False)
        try:
            again = student.encode([Row("row", text=text)], max_length=max_length) if text else []
        except DataError:
            again = []
        if len(again) == 1 and again[0].input_ids.tolist() in (ids, ids[:-1]):
            return text
    return None


def _unlike(source: Capture, n_rows: int, n_lost: int, n_long: int, max_length: int) -> DataError:
    if n_long and not n_rows:
        return DataError(
            f"all rows of the capture are longer than data.max_length={max_length}",
            where=str(source.folder),
            help="raise `data.max_length` to the length of the captured rows",
        )
    return DataError(
        f"{n_lost:,} of {n_lost + n_rows:,} captured rows are no text of the student's tokenizer",
        where=str(source.folder),
        why="their tokens, made text and tokens again, are others",
        help="give the student the tokenizer of the teacher that was captured",
    )
