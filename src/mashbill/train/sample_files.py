"""Files of completions as teachers: a file of samples is a data file, with a line for each sample."""

from pathlib import Path

from mashbill.durable import sha256_of
from mashbill.errors import MashbillError
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.samples import OUTSIDE, SampledTeacher, Tally, tally_labels, tally_tokens
from mashbill.train import recipe
from mashbill.train.data import Row
from mashbill.train.protocol import Student
from mashbill.train.sample_rows import read_samples


def sampled_teacher(
    spec: recipe.Teacher,
    student: Student,
    base: Path,
    data: recipe.Data | None,
    *,
    classes: EntryClasses = NO_CLASSES,
) -> SampledTeacher:
    """Return the teacher whose completions stand in a file.

    The file has the format and the columns of the recipe's data. Tokens are made as they are for training rows, so that
    the same beginning of a completion is the same tokens.

    Args:
        spec: What the recipe says of it.
        student: Whose tokens or labels count.
        base: Where relative paths begin.
        data: What the columns mean.
        classes: Of the student's entries, whose share of the samples is measured.

    Raises:
        DataError: The file cannot be read, or a line cannot be used.
        MashbillError: No sample names a label of the student.
    """
    assert spec.samples is not None, "the caller looked"
    assert data is not None, "whoever opens samples knows the recipe's data"
    path = base / spec.samples
    rows = read_samples(path, data)
    if student.kind == "classifier":
        tally = _labels(spec, rows, student, path)
    else:
        encoded = student.encode(rows, max_length=data.max_length)
        tally = tally_tokens((row.input_ids.tolist(), row.labels.tolist()) for row in encoded)
    pins = {
        "source": path.name,
        "sha256": sha256_of(path),
        "vocabulary": f"{student.vocabulary.digest} {len(student.vocabulary)}",
        "read_as": f"{data.format} max_length={data.max_length}",
        "labels": repr(sorted(spec.labels.items())),
        "outside": spec.outside,
    }
    return SampledTeacher(spec.id, tally, student.n_entries, spec.smoothing, pins, classes)


def _labels(spec: recipe.Teacher, rows: list[Row], student: Student, path: Path) -> Tally:
    place = {label: index for index, label in student.vocabulary.tokens.items()}
    named = [(row.text or "", place.get(spec.labels.get(row.label or "", row.label or ""), OUTSIDE)) for row in rows]
    if all(index == OUTSIDE for _, index in named):
        raise MashbillError(
            f"no sample of teacher `{spec.id}` names a label of the student",
            where=str(path),
            why=f"they name {', '.join(sorted({str(row.label) for row in rows})[:8])}; "
            f"the student has {', '.join(list(place)[:8])}",
            help="map them: `labels: {label of the samples: label of the student}`",
        )
    return tally_labels(one for one in named if one[1] != OUTSIDE or spec.outside == "tail")
