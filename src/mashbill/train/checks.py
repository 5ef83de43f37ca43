"""Everything that can be known about a run before it starts, without importing torch.

Not covered: what only a tokenizer, a model's answer or a plug-in's own code can tell. :func:`check_plugins` covers the
last of these and imports the plug-ins to do so.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mashbill.errors import MashbillError, Problem, RecipeError
from mashbill.train.check_data import Source, check_coverage, check_critical, check_rows, read_sources
from mashbill.train.check_models import check_models, student_labels
from mashbill.train.check_tables import Names
from mashbill.train.check_teaching import check_teaching
from mashbill.train.check_weighting import check_constructible, check_weighting, safety_needs, scorecard_needs
from mashbill.train.classes import check_classes
from mashbill.train.data import Row
from mashbill.train.loading import Loaded

BYTES_PER_ENTRY = 8
"""One stored answer of a teacher: a 4-byte id and a 4-byte log-probability."""


@dataclass(frozen=True)
class Survey:
    """What a recipe would do.

    Attributes:
        student: Kind and origin of the student.
        teachers: Ids of the teachers.
        rows: Rows of each data file by its key; counted up to the reading limit.
        is_complete: Whether every row was read.
        tasks: Tasks of the training rows.
        contexts: Deployment contexts of the training rows.
        n_labels: Labels of a classifier, 0 for a language model.
        n_steps: Optimiser steps; rows of ``text`` that are longer than ``max_length`` give more.
        answer_bytes: Estimated disk space for the teachers' answers.
        warnings: What is allowed but worth a look.
    """

    student: str
    teachers: tuple[str, ...]
    rows: dict[str, int]
    is_complete: bool
    tasks: tuple[str, ...]
    contexts: tuple[str, ...]
    n_labels: int
    n_steps: int
    answer_bytes: int
    warnings: tuple[str, ...] = field(default=())

    def facts(self) -> dict[str, Any]:
        """Return the survey as plain values."""
        return asdict(self)


def check(loaded: Loaded, *, limit: int | None = 20_000, is_captured: bool = True) -> Survey:
    """Check that a recipe can run, and say what it would do. Nothing is written and torch is not imported.

    Args:
        loaded: The recipe.
        limit: Rows to read of each data file; None reads all.
        is_captured: Stores that the recipe names must be there.

    Raises:
        RecipeError: Lists every problem found.
        CorruptionError: A data file's bytes do not match their checksums.
    """
    problems: list[Problem] = []
    labels = _labels(loaded, problems)
    problems += check_models(loaded, labels, is_captured=is_captured)
    problems += check_teaching(loaded)
    problems += check_classes(loaded, labels)
    problems += check_critical(loaded, labels)
    sources = read_sources(loaded, problems, limit=limit)
    for source in sources:
        problems += check_rows(loaded, source, labels)
    names = _names(sources, labels)
    problems += check_weighting(loaded, names)
    problems += check_coverage(loaded, sources, scorecard_needs(loaded))
    problems += _training(loaded)
    problems += _output(loaded)
    for arm in arms(loaded, problems):
        problems += (problem for problem in check_weighting(arm, names) if problem.what not in _texts(problems))
    if problems:
        raise RecipeError(dict.fromkeys(problems))
    return _survey(loaded, sources, labels or ())


def check_plugins(loaded: Loaded) -> None:
    """Build every rule that the recipe and its arms name, so that a bad option is found before any work is done.

    Raises:
        RecipeError: A plug-in does not take its options.
    """
    problems: list[Problem] = []
    for one in (loaded, *arms(loaded, problems)):
        problems += check_constructible(one)
    if problems:
        raise RecipeError(dict.fromkeys(problems))


def arms(loaded: Loaded, problems: list[Problem]) -> list[Loaded]:
    """Return the recipe of each arm under ``compare``; what is wrong with one goes to ``problems``."""
    found = []
    for name, changes in (loaded.recipe.compare.arms if loaded.recipe.compare else {}).items():
        try:
            found.append(loaded.with_changes(changes, source=f"compare.arms.{name}"))
        except RecipeError as error:
            problems += error.problems
    return found


def _texts(problems: Sequence[Problem]) -> set[str]:
    return {problem.what for problem in problems}


def _labels(loaded: Loaded, problems: list[Problem]) -> tuple[str, ...] | None:
    try:
        return student_labels(loaded)
    except MashbillError as error:
        problems.append(loaded.problem("student.labels", error.what, error.help))
        return None


def _names(sources: Sequence[Source], labels: tuple[str, ...] | None) -> Names:
    train = next((source for source in sources if source.key == "data.train"), None)
    if train is None:
        return Names(labels=labels)
    is_known = labels is not None and bool(train.rows) and train.table.is_complete
    has_labels = any(row.label is not None for row in train.rows) if is_known else None
    return Names(train.names("task"), train.names("context"), labels, has_labels)


def _training(loaded: Loaded) -> Iterator[Problem]:
    train, has_eval = loaded.recipe.train, bool(loaded.recipe.data.eval)
    if train.eval_steps is not None and not has_eval:
        yield loaded.problem("train.eval_steps", "there is nothing to evaluate on", "add a file under data.eval")
    if train.early_stopping_patience is not None and (train.eval_steps is None or not has_eval):
        what = "stopping early needs evaluations on the way"
        yield loaded.problem("train.early_stopping_patience", what, "set train.eval_steps and data.eval")
    compare = loaded.recipe.compare
    if compare is not None and len(set(compare.seeds)) < len(compare.seeds):
        yield loaded.problem("compare.seeds", "a seed stands there twice, which would count one run as two")


def _output(loaded: Loaded) -> Iterator[Problem]:
    output = loaded.resolve(loaded.recipe.output)
    nearest = next((folder for folder in (output, *output.parents) if folder.exists()), Path("/"))
    if not nearest.is_dir():
        what = f"`{nearest}` is a file, so no run can be written there"
        yield loaded.problem("output", what, "name a folder; it is made if it does not exist")
    elif not os.access(nearest, os.W_OK):
        yield loaded.problem("output", f"the folder `{nearest}` cannot be written to", "name another folder")


def _survey(loaded: Loaded, sources: Sequence[Source], labels: Sequence[str]) -> Survey:
    recipe = loaded.recipe
    rows = {source.key: len(source.rows) for source in sources}
    train = next(source for source in sources if source.key == "data.train")
    batch = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps
    per_epoch = -(-rows["data.train"] // batch)
    n_steps = recipe.train.max_steps or per_epoch * recipe.train.num_train_epochs
    answer_bytes = _answer_bytes(loaded, sources, len(labels))
    student = recipe.student
    return Survey(
        student=f"{student.kind} from {student.model or student.architecture or 'a configuration'}",
        teachers=tuple(teacher.id for teacher in recipe.teachers),
        rows=rows,
        is_complete=all(source.table.is_complete for source in sources),
        tasks=tuple(dict.fromkeys(row.task for row in train.rows)),
        contexts=tuple(dict.fromkeys(row.context for row in train.rows)),
        n_labels=len(labels),
        n_steps=n_steps,
        answer_bytes=answer_bytes,
        warnings=tuple(_warnings(loaded, n_steps, answer_bytes)),
    )


def _warnings(loaded: Loaded, n_steps: int, answer_bytes: int) -> Iterator[str]:
    warmup = loaded.recipe.train.warmup_steps
    if warmup > n_steps:
        yield f"the learning rate never reaches its height: {warmup} warm-up steps, but about {n_steps} steps"
    safety = safety_needs(loaded)
    if safety and loaded.recipe.critical is None and loaded.recipe.data.critical_column is None:
        yield f"{safety[0]} reads measured safety, and no row is critical: it is accuracy over all rows; see `critical`"
    free = _free_bytes(loaded.resolve(loaded.recipe.output))
    if answer_bytes > free:
        yield f"teachers' answers may take {answer_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def _answer_bytes(loaded: Loaded, sources: Sequence[Source], n_labels: int) -> int:
    """Return about what every position of every row takes, three characters counted as one token."""
    rows = [row for source in sources for row in source.rows]
    n_positions = len(rows)
    if not n_labels:
        longest = None if loaded.recipe.data.format == "text" else loaded.recipe.data.max_length
        n_positions = sum(len(_content(row)[: 3 * longest if longest else None]) // 3 for row in rows)
    whole = n_labels or 50_000  # a usual vocabulary; its true size is known to the tokenizer only
    n_kept = sum(min(teacher.top_k or whole, whole) for teacher in loaded.recipe.teachers)
    return n_positions * n_kept * BYTES_PER_ENTRY


def _content(row: Row) -> str:
    messages = "".join(message["content"] for message in row.messages or ())
    return (row.text or "") + messages + (row.prompt or "") + (row.completion or "")


def _free_bytes(output: Path) -> int:
    nearest = next(folder for folder in (output, *output.parents) if folder.is_dir())
    return shutil.disk_usage(nearest).free
