"""Reporting to the trackers that ``transformers`` knows, through its own callbacks and without its trainer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from mashbill.errors import MashbillError, did_you_mean
from mashbill.train import recipe
from mashbill.train.protocol import Student


@runtime_checkable
class Reporter(Protocol):
    """Receives what a run logs."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Report numbers of one step."""
        ...

    def end(self) -> None:
        """Say that training is over."""
        ...


class NoReporter:
    """Reports nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore."""

    def end(self) -> None:
        """Ignore."""


def open_reporter(
    report_to: Sequence[str],
    *,
    train: recipe.Train,
    max_steps: int,
    directory: Path,
    student: Student,
    optimiser: torch.optim.Optimizer,
) -> Reporter:
    """Return what reports to ``report_to``; ``transformers`` is imported only if that names anything.

    Raises:
        MashbillError: A tracker is unknown or not installed.
    """
    if not report_to:
        return NoReporter()
    return TransformersReporter(
        report_to, train=train, max_steps=max_steps, directory=directory, student=student, optimiser=optimiser
    )


def require_trackers(report_to: Sequence[str]) -> None:
    """Check that every tracker is there, before any work is done.

    Raises:
        MashbillError: A tracker is unknown or not installed.
    """
    if report_to:
        _callbacks(report_to)


class TransformersReporter:
    """Drives the callbacks of ``transformers`` from a loop that is not its own."""

    def __init__(
        self,
        report_to: Sequence[str],
        *,
        train: recipe.Train,
        max_steps: int,
        directory: Path,
        student: Student,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        from transformers import TrainingArguments
        from transformers.trainer_callback import (
            CallbackHandler,
            DefaultFlowCallback,
            TrainerControl,
            TrainerState,
        )

        callbacks = _callbacks(report_to)
        shared = {name: value for name, value in train.model_dump().items() if name in _SHARED}
        self.arguments = TrainingArguments(
            output_dir=str(directory), report_to=[], use_cpu=True, max_steps=max_steps, **shared
        )
        self.state, self.control = TrainerState(max_steps=max_steps), TrainerControl()
        self.handler = CallbackHandler([DefaultFlowCallback, *callbacks], student.module, None, optimiser, None)
        self.handler.on_train_begin(self.arguments, self.state, self.control)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Report numbers of one step."""
        self.state.global_step = step
        logs = dict(values)
        self.state.log_history.append({**logs, "step": step})
        self.handler.on_log(self.arguments, self.state, self.control, logs)

    def end(self) -> None:
        """Say that training is over; trackers close their files."""
        self.handler.on_train_end(self.arguments, self.state, self.control)


_SHARED = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "lr_scheduler_type",
    "warmup_steps",
    "seed",
    "logging_steps",
)


def _callbacks(report_to: Sequence[str]) -> list[Any]:
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_reporting_integration_callbacks,
    )

    available = get_available_reporting_integrations()
    for name in report_to:
        if name not in available:
            known = name in INTEGRATION_TO_CALLBACK
            raise MashbillError(
                f"tracker `{name}` is not installed"
                if known
                else f"no tracker `{name}`{did_you_mean(name, INTEGRATION_TO_CALLBACK)}",
                where="report_to",
                why=f"installed: {', '.join(available) or 'none'}",
                help="install its package, or remove it from `report_to`",
            )
    return get_reporting_integration_callbacks(list(report_to))
