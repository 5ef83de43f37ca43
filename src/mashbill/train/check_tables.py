"""Whether tables in a rule's options, ``{teacher: w}`` or ``{task: {teacher: w}}``, name what exists, and all of it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mashbill.errors import Problem, did_you_mean
from mashbill.train.loading import Loaded
from mashbill.train.recipe import Rule

TABLES = {
    "static": "weights",
    "partition_of_unity": "weights",
    "ranked_safety": "safety",
    "bounded_mgda": "safety",
    "bayes": "prior",
    "fixed_share": "prior",
    "hybrid": "scores",
    "data_volume": "volumes",
    "min_variance": "covariance",
    "nemo_rl": "vocabulary_sizes",
    "shift_distance": "domains",
}
"""The option of each of our rules that speaks of teachers by name."""


@dataclass(frozen=True)
class Names:
    """What a recipe's rows and labels name; None where they are not known in full.

    Attributes:
        tasks: Tasks of the training rows.
        contexts: Deployment contexts of the training rows.
        labels: The student's labels.
        has_labels: Whether any training row has a label.
    """

    tasks: tuple[str, ...] | None = None
    contexts: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    has_labels: bool | None = None


def check_tables(loaded: Loaded, key: str, rule: Rule, names: Names) -> Iterator[Problem]:
    """Find teachers, tasks and contexts in a rule's table that do not exist, and teachers that it leaves out."""
    option = TABLES.get(rule.rule, "")
    table = rule.options.get(option)
    if not isinstance(table, Mapping):
        return
    by = _by(rule, table)
    if by == "all":
        yield from _teachers(loaded, f"{key}.{option}", table, is_numeric=option != "domains")
        return
    known = names.tasks if by == "task" else names.contexts
    for name, inner in table.items():
        if known is not None and name not in known:
            what = f"no row of data.train has the {by} `{name}`{did_you_mean(name, known)}"
            yield loaded.problem(f"{key}.{option}.{name}", what, f"they have: {', '.join(known[:12])}")
        if isinstance(inner, Mapping):
            yield from _teachers(loaded, f"{key}.{option}.{name}", inner)
        else:
            yield loaded.problem(f"{key}.{option}.{name}", f"must map teachers to numbers, because `by` is {by}")


def no_teacher(name: str, teachers: list[str]) -> str:
    """Say that a teacher does not exist, and which ones do."""
    return f"there is no teacher `{name}`{did_you_mean(name, teachers)}; teachers: {', '.join(teachers)}"


def _by(rule: Rule, table: Mapping[str, Any]) -> str:
    if rule.rule == "partition_of_unity":
        return "context"
    if rule.rule == "data_volume" and all(isinstance(inner, Mapping) for inner in table.values()):
        return "task"
    by = rule.options.get("by", "all") if rule.rule == "static" else "all"
    return by if by in ("task", "context") else "all"


def _teachers(loaded: Loaded, key: str, table: Mapping[str, Any], *, is_numeric: bool = True) -> Iterator[Problem]:
    teachers = [teacher.id for teacher in loaded.recipe.teachers]
    for name, value in table.items():
        if name not in teachers:
            yield loaded.problem(f"{key}.{name}", no_teacher(name, teachers))
        elif is_numeric and (isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)):
            yield loaded.problem(f"{key}.{name}", f"must be a finite number, not `{value}`")
    missing = [name for name in teachers if name not in table]
    if missing and set(table) <= set(teachers):
        what = f"says nothing about teacher `{missing[0]}`"
        yield loaded.problem(key, what, "give every teacher a value" if table else "leave the option out, or name all")
