"""A classifier's labels with a saved student, and which one a row has."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from mashbill.errors import DataError, did_you_mean
from mashbill.shapes import Int, Tensor
from mashbill.train.data import Row
from mashbill.train.protocol import NO_LABEL


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
