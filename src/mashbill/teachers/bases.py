"""Open models, each in memory once however many teachers speak through it, and who has to go when room is short.

A teacher that is done says so. A model goes when all its teachers are done. Until then, whenever another model is
needed, its own policy decides what becomes of it:

========== ==============================================================================================
``auto``    stays while there is room; else waits in the CPU's memory if there is room, else is closed
``cpu``     waits in the CPU's memory
``drop``    is closed, and opened again at its next question: one model in memory at any time
``never``   stays
========== ==============================================================================================

Enough room is one and a half times the weights of what is to be opened. Where nobody can tell how much there is, there
is none.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from mashbill.errors import MashbillError
from mashbill.teachers.adapter_folder import AdapterFolder
from mashbill.teachers.adapters import Adapters
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.opening import DType, open_model
from mashbill.teachers.placing import Place

OffLoad = Literal["auto", "cpu", "drop", "never"]
ROOM = 1.5
"""Weights, and half as much again for what is computed with them."""


@dataclass(frozen=True)
class Base:
    """What teachers must have in common to share a model.

    Attributes:
        auto_class: Of ``transformers``; a language model and a classifier from one folder are two models.
        folder: Where it lies.
        dtype: Of weights and activations.
        place: Where it runs.
    """

    auto_class: str
    folder: ModelFolder
    dtype: DType
    place: Place

    @property
    def n_bytes(self) -> int:
        """Size of the weights in memory."""
        return self.folder.n_parameters * getattr(torch, self.dtype).itemsize


@dataclass
class _Shared:
    """A base, whether it is open, and whose."""

    base: Base
    off_load: OffLoad
    adapters: Adapters | None = None  # of the open model; None if it is closed
    is_away: bool = False  # in the CPU's memory
    teachers: set[int] = field(default_factory=set)
    undone: set[int] = field(default_factory=set)


class Bases:
    """The open models of one recipe's teachers.

    Args:
        free: How many bytes a place can take; None if nobody can tell.
    """

    def __init__(self, *, free: Callable[[Place], int | None] = Place.free_bytes) -> None:
        self._free = free
        self._shared: dict[Base, _Shared] = {}  # the one that was used last stands last
        self.n_opened = 0

    @property
    def open(self) -> list[Base]:
        """Models in memory, the one that was used last at the end."""
        return [base for base, shared in self._shared.items() if shared.adapters is not None]

    def lease(
        self, base: Base, *, teacher_id: str, adapter: AdapterFolder | None = None, off_load: OffLoad = "auto"
    ) -> "Lease":
        """Let a teacher speak through a model, alone or with others.

        Raises:
            MashbillError: Others want the model to be treated otherwise, or it cannot be moved.
        """
        shared = self._shared.setdefault(base, _Shared(base, off_load))
        if off_load == "cpu" and not base.place.can_move:
            raise MashbillError(
                f"off_load=cpu moves nothing: teacher `{teacher_id}` runs on {base.place.kind}",
                where=f"teachers.{teacher_id}",
                help="use `drop` to have one model in memory at a time, or name the `device` to move it from",
            )
        if shared.off_load != off_load:
            raise MashbillError(
                f"off_load={off_load} of teacher `{teacher_id}` differs from that of another on the same model: "
                f"{shared.off_load}",
                where=f"teachers.{teacher_id}",
                why="they share it in memory",
                help="give them the same `off_load`",
            )
        number = len(shared.teachers)
        shared.teachers.add(number)
        return Lease(self, shared.base, number, teacher_id, adapter)

    def speaking(self, lease: "Lease") -> Any:
        """Return a teacher's model with its own adapter, opened if need be; others make room by their policies.

        Raises:
            MashbillError: It cannot be opened, or the adapter does not fit.
        """
        shared = self._shared.pop(lease.base)
        self._shared[lease.base] = shared
        self._make_room(shared)
        if shared.adapters is None:
            base = shared.base
            model = open_model(
                base.auto_class, base.folder, teacher_id=lease.teacher_id, dtype=base.dtype, place=base.place
            )
            shared.adapters, self.n_opened = Adapters(model), self.n_opened + 1
            shared.undone = set(shared.teachers)
        elif shared.is_away:
            shared.adapters.model.to(shared.base.place.device)
        shared.is_away = False
        shared.undone.add(lease.number)
        try:
            shared.adapters.select(lease.adapter, teacher_id=lease.teacher_id)
        except MashbillError:
            _close(shared)  # half an adapter may be left in it
            raise
        return shared.adapters.model

    def done(self, lease: "Lease") -> None:
        """Close a teacher's model if no other teacher still needs it."""
        shared = self._shared[lease.base]
        shared.undone.discard(lease.number)
        if not shared.undone and shared.adapters is not None:
            _close(shared)

    def _make_room(self, wanted: _Shared) -> None:
        others = [one for one in self._shared.values() if one is not wanted and one.adapters is not None]
        for one in others:
            if one.off_load == "drop":
                _close(one)
            elif one.off_load == "cpu" and not one.is_away:
                _put_away(one)
        if wanted.adapters is not None and not wanted.is_away:
            return
        place = wanted.base.place
        for one in others:  # the one that has waited longest goes first
            if one.off_load != "auto" or one.adapters is None or not _is_in_the_way(one, place):
                continue
            if (self._free(place) or 0) >= ROOM * wanted.base.n_bytes:
                return
            if one.base.place.can_move and not one.is_away and (self._free(Place()) or 0) >= ROOM * one.base.n_bytes:
                _put_away(one)
            else:
                _close(one)


@dataclass(frozen=True)
class Lease:
    """One teacher's right to speak through a model.

    Attributes:
        bases: Where the model is.
        base: Which it is.
        number: Of the teacher among those on it.
        teacher_id: For messages.
        adapter: What makes it this teacher; None for the model itself.
    """

    bases: Bases
    base: Base
    number: int
    teacher_id: str
    adapter: AdapterFolder | None

    @property
    def is_open(self) -> bool:
        """Whether the model is in memory."""
        return self.base in self.bases.open

    def model(self) -> Any:
        """Return the model, speaking as this teacher until another asks for it."""
        return self.bases.speaking(self)

    def done(self) -> None:
        """Say that this teacher has no more questions for now."""
        self.bases.done(self)

    def pins(self) -> dict[str, str]:
        """Return what identifies the teacher: the sha256 of the model, and of the adapter if it has one."""
        return {**self.base.folder.pins, **(self.adapter.pins if self.adapter else {})}


def model_folder(path: Path | str, gguf_file: str | None, *, is_trusted: bool) -> ModelFolder:
    """Return the folder at a path by its real name, so that two names of one folder are one model."""
    return ModelFolder(Path(path).resolve(), gguf_file, is_trusted)


def _is_in_the_way(shared: _Shared, place: Place) -> bool:
    """Say whether a model takes room where another is to go."""
    own = Place() if shared.is_away else shared.base.place
    if place.device_map is not None or own.device_map is not None:
        return True
    first, second = torch.device(own.device), torch.device(place.device)
    return first.type == second.type and (first.index is None or second.index in (None, first.index))


def _put_away(shared: _Shared) -> None:
    if shared.adapters is not None:
        shared.adapters.model.to("cpu")
        shared.is_away = True
    _collect()


def _close(shared: _Shared) -> None:
    shared.adapters, shared.is_away = None, False
    _collect()


def _collect() -> None:
    gc.collect()  # modules hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
