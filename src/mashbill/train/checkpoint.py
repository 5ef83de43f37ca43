"""Checkpoints that are whole, checked, or not there: safetensors, JSON, and a manifest of hashes. No pickle.

A checkpoint is a directory ``step-00000100`` that was written under a hidden name, synced, and renamed. Its
``manifest.json`` has the size and the sha256 of every other file. The newest one whose hashes hold is the one that
counts.

Not covered: models split over several processes.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mashbill.durable import publish, sha256_of
from mashbill.errors import CorruptionError
from mashbill.shapes import Tensor

log = logging.getLogger(__name__)

RULES = "weighting/"
"""Begins the name of every tensor that a rule has learnt; no module's tensor has a slash in its name."""

MODEL, OPTIMISER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A moment of training.

    Attributes:
        step: Optimiser steps taken.
        model: What training changes: trainable parameters, the buffers that belong to the model's state, and under
            ``weighting/`` what rules have learnt.
        optimiser: Its state by parameter, ``exp_avg/<name>``.
        state: Everything else, as JSON.
    """

    step: int
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    state: Mapping[str, Any]


def capture(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    step: int,
    state: Mapping[str, Any],
    rules: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Take the present state of a model, its optimiser and the rules that learn; the tensors are not copied."""
    kept = {
        f"{key}/{name}": value
        for name, parameter in _trained(module).items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
    return Checkpoint(step, {**_trained(module), **_buffers(module), **(rules or {})}, kept, state)


def restore_model(checkpoint: Checkpoint, module: nn.Module) -> None:
    """Put a checkpoint's parameters and buffers into a model.

    Raises:
        CorruptionError: Names or shapes are not the model's.
    """
    own = {**_trained(module), **_buffers(module)}
    _require_same(own, {name: value for name, value in checkpoint.model.items() if not name.startswith(RULES)})
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(checkpoint.model[name])


def restore_optimiser(checkpoint: Checkpoint, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put a checkpoint's optimiser state back."""
    parameters = _trained(module)
    for name, value in checkpoint.optimiser.items():
        key, _, parameter = name.partition("/")
        # AdamW counts its steps on the CPU unless it was told otherwise, and load_file gives CPU tensors.
        device = "cpu" if key == "step" and not optimiser.defaults.get("fused") else parameters[parameter].device
        optimiser.state[parameters[parameter]][key] = value.to(device)


def write(directory: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, whole or not at all, and return where it is."""
    place = directory / f"step-{checkpoint.step:08d}"
    aside = directory / f".writing-{place.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _save(aside / MODEL, checkpoint.model)
    _save(aside / OPTIMISER, checkpoint.optimiser)
    _dump(aside / STATE, {"step": checkpoint.step, **checkpoint.state})
    files = {file.name: {"size": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(aside.iterdir())}
    _dump(aside / MANIFEST, {"files": files})
    publish(aside, place)
    return place


def read(place: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CorruptionError: A file is missing or its bytes are not those that were written; names the file.
    """
    try:
        recorded = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name in (MODEL, OPTIMISER, STATE):
            _require_intact(place / name, recorded[name])
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
        return Checkpoint(state.pop("step"), load_file(place / MODEL), load_file(place / OPTIMISER), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CorruptionError(
            f"a checkpoint is incomplete: {error}", where=str(place / MANIFEST), help="delete that checkpoint"
        ) from error


def newest_valid(directory: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose files are intact, or None; damaged ones are passed over with a warning."""
    for place in reversed(list_checkpoints(directory)):
        try:
            return read(place)
        except CorruptionError as error:
            log.warning("checkpoint %s is damaged and passed over: %s (%s)", place.name, error.what, error.where)
    return None


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first, whether intact or not."""
    return sorted(directory.glob("step-*"))


def prune(directory: Path, *, keep: int, also: int | None) -> None:
    """Delete all but the newest ``keep`` checkpoints and that of step ``also``, and what interrupted writes left."""
    for place in list_checkpoints(directory)[:-keep]:
        if also is None or place.name != f"step-{also:08d}":
            shutil.rmtree(place)
    for leftover in (*directory.glob(".writing-*"), *directory.glob(".old-*")):
        shutil.rmtree(leftover, ignore_errors=True)


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    lasting = module.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in lasting}


def _require_same(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    different = sorted(
        name
        for name in own.keys() | saved.keys()
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    )
    if different:
        raise CorruptionError(
            f"the checkpoint does not fit the student: {len(different)} tensors differ, first `{different[0]}`",
            help="the student's options have changed; start again in another `output`",
        )


def _require_intact(file: Path, recorded: Mapping[str, Any]) -> None:
    if file.stat().st_size != recorded["size"] or sha256_of(file) != recorded["sha256"]:
        raise CorruptionError(
            "a checkpoint's file is not what was written", where=str(file), help="delete that checkpoint"
        )


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(path))


def _dump(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
