"""One distillation from recipe to result: build, ask the teachers, train, evaluate; resumable at every moment.

What is in the run's directory decides what is left to do. Answers of teachers, checkpoints and the student are each
written whole or not at all, so a run that was killed anywhere goes on when the same command is given again.
"""

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mashbill.durable import publish
from mashbill.errors import MashbillError
from mashbill.progress import Progress
from mashbill.train import checkpoint
from mashbill.train.assemble import TRAIN, Parts, build_parts, data_hashes, prepare_training
from mashbill.train.build import needs_scorecard
from mashbill.train.callbacks import require_trackers
from mashbill.train.engine import refuse_several_processes
from mashbill.train.evaluate import evaluate_run
from mashbill.train.heard import hear
from mashbill.train.interruption import Interruption
from mashbill.train.ledger import require_same
from mashbill.train.lineage import RunRecord, logging_to, read_run, recipe_sha256, write_manifest
from mashbill.train.loading import Loaded
from mashbill.train.measure import measure_scorecard, require_measured
from mashbill.train.protocol import Student
from mashbill.train.rehearsal import rehearse
from mashbill.train.students import origin
from mashbill.train.targets import Targets, collect
from mashbill.weights.scorecard import Scorecard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        directory: Of the run.
        status: ``finished``; ``stopped`` at the step asked for; ``finished before``: nothing was left to do.
        step: Optimiser steps taken.
        result: The content of ``result.json``; None if training has not ended.
    """

    directory: Path
    status: Literal["finished", "finished before", "stopped"]
    step: int
    result: Mapping[str, Any] | None


def distill(
    loaded: Loaded,
    *,
    resume: Literal["auto", "never"] = "auto",
    accept_change: Sequence[str] = (),
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run a recipe, or go on with it where it was left.

    Args:
        loaded: The recipe.
        resume: ``never`` refuses a directory that already holds a run.
        accept_change: Keys of the recipe that may differ from those the run began with.
        stop_after: Stop with a checkpoint after this many steps of the run.
        progress: Shown the pace of the work.

    Raises:
        KeyboardInterrupt: Somebody asked to stop; a checkpoint has been written if training had begun.
        MashbillError: Anything that a user can put right.
    """
    refuse_several_processes()
    require_trackers(loaded.recipe.report_to)
    directory = loaded.resolve(loaded.recipe.output)
    before = read_run(directory)
    if resume == "never" and before:
        raise MashbillError(
            f"`{loaded.recipe.output}` already holds a run ({before['status']})",
            where=loaded.where("output"),
            why="nothing is overwritten",
            help="choose another `output`, delete that directory, or leave --resume never out to go on with it",
        )
    data = data_hashes(loaded)
    if (
        before.get("status") == "finished"
        and not accept_change
        and stop_after is None
        and _is_same(before, loaded, data)
    ):
        log.info("this run has finished before; nothing is left to do")
        return _finished(directory, before)
    parts = build_parts(loaded, data)
    if not (directory / "teachers").exists():
        rehearse(parts)
    directory.mkdir(parents=True, exist_ok=True)
    with logging_to(directory / "run.log"), Interruption().installed() as interruption:
        return _run(
            loaded,
            directory,
            parts,
            accept_change=accept_change,
            stop_after=stop_after,
            interruption=interruption,
            progress=progress,
        )


def _run(
    loaded: Loaded,
    directory: Path,
    parts: Parts,
    *,
    accept_change: Sequence[str],
    stop_after: int | None,
    interruption: Interruption,
    progress: Progress | None,
) -> RunResult:
    saved = checkpoint.newest_valid(directory / "checkpoints")
    if saved is not None:
        for change in require_same(saved.state["ledger"], parts.ledger, accepted=accept_change, where=str(directory)):
            log.info("accepted change: %s", change)
    before = read_run(directory)
    if before.get("status") == "finished" and saved is not None and saved.state["ledger"] == parts.ledger:
        return _finished(directory, before)
    record = RunRecord(directory, loaded)
    log.info("mashbill %s, torch %s, seed %d", *(record.values[name] for name in ("mashbill", "torch", "seed")))
    try:
        result = _carry_out(
            loaded, parts, saved, record, stop_after=stop_after, interruption=interruption, progress=progress
        )
    except KeyboardInterrupt:
        record.end("interrupted")
        raise
    except Exception as error:  # also what nobody foresaw: a run that has ended must not look as if it went on
        log.error("%s", error)  # noqa: TRY400  # for the user: the traceback is for --debug
        record.end("stopped")
        raise
    record.end("stopped" if result.status == "stopped" else "finished")
    return result


def _carry_out(
    loaded: Loaded,
    parts: Parts,
    saved: checkpoint.Checkpoint | None,
    record: RunRecord,
    *,
    stop_after: int | None,
    interruption: Interruption,
    progress: Progress | None,
) -> RunResult:
    directory = record.path.parent
    _describe(loaded, parts, record)
    scorecard = _scorecard(loaded, parts, directory, progress)
    started = time.perf_counter()
    targets: dict[str, list[Targets]] = {name: [] for name in parts.corpora}
    for teacher in parts.teachers:  # one after the other: a local model takes memory
        for name, corpus in parts.corpora.items():
            targets[name].append(collect(teacher, corpus, directory / "teachers", progress))
        getattr(teacher, "release", lambda: None)()
    record.update(heard=_heard(loaded, parts, targets[TRAIN]))
    record.update(teacher_seconds=round(record.values["teacher_seconds"] + time.perf_counter() - started, 3))
    training = prepare_training(loaded, parts, targets, scorecard, directory)
    if saved is not None:
        training.resume(saved)
        log.info("going on from step %d", saved.step)
    with interruption.deferred():
        position = training.run(until=stop_after, is_interrupted=lambda: interruption.is_requested, progress=progress)
    seconds = {
        "train_seconds": round(position.seconds, 3),
        "step_seconds": round(position.seconds / max(1, position.step), 6),
    }
    record.update(steps=position.step, n_tokens=position.n_tokens, **seconds)
    if not training.is_done:
        if interruption.is_requested:
            raise KeyboardInterrupt(f"stopped at step {position.step}; give the same command to go on")
        return RunResult(directory, "stopped", position.step, None)
    training.keep_best()
    _save_student(parts.student, directory / "student")
    result = evaluate_run(
        student=parts.student,
        corpora={name: corpus for name, corpus in parts.corpora.items() if name != TRAIN},
        targets={name: each for name, each in targets.items() if name != TRAIN},
        operator=parts.operator,
        scorecard=scorecard,
        recipe=loaded.recipe,
        directory=directory,
    )
    return RunResult(directory, "finished", position.step, result)


def _heard(loaded: Loaded, parts: Parts, targets: Sequence[Targets]) -> dict[str, dict[str, Any]]:
    """Return how much of each teacher the training rows hear; too little of one ends the run."""
    temperature = loaded.recipe.distill.divergence.temperature
    each = zip(loaded.recipe.teachers, parts.teachers, targets, strict=True)
    return {
        teacher.id: hear(spec, teacher, own, parts.corpora[TRAIN], temperature=temperature).facts
        for spec, teacher, own in each
    }


def _scorecard(loaded: Loaded, parts: Parts, directory: Path, progress: Progress | None) -> Scorecard | None:
    if not needs_scorecard(parts.operator, loaded.recipe.weighting):
        return None
    path = directory / "scorecard.json"
    if loaded.recipe.data.scorecard is not None:
        # Measured again at each start: the answers are kept, so it costs little, and it is never stale.
        measure_scorecard(loaded, progress=progress).write(path)
    scorecard = Scorecard.read(path)
    corpus = parts.corpora[TRAIN]
    tasks, contexts = {row.task for row in corpus.rows}, {row.context for row in corpus.rows}
    require_measured(scorecard, tasks=tasks, contexts=contexts, needs=getattr(parts.operator, "needs", frozenset()))
    return scorecard


def _describe(loaded: Loaded, parts: Parts, record: RunRecord) -> None:
    given, corpus = loaded.recipe, parts.corpora[TRAIN]
    teachers = [{"id": teacher.id, **teacher.identity()} for teacher in parts.teachers]
    write_manifest(record.path.parent, teachers)
    keys = {name: "data.train" if name == TRAIN else f"data.eval.{name}" for name in parts.corpora}
    record.update(
        device="cuda" if torch.cuda.is_available() else "cpu",
        data_sha256=dict(parts.data),
        data={
            "train" if name == TRAIN else name: {"rows": len(each), "sha256": parts.data[keys[name]]}
            for name, each in parts.corpora.items()
        },
        teachers=teachers,
        refused={
            teacher: {"train" if name == TRAIN else name: n for name, n in each.items()}
            for teacher, each in parts.refused.items()
        },
        student={
            **origin(given.student, loaded.path.parent),
            "n_parameters": sum(parameter.numel() for parameter in parts.student.module.parameters()),
        },
        tasks=list(corpus.tasks),
        contexts=list(corpus.contexts),
    )


def _is_same(before: Mapping[str, Any], loaded: Loaded, data: Mapping[str, str]) -> bool:
    return before.get("recipe_sha256") == recipe_sha256(loaded) and before.get("data_sha256") == dict(data)


def _finished(directory: Path, before: Mapping[str, Any]) -> RunResult:
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return RunResult(directory, "finished before", before["steps"], result)


def _save_student(student: Student, place: Path) -> None:
    aside = place.with_name(f".writing-{place.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    student.save(aside)
    publish(aside, place)
