"""Which labels a classifier has; without torch, so that a recipe is checked fast."""

import json
from collections.abc import Sequence
from pathlib import Path

from mashbill.errors import MashbillError


def read_labels(given: Sequence[str] | Path) -> tuple[str, ...]:
    """Return the labels of a recipe: the list itself, or the contents of a JSON list or of a text file, one a line.

    Raises:
        MashbillError: The file cannot be read, or labels are missing, blank or named twice.
    """
    where = str(given) if isinstance(given, Path) else "student.labels"
    labels = tuple(_in_file(given) if isinstance(given, Path) else given)
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if len(labels) < 2:
        what = f"a classifier needs at least two labels, got {len(labels)}"
    elif twice:
        what = f"the label `{twice[0]}` stands there twice"
    elif not all(label.strip() for label in labels):
        what = "a label is blank"
    else:
        return labels
    raise MashbillError(what, where=where, help="list every label once under student.labels, or in the file it names")


def _in_file(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        found = json.loads(text) if path.suffix == ".json" else lines
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MashbillError(
            f"cannot read the labels in `{path}`: {reason}", where="student.labels", help="correct the path or the file"
        ) from error
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise MashbillError(f"`{path}` must hold a JSON list of text", where="student.labels")
    return found
