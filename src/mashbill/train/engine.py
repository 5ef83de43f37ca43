"""The training loop: a lesson, a schedule of steps, checkpoints. One process.

Every choice is a function of the seed and the step, so a run that is killed and resumed ends with the same bits as one
that is not. Under ``torchrun`` with several processes it refuses to start rather than train several students.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mashbill.errors import MashbillError, NumericError
from mashbill.progress import Progress, Silent
from mashbill.shapes import Tensor
from mashbill.train import checkpoint, recipe
from mashbill.train.callbacks import NoReporter, Reporter
from mashbill.train.learners import load_state, show, state_of
from mashbill.train.optimiser import make_optimiser, optimiser_step
from mashbill.train.records import RecordFile, Window, diagnostics
from mashbill.train.sampler import Sampler, derived_seed
from mashbill.train.schedule import learning_rate
from mashbill.train.step import Lesson, Outcome, evaluate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A whole training, as values.

    Attributes:
        lesson: What a step needs.
        evaluations: What to measure on the way, by name of the set.
        sampler: Which rows a step sees.
        train: The recipe's arguments.
        max_steps: Optimiser steps of the whole run.
        directory: Of the run: ``records.jsonl`` and ``checkpoints/`` are in it.
        ledger: What the run is made of; goes into every checkpoint.
    """

    lesson: Lesson
    evaluations: Mapping[str, Lesson]
    sampler: Sampler
    train: recipe.Train
    max_steps: int
    directory: Path
    ledger: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.directory / "checkpoints"


@dataclass
class Position:
    """How far a training is; everything here goes into ``state.json``.

    Attributes:
        step: Optimiser steps taken.
        n_tokens: Positions trained on.
        seconds: Time spent in training, all starts together.
        n_bytes: Length of ``records.jsonl``.
        best_loss: Least mean evaluation loss; None before the first evaluation.
        best_step: Where it was.
        n_worse: Evaluations since then.
        stopped_early: Patience has run out.
    """

    step: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    n_bytes: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    n_worse: int = 0
    stopped_early: bool = False


def refuse_several_processes() -> None:
    """Raise under a launcher that starts more than one process.

    Raises:
        MashbillError: ``WORLD_SIZE`` is above 1.
    """
    world_size = os.environ.get("WORLD_SIZE", "1")
    if world_size != "1":
        raise MashbillError(
            f"WORLD_SIZE={world_size}, but training runs in one process",
            why="each process would train a student of its own and write to the same files",
            help="start `mashbill distill` without torchrun or accelerate",
        )


class Training:
    """A training that is under way: the job, and what changes from step to step."""

    def __init__(self, job: Job, *, reporter: Callable[[torch.optim.Optimizer], Reporter] | None = None) -> None:
        self.job, self.lesson, self.module = job, job.lesson, job.lesson.student.module
        self.optimiser = make_optimiser(self.module, job.train)
        self.position, self.window = Position(), Window.empty(job.lesson)
        self.open_reporter, self.saved_step = reporter, -1
        self.reporter: Reporter = NoReporter()

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Go back to where a checkpoint was taken."""
        checkpoint.restore_model(saved, self.module)
        load_state(self.lesson.operator, saved.model)
        checkpoint.restore_optimiser(saved, self.module, self.optimiser)
        self.position = Position(**saved.state["position"])
        patience = self.job.train.early_stopping_patience
        self.position.stopped_early = patience is not None and self.position.n_worse >= patience
        self.window.load(saved.state["window"])
        self.saved_step = saved.step

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.position.step >= self.job.max_steps or self.position.stopped_early

    def run(
        self,
        *,
        until: int | None = None,
        is_interrupted: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
    ) -> Position:
        """Train to the end, or until told to stop; what was reached is in a checkpoint when this returns.

        Args:
            until: Stop after this many steps of the run.
            is_interrupted: Asked after every step.
            progress: Shown the steps and the loss.

        Raises:
            NumericError: Something is not finite; the last checkpoint is as it was.
        """
        shown = progress or Silent()
        last = self.job.max_steps if until is None else min(until, self.job.max_steps)
        shown.start(last - self.position.step, "training")
        if self.open_reporter is not None:
            self.reporter = self.open_reporter(self.optimiser)
        self.records = RecordFile(self.job.directory / "records.jsonl", n_bytes=self.position.n_bytes)
        self.module.train()
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                while not self.is_done and self.position.step < last:
                    values = self._advance()
                    shown.advance(1, **values)
                    if is_interrupted():
                        self.save()
                        break
                else:
                    self._save_unless_saved()
        finally:
            self.records.close()
            self.reporter.end()
            shown.done()
        return self.position

    def keep_best(self) -> None:
        """With patience, put the parameters of the best evaluation back into the student."""
        best = self.position.best_step
        if self.job.train.early_stopping_patience is None or best is None or best == self.position.step:
            return
        found = checkpoint.read(self.job.checkpoints / f"step-{best:08d}")
        checkpoint.restore_model(found, self.module)
        load_state(self.lesson.operator, found.model)
        log.info("the student is that of step %d, which had the least evaluation loss", best)

    def save(self) -> None:
        """Write a checkpoint, then drop those that are no longer wanted."""
        self.position.n_bytes = self.records.sync()
        state = {"position": asdict(self.position), "window": self.window.dump(), "ledger": dict(self.job.ledger)}
        rules = state_of(self.lesson.operator)
        taken = checkpoint.capture(self.module, self.optimiser, step=self.position.step, state=state, rules=rules)
        checkpoint.write(self.job.checkpoints, taken)
        best = self.position.best_step if self.job.train.early_stopping_patience is not None else None
        checkpoint.prune(self.job.checkpoints, keep=self.job.train.save_total_limit, also=best)
        self.saved_step = self.position.step

    def _save_unless_saved(self) -> None:
        if self.saved_step != self.position.step:
            self.save()

    def _advance(self) -> dict[str, float]:
        job, train, position = self.job, self.job.train, self.position
        started = time.perf_counter()
        # Dropout too is a function of seed and step, so a resume needs no generator's state.
        seed = derived_seed(train.seed, "step", position.step)
        # Not torch.manual_seed: without a CUDA device that queues a call, with a stack trace, at every step.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        rate = learning_rate(
            position.step,
            peak=train.learning_rate,
            kind=train.lr_scheduler_type,
            warmup_steps=train.warmup_steps,
            max_steps=job.max_steps,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rows = job.sampler.batch(position.step)
        outcome, norm = optimiser_step(
            self.lesson,
            rows,
            self.optimiser,
            micro_batch=train.per_device_train_batch_size,
            max_norm=train.max_grad_norm,
            watch=lambda outcome, n_counted: self.window.add(self.lesson, outcome, n_counted=n_counted),
        )
        position.step += 1
        show(self.lesson, outcome, step=position.step)
        position.n_tokens += int(self.lesson.corpus.n_counted[rows].sum())
        position.seconds += time.perf_counter() - started
        logged = self._log(outcome, norm, rate) if self._is_due(train.logging_steps) else {}
        is_best = self._evaluate() if self._is_due(train.eval_steps) else False
        if self._is_due(train.save_steps) or (is_best and train.early_stopping_patience is not None):
            self.save()
        return logged

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.position.step % every == 0

    def _log(self, outcome: Outcome, norm: Tensor, rate: float) -> dict[str, float]:
        position = self.position
        means = self.window.means(has_labels=self.lesson.distill.cross_entropy > 0)
        record = {
            "step": position.step,
            "epoch": round(position.step / self.job.sampler.steps_per_epoch, 6),
            "n_tokens": position.n_tokens,
            **means,
            "learning_rate": rate,
            "grad_norm": float(norm),
            "seconds": round(position.seconds, 3),
            **diagnostics(self.lesson, outcome),
            "weights": self.window.weights(self.lesson),
        }
        self.records.write(record)
        self.window.clear()
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"}
        self.reporter.log(position.step, numbers)
        return {"loss": float(record["loss"])}

    def _evaluate(self) -> bool:
        """Measure every evaluation set; return whether the mean loss is the least so far."""
        position, started = self.position, time.perf_counter()
        measured = {
            name: evaluate(lesson, batch_size=self.job.train.per_device_eval_batch_size)
            for name, lesson in self.job.evaluations.items()
        }
        for name, values in measured.items():
            if not math.isfinite(values["loss"]):
                raise NumericError(f"the loss on evaluation set `{name}` is not finite", where=f"step {position.step}")
            self.records.write({"step": position.step, "evaluation": {"set": name, **values}})
            self.reporter.log(position.step, {f"eval_{name}_{key}": value for key, value in values.items()})
        position.seconds += time.perf_counter() - started
        if not measured:
            return False
        loss = sum(values["loss"] for values in measured.values()) / len(measured)
        is_best = position.best_loss is None or loss < position.best_loss
        if is_best:
            position.best_loss, position.best_step, position.n_worse = loss, position.step, 0
        else:
            position.n_worse += 1
        patience = self.job.train.early_stopping_patience
        if patience is not None and position.n_worse >= patience:
            position.stopped_early = True
            log.info("no better evaluation in %d attempts: stopped at step %d", patience, position.step)
        return is_best
