"""Rows of a file of samples: those of the recipe's data, with a line for each sample. Does not import torch."""

from pathlib import Path

from mashbill.errors import DataError
from mashbill.train.data import Row, read_rows
from mashbill.train.recipe import Data


def read_samples(path: Path, data: Data) -> list[Row]:
    """Read a file of samples; columns that say something of a row and not of a sample need not be there.

    Raises:
        DataError: The file cannot be read, is empty, or a line cannot be used.
    """
    columns = {"task_column": None, "context_columns": [], "feature_columns": [], "variance_columns": {}}
    plain = data.model_copy(update={**columns, "teacher_column": None, "critical_column": None})
    if not path.exists():
        raise DataError(f"no file of samples at `{path}`", help="correct the path, or sample the teacher first")
    rows = read_rows(path, plain)
    if not rows:
        raise DataError("there are no samples", where=str(path), help="write a line for each completion")
    if data.format == "classification":
        bare = [row.id for row in rows if row.label is None]
        if bare:
            raise DataError(
                f"sample `{bare[0]}` has no label ({len(bare)} of {len(rows)} have none)",
                where=str(path),
                why=f"what the teacher said of a text stands in the column `{data.label_column}`",
                help="leave out samples that name no label",
            )
    return rows
