"""Read a run directory: every file checked, a missing optional one is None, a damaged one is an error.

Not covered: the checkpoints, the student's weights and the stored teacher answers; the report does not open them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from mashbill.errors import CorruptionError, DataError
from mashbill.report.schema import Comparison, Example, Record, Result, Run, Scorecard

Model = TypeVar("Model", bound=BaseModel)

_WITHOUT = "restore the file, or remove it to write the report without it"
_AGAIN = "restore the file, or resume the run to write it again"


@dataclass(frozen=True)
class RunFiles:
    """All that a report shows, in memory.

    Attributes:
        name: The directory's name.
        run: ``run.json``.
        steps: Training records in order of step; where a resume repeated a step, the later record.
        evaluations: Evaluation records in order of step.
        resumes: Steps at which training was taken up again, as far as the records show it.
        torn: The last line of the records was cut short.
        recipe: The recipe, verbatim, or None.
    """

    name: str
    run: Run
    steps: tuple[Record, ...]
    evaluations: tuple[Record, ...]
    resumes: tuple[int, ...]
    torn: bool
    recipe: str | None
    result: Result | None
    examples: tuple[Example, ...]
    comparison: Comparison | None
    scorecard: Scorecard | None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Ids of the teachers, in the order of the recipe; none if the run ended before it wrote who they are."""
        return tuple(teacher.id for teacher in self.run.teachers)


def read_run(directory: Path) -> RunFiles:
    """Read and check the files of a run directory.

    Raises:
        DataError: There is no ``run.json``: this is not a run directory.
        CorruptionError: A file cannot be read, or names a teacher that ``run.json`` does not list.
    """
    if not (directory / "run.json").is_file():
        raise DataError(
            f"run_dir={str(directory)!r} has no run.json",
            where=str(directory),
            help="give the directory that the recipe names under `output`, after `mashbill distill`",
        )
    run = _model(directory / "run.json", Run, _AGAIN)
    steps, evaluations, resumes, torn = _records(directory / "records.jsonl")
    examples = _examples(directory / "examples.json")
    result = _optional(directory / "result.json", Result)
    comparison = _optional(directory / "comparison.json", Comparison)
    scorecard = _optional(directory / "scorecard.json", Scorecard)
    known = {teacher.id for teacher in run.teachers}
    _require_known(directory / "records.jsonl", known, _record_teachers(steps))
    _require_known(directory / "examples.json", known, _example_teachers(examples))
    _require_known(directory / "result.json", known, _result_teachers(result))
    _require_known(directory / "scorecard.json", known, scorecard.teachers if scorecard else ())
    return RunFiles(
        name=directory.resolve().name,
        run=run,
        steps=steps,
        evaluations=evaluations,
        resumes=resumes,
        torn=torn,
        recipe=_recipe(directory / "recipe.yaml"),
        result=result,
        examples=examples,
        comparison=comparison,
        scorecard=scorecard,
    )


def _optional(path: Path, model: type[Model]) -> Model | None:
    return _model(path, model, _WITHOUT) if path.is_file() else None


def _model(path: Path, model: type[Model], way_out: str) -> Model:
    return _checked(path, lambda: model.model_validate(_json(path.read_bytes())), way_out)


def _examples(path: Path) -> tuple[Example, ...]:
    if not path.is_file():
        return ()
    adapter = TypeAdapter(tuple[Example, ...])
    return _checked(path, lambda: adapter.validate_python(_json(path.read_bytes())), _WITHOUT)


def _recipe(path: Path) -> str | None:
    return _checked(path, lambda: path.read_bytes().decode(), _WITHOUT) if path.is_file() else None


def _json(data: bytes) -> Any:
    return json.loads(data.decode())


def _checked(path: Path, read: Any, way_out: str, line: int | None = None) -> Any:
    """Call ``read``; turn whatever a damaged file can raise into one error that names the file."""
    try:
        return read()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        why = f"{place}: {first['msg']}"
    except (ValueError, RecursionError, OSError) as error:  # bad JSON, bad UTF-8, nesting, disk
        why = str(error) or type(error).__name__
    where = f"{path}:{line}" if line else str(path)
    raise CorruptionError(f"{path.name} cannot be read", where=where, why=why, help=way_out) from None


def _records(path: Path) -> tuple[tuple[Record, ...], tuple[Record, ...], tuple[int, ...], bool]:
    """Return training records, evaluation records, steps of resumes, and whether the last line is cut short."""
    if not path.is_file():
        return (), (), (), False
    lines = path.read_bytes().split(b"\n")
    # A process killed while it wrote leaves a last line without an end; that is no damage.
    torn = bool(lines[-1].strip()) and not _is_json(lines[-1])
    steps: dict[int, Record] = {}
    evaluations: dict[tuple[int, str], Record] = {}
    resumes: list[int] = []
    previous = -1
    for number, line in enumerate(lines[:-1] if torn else lines, start=1):
        if not line.strip():
            continue
        record: Record = _checked(path, lambda line=line: Record.model_validate(_json(line)), _WITHOUT, number)
        if record.evaluation is not None:
            evaluations[record.step, record.evaluation.set] = record
            continue
        if record.resumed or record.step <= previous:
            resumes.append(record.step)
            # What was logged beyond the checkpoint that training went back to did not lead to this student.
            steps = {step: kept for step, kept in steps.items() if step < record.step}
            evaluations = {key: kept for key, kept in evaluations.items() if key[0] < record.step}
        previous = record.step
        steps[record.step] = record
    order = sorted(steps)
    later = [evaluations[key] for key in sorted(evaluations)]
    return tuple(steps[step] for step in order), tuple(later), tuple(dict.fromkeys(resumes)), torn


def _is_json(line: bytes) -> bool:
    try:
        _json(line)
    except ValueError:
        return False
    return True


def _record_teachers(steps: Iterable[Record]) -> Iterable[str]:
    for record in steps:
        yield from record.kl_to_teacher
        for weights in (
            record.weights.all,
            *record.weights.task.values(),
            *record.weights.context.values(),
        ):
            yield from weights


def _example_teachers(examples: Iterable[Example]) -> Iterable[str]:
    for example in examples:
        yield from example.dominant
        for weights in example.weights:
            yield from weights
        for answers in example.teachers:
            yield from answers


def _result_teachers(result: Result | None) -> Iterable[str]:
    for entry in result.entries if result else ():
        if entry.who.startswith("teacher:"):
            yield entry.who.removeprefix("teacher:")


def _require_known(path: Path, known: set[str], named: Iterable[str]) -> None:
    """Raise if a file names a teacher that ``run.json`` does not list: the files are of different runs."""
    for name in named:
        if name not in known:
            raise CorruptionError(
                f"{path.name} names teacher {name!r}, which run.json does not list",
                where=str(path),
                why="the files of this directory are not of one run",
                help=_WITHOUT,
            )
