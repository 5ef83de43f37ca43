"""A classifier's labels: which there are, and which one a row has."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from mashbill.errors import DataError, MashbillError, did_you_mean
from mashbill.shapes import Int, Tensor
from mashbill.train.data import Row
from mashbill.train.protocol import NO_LABEL


def read_labels(given: Sequence[str] | Path) -> tuple[str, ...]:
    """Return the labels of a recipe: the list itself, or the contents of a JSON list or of a text file, one a line.

    Raises:
        MashbillError: The file is not there, or labels are missing or named twice.
    """
    if isinstance(given, Path):
        where = str(given)
        try:
            text = given.read_text(encoding="utf-8")
        except OSError as error:
            raise MashbillError(
                f"cannot read the labels: {error.strerror}", where=where, help="correct `student.labels`"
            ) from error
        found = json.loads(text) if given.suffix == ".json" else [line.strip() for line in text.splitlines()]
        labels = tuple(str(label) for label in found if label)
    else:
        where, labels = "student.labels", tuple(given)
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if len(labels) < 2 or twice:
        raise MashbillError(
            f"labels name {', '.join(twice)} twice" if twice else f"{len(labels)} label(s) given",
            where=where,
            why="a classifier needs at least two labels, each once",
            help="correct the list",
        )
    return labels


def write_labels(directory: Path, labels: Sequence[str]) -> None:
    """Write ``labels.json`` beside a saved student; an adapter's own files do not name its outputs."""
    text = json.dumps({"labels": list(labels)}, ensure_ascii=False, indent=1)
    (directory / "labels.json").write_text(text + "\n", encoding="utf-8")


def label_ids(rows: Sequence[Row], labels: Sequence[str]) -> Int[Tensor, " N"]:
    """Return the index of each row's label, ``-100`` for rows without one.

    Raises:
        DataError: A row's label is not among ``labels``.
    """
    index = {label: place for place, label in enumerate(labels)}
    for row in rows:
        if row.label and row.label not in index:
            some = ", ".join(list(labels)[:12]) + (", ..." if len(labels) > 12 else "")
            raise DataError(
                f"row `{row.id}` has label `{row.label}`, which the student does not have"
                f"{did_you_mean(row.label, labels)}",
                why=f"the student's {len(labels)} labels: {some}",
                help="add it to `student.labels`, or leave the label of such rows out",
            )
    return torch.tensor([index[row.label] if row.label else NO_LABEL for row in rows], dtype=torch.long)
