"""The final evaluation: student, every teacher and the pooled target on the same rows, with intervals.

Writes ``result.json`` (every number with its interval), ``examples.json`` (a few rows, position by position) and
``outcomes.safetensors`` (the student's totals by row, so that runs can be compared row by row).

The pooled target is judged under the run's own weights at temperature 1, because that is what the student is asked to
become: a student below it has not learnt all it was shown, a teacher above it was not trusted enough.

Not covered: text that the student generates.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mashbill import durable
from mashbill.train import examples, metrics
from mashbill.train.answers import Panel
from mashbill.train.corpus import Corpus
from mashbill.train.gather import Knowledge
from mashbill.train.judging import Judged, judge
from mashbill.train.metrics import Marks, RowTotals
from mashbill.train.protocol import Student
from mashbill.train.recipe import Recipe
from mashbill.train.targets import Targets
from mashbill.weights.evidence import WeightOperator
from mashbill.weights.scorecard import Scorecard

DEFAULT_CONFIDENCE = 0.95


def evaluate_run(
    *,
    student: Student,
    corpora: Mapping[str, Corpus],
    targets: Mapping[str, Sequence[Targets]],
    operator: WeightOperator,
    scorecard: Scorecard | None,
    recipe: Recipe,
    directory: Path,
) -> dict[str, Any]:
    """Evaluate on every set and write the three files.

    Args:
        student: The trained student.
        corpora: The rows of each evaluation set, by the names in ``data.eval``.
        targets: Each teacher's answers to each set, in the order of ``recipe.teachers``.
        operator: The run's weights.
        scorecard: What the weights read, if anything.
        recipe: The run's recipe.
        directory: Where to write.

    Returns:
        The content of ``result.json``.
    """
    confidence = recipe.critical.confidence if recipe.critical else DEFAULT_CONFIDENCE
    panels = {
        name: Panel(student, corpus, targets[name], operator, _knowledge(scorecard, corpus), recipe.distill.pool)
        for name, corpus in corpora.items()
    }
    teachers = [teacher.id for teacher in recipe.teachers]
    batch_size = recipe.train.per_device_eval_batch_size
    judged = {
        name: judge(panel, teachers, is_critical_declared=declares_critical(recipe), batch_size=batch_size)
        for name, panel in panels.items()
    }
    is_causal = student.kind == "causal_lm"
    result = {
        "kind": student.kind,
        "primary": "perplexity" if is_causal else "accuracy",
        "confidence": confidence,
        "entries": [
            entry
            for name, each in judged.items()
            for entry in _entries(name, each, confidence=confidence, has_perplexity=is_causal)
        ],
        "paired": [line for name, each in judged.items() for line in _paired(name, each, confidence=confidence)],
    }
    chosen = examples.collect(panels, judged, teachers, n_classifier=24, n_sequences=6)
    durable.write_json(directory / "examples.json", chosen)
    _write_outcomes(directory / "outcomes.safetensors", judged)
    durable.write_json(directory / "result.json", result)
    return result


def declares_critical(recipe: Recipe) -> bool:
    """Say whether the recipe marks any rows as critical, by label or by column."""
    return bool(recipe.data.critical_column) or bool(recipe.critical and recipe.critical.labels)


def _knowledge(scorecard: Scorecard | None, corpus: Corpus) -> Knowledge:
    return Knowledge() if scorecard is None else Knowledge.of(scorecard, corpus)


def _entries(name: str, judged: Judged, *, confidence: float, has_perplexity: bool) -> Iterator[dict[str, Any]]:
    for (by, group), is_wanted in judged.groups.items():
        for who, marks in judged.marks.items():
            summary = metrics.summarise(
                marks.of_rows(is_wanted),
                confidence=confidence,
                is_critical=judged.is_critical,
                has_perplexity=has_perplexity,
            )
            if summary is None:
                continue
            entry = {"set": name, "who": who, "by": by, "name": group, **summary.to_json()}
            if by != "all":
                entry["reliability"] = []
            yield entry


def _paired(name: str, judged: Judged, *, confidence: float) -> Iterator[dict[str, Any]]:
    """Yield the student against every other candidate on the same rows: a sharper question than two intervals."""
    student = judged.marks.get("student")
    if student is None or student.row.size == 0:
        return
    for who, marks in judged.marks.items():
        if who != "student":
            accuracy, loss = metrics.paired(student, marks, confidence=confidence)
            yield {
                "set": name,
                "first": "student",
                "second": who,
                "accuracy": vars(accuracy).copy(),
                "loss": vars(loss).copy(),
            }


def _write_outcomes(path: Path, judged: Mapping[str, Judged]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    tasks: dict[str, list[str]] = {}
    for name, each in judged.items():
        totals = RowTotals.of(each.marks.get("student", Marks.join([])))
        named = {group: rows for (by, group), rows in each.groups.items() if by == "task"}
        tasks[name] = list(named)
        task = np.full(each.n_rows, -1)
        for place, rows in enumerate(named.values()):
            task[rows] = place
        columns = {"row": totals.row, "n": totals.n, "nll": totals.nll, "n_correct": totals.n_correct}
        columns["task"] = task[totals.row]
        tensors |= {f"{name}/{column}": torch.from_numpy(values) for column, values in columns.items()}
    durable.write_tensors(path, tensors, metadata={"tasks": json.dumps(tasks)})
